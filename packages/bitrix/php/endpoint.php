<?php

/** The product endpoint; `/api/v2/products/update-from-railway/index.php` of the site requires this file. */

declare(strict_types=1);

define('NO_KEEP_STATISTIC', true);
define('NOT_CHECK_PERMISSIONS', true);
define('NO_AGENT_CHECK', true);
require $_SERVER['DOCUMENT_ROOT'] . '/bitrix/modules/main/include/prolog_before.php';

try {
    $endpoint = class_exists(\Orderbridge\Bridge::class, false) ? \Orderbridge\Bridge::instance()?->productEndpoint : null;
    // Apache with PHP-FPM passes the header on under the second name.
    $authorization = $_SERVER['HTTP_AUTHORIZATION'] ?? $_SERVER['REDIRECT_HTTP_AUTHORIZATION'] ?? '';
    [$status, $answer] = $endpoint === null
        ? [503, ['error' => 'not switched on']]
        : $endpoint->answer($_SERVER['REQUEST_METHOD'], $authorization, (string) file_get_contents('php://input'));
} catch (\Throwable $error) {
    error_log('[orderbridge] ' . $error->getMessage());
    [$status, $answer] = [500, ['error' => 'not saved']];
}
http_response_code($status);
header('Content-Type: application/json; charset=utf-8');
if ($status === 405) {
    header('Allow: PUT');
}
echo json_encode($answer, JSON_UNESCAPED_UNICODE | JSON_INVALID_UTF8_SUBSTITUTE);
