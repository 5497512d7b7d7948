<?php

// Скопируйте в config.php. Лишние разделы удалите: «orders» и «products» нужны на сайте, «deals» — на коробочном портале.
return [
    'backendUrl' => 'https://backend.example',
    // Общий секрет: значение WEBHOOK_SECRET на стороне backend.
    'webhookSecret' => '',
    // Папка вне корня сайта; пользователь веб-сервера и cron должны иметь право записи.
    'dataDir' => '/home/bitrix/orderbridge',
    'orders' => true,
    'products' => [
        // Инфоблоки товаров и торговых предложений.
        'iblockIds' => [5],
        'priceTypeId' => 1,
        'currency' => 'KZT',
        // Значение BITRIX_SITE_TOKEN на стороне backend; на время замены — список из старого и нового.
        'siteToken' => '',
    ],
    'deals' => [
        // Значение BITRIX_APPLICATION_TOKEN на стороне backend.
        'applicationToken' => '',
        // Изменения других полей сделки не передаются.
        'fields' => ['STAGE_ID', 'CATEGORY_ID', 'UF_CRM_ORDER_ID'],
    ],
];
