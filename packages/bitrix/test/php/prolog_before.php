<?php

// Stands for the framework's own prologue: loads the classes, then the site's init.php, and runs the background jobs last.
require_once __DIR__ . '/framework.php';
register_shutdown_function(fn () => \Bitrix\Main\Application::getInstance()->terminate());
require_once $_SERVER['DOCUMENT_ROOT'] . '/local/php_interface/init.php';
