<?php

declare(strict_types=1);

namespace Orderbridge;

/** The error log of PHP. Lines hold neither secrets nor customers' data. */
final class Log
{
    public static function write(string $line): void
    {
        error_log("[orderbridge] $line");
    }
}
