<?php

/** Required by `/local/php_interface/init.php` on every hit: starts the bridge. The site goes on when it cannot start. */

declare(strict_types=1);

foreach (['Log', 'Guard', 'Folder', 'Outbox', 'Versions', 'Message', 'Orders', 'Products', 'ProductEndpoint', 'Deals', 'Sender', 'Bridge'] as $name) {
    require_once __DIR__ . "/lib/$name.php";
}

try {
    \Orderbridge\Bridge::start(require __DIR__ . '/config.php');
} catch (\Throwable $error) {
    \Orderbridge\Log::write('not started: ' . $error->getMessage());
}
