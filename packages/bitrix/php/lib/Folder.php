<?php

declare(strict_types=1);

namespace Orderbridge;

/** A folder of small JSON files that survive a crash at any point: a file is whole or absent. */
final class Folder
{
    public function __construct(private readonly string $path)
    {
    }

    /** @return list<string> Names of the files, in no order that means anything. */
    public function names(): array
    {
        $names = is_dir($this->path) ? scandir($this->path) : [];
        return array_values(array_filter($names ?: [], fn (string $name) => str_ends_with($name, '.json')));
    }

    /** `null` for a file that is absent or not readable as JSON. */
    public function read(string $name): ?array
    {
        $text = is_file("$this->path/$name") ? @file_get_contents("$this->path/$name") : false;
        $value = $text === false ? null : json_decode($text, true);
        return is_array($value) ? $value : null;
    }

    public function write(string $name, array $value): void
    {
        $target = "$this->path/$name";
        $this->create(dirname($target));
        $temporary = $target . '.' . bin2hex(random_bytes(6)) . '.tmp';
        $text = json_encode($value, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE);
        if (@file_put_contents($temporary, $text) !== strlen($text) || !@rename($temporary, $target)) {
            @unlink($temporary);
            throw new \RuntimeException('orderbridge: dataDir cannot be written to');
        }
    }

    public function remove(string $name): void
    {
        // Else it would be taken for a new one without end.
        if (!@unlink("$this->path/$name") && file_exists("$this->path/$name")) {
            throw new \RuntimeException('orderbridge: dataDir cannot be written to');
        }
    }

    /** Runs `$work` while no other process holds the lock; `$wait` false: gives `null` at once when one does. */
    public function locked(string $name, callable $work, bool $wait = true): mixed
    {
        $this->create($this->path);
        $file = @fopen("$this->path/$name.lock", 'c');
        if ($file === false) {
            throw new \RuntimeException('orderbridge: dataDir cannot be written to');
        }
        try {
            if (flock($file, $wait ? LOCK_EX : LOCK_EX | LOCK_NB)) {
                return $work();
            }
            return $wait ? throw new \RuntimeException('orderbridge: dataDir cannot be locked; it must lie on a local disk') : null;
        } finally {
            fclose($file);
        }
    }

    private function create(string $path): void
    {
        if (!is_dir($path) && !@mkdir($path, 0770, true) && !is_dir($path)) {
            throw new \RuntimeException('orderbridge: dataDir cannot be written to');
        }
    }
}
