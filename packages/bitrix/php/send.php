<?php

/** For cron, once a minute: `php /…/local/php_interface/orderbridge/send.php`. Sends what has not got through yet. */

declare(strict_types=1);

if (PHP_SAPI !== 'cli') {
    http_response_code(404);
    exit;
}
$_SERVER['DOCUMENT_ROOT'] = dirname(__DIR__, 3);
define('NO_KEEP_STATISTIC', true);
define('NOT_CHECK_PERMISSIONS', true);
define('NO_AGENT_CHECK', true);
require $_SERVER['DOCUMENT_ROOT'] . '/bitrix/modules/main/include/prolog_before.php';

$bridge = class_exists(\Orderbridge\Bridge::class, false) ? \Orderbridge\Bridge::instance() : null;
if ($bridge === null) {
    fwrite(STDERR, "orderbridge is not started: see the error log of PHP\n");
    exit(1);
}
echo 'sent: ' . $bridge->sender->run(50_000) . "\n";
