<?php

/** Required by `/local/php_interface/init.php` on every hit: starts the bridge. The site goes on when it cannot start. */

declare(strict_types=1);

try {
    if (PHP_VERSION_ID < 80100) {
        throw new \RuntimeException('PHP 8.1 or newer is needed, this is ' . PHP_VERSION);
    }
    foreach (['Log', 'Guard', 'Folder', 'Outbox', 'Versions', 'Message', 'Orders', 'Products', 'ProductEndpoint', 'Deals', 'Sender', 'Bridge'] as $name) {
        require_once __DIR__ . "/lib/$name.php";
    }
    \Orderbridge\Bridge::start(require __DIR__ . '/config.php');
} catch (\Throwable $error) {
    error_log('[orderbridge] not started: ' . $error->getMessage());
}
