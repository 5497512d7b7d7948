<?php

// The classes of the framework that the drop-ins use, on one JSON file instead of a database. Written from the vendor's
// documentation (dev.1c-bitrix.ru, read 2026-08), not from the drop-ins.

namespace Bitrix\Main {
    class Loader
    {
        public static function includeModule(string $module): bool
        {
            return in_array($module, ['sale', 'catalog', 'iblock', 'crm'], true);
        }
    }

    class Event
    {
        public function __construct(private string $module, private string $type, private array $parameters = [])
        {
        }

        public function getParameter($key): mixed
        {
            return $this->parameters[$key] ?? null;
        }

        public function send(): void
        {
            foreach (EventManager::getInstance()->handlers($this->module, $this->type) as [$callback, $isCompatible]) {
                $isCompatible ? $callback(...array_values($this->parameters)) : $callback($this);
            }
        }
    }

    class EventManager
    {
        private static ?self $instance = null;
        private array $handlers = [];

        public static function getInstance(): self
        {
            return self::$instance ??= new self();
        }

        public function addEventHandler($module, $event, $callback, $includeFile = false, $sort = 100): int
        {
            $this->handlers[strtolower("$module $event")][] = [$callback, false];
            return count($this->handlers);
        }

        public function addEventHandlerCompatible($module, $event, $callback, $includeFile = false, $sort = 100): int
        {
            $this->handlers[strtolower("$module $event")][] = [$callback, true];
            return count($this->handlers);
        }

        public function handlers(string $module, string $event): array
        {
            return $this->handlers[strtolower("$module $event")] ?? [];
        }
    }

    class Application
    {
        private static ?self $instance = null;
        private array $jobs = [];

        public static function getInstance(): self
        {
            return self::$instance ??= new self();
        }

        public static function getConnection(): DB\Connection
        {
            return new DB\Connection();
        }

        public function addBackgroundJob(callable $job, array $arguments = [], $priority = 100): self
        {
            $this->jobs[] = [$job, $arguments];
            return $this;
        }

        /** What happens after the answer to the browser. */
        public function terminate(): void
        {
            while ([$job, $arguments] = array_shift($this->jobs)) {
                $job(...$arguments);
            }
        }
    }
}

namespace Bitrix\Main\DB {
    class Connection
    {
        private static ?array $before = null;

        public function startTransaction(): void
        {
            self::$before = \Site::read();
        }

        public function commitTransaction(): void
        {
            self::$before = null;
        }

        public function rollbackTransaction(): void
        {
            \Site::write(self::$before);
        }
    }
}

namespace Bitrix\Main\Web {
    class HttpClient
    {
        private array $headers = [];
        private int $status = 0;

        public function __construct(private array $options = [])
        {
        }

        public function setHeader($name, $value, $replace = true): self
        {
            $this->headers[] = "$name: $value";
            return $this;
        }

        public function query($method, $url, $entityBody = null): bool
        {
            $http = ['method' => $method, 'header' => $this->headers, 'content' => $entityBody, 'ignore_errors' => true];
            $http += ['follow_location' => (int) ($this->options['redirect'] ?? true), 'timeout' => $this->options['streamTimeout'] ?? 60];
            $answer = @file_get_contents($url, false, stream_context_create(['http' => $http]));
            $this->status = $answer === false ? 0 : (int) explode(' ', $http_response_header[0])[1];
            return $answer !== false;
        }

        public function getStatus(): int
        {
            return $this->status;
        }
    }
}

namespace Bitrix\Sale {
    class Order
    {
        private array $before;

        private function __construct(private int $id, private array $fields)
        {
            $this->before = $fields;
        }

        public static function load($id): ?self
        {
            $fields = \Site::read()['orders'][$id] ?? null;
            return $fields === null ? null : new self((int) $id, $fields);
        }

        public function getId(): int
        {
            return $this->id;
        }

        public function getField($name): mixed
        {
            return $this->fields[$name] ?? null;
        }

        public function setField($name, $value): void
        {
            $this->fields[$name] = $value;
        }

        public function isPaid(): bool
        {
            return $this->fields['PAYED'] === 'Y';
        }

        public function isCanceled(): bool
        {
            return $this->fields['CANCELED'] === 'Y';
        }

        /** `OnSaleOrderPaid` comes in either direction; `OnSaleOrderSaved` last, also when nothing changed. */
        public function save(): void
        {
            \Site::change(function (array $site) {
                $site['orders'][$this->id] = $this->fields;
                return $site;
            });
            $changed = fn (string $name) => $this->fields[$name] !== $this->before[$name];
            $events = array_filter(['OnSaleOrderPaid' => $changed('PAYED'), 'OnSaleOrderCanceled' => $changed('CANCELED')]);
            foreach (array_keys($events + ['OnSaleOrderSaved' => true]) as $event) {
                $parameters = ['ENTITY' => $this, 'IS_NEW' => false, 'IS_CHANGED' => $this->fields !== $this->before, 'VALUES' => []];
                (new \Bitrix\Main\Event('sale', $event, $parameters))->send();
            }
            $this->before = $this->fields;
        }
    }
}

namespace Bitrix\Iblock {
    class ElementTable
    {
        public static function getRow(array $parameters): ?array
        {
            $id = $parameters['filter']['=ID'];
            $product = \Site::read()['products'][$id] ?? null;
            return $product === null ? null : array_intersect_key($product, array_flip($parameters['select']));
        }
    }
}

namespace Bitrix\Catalog\Model {
    class Rows
    {
        public function __construct(private array $rows)
        {
        }

        public function fetch(): array|false
        {
            return array_shift($this->rows) ?? false;
        }
    }

    class Result
    {
        public function __construct(private array $errors = [])
        {
        }

        public function isSuccess(): bool
        {
            return $this->errors === [];
        }

        public function getErrorMessages(): array
        {
            return $this->errors;
        }
    }

    class Price
    {
        public static function getList(array $parameters): Rows
        {
            $matches = function (array $row) use ($parameters) {
                foreach ($parameters['filter'] as $key => $value) {
                    if (($row[ltrim($key, '=')] ?? null) != $value) {
                        return false;
                    }
                }
                return true;
            };
            return new Rows(array_values(array_filter(\Site::read()['prices'], $matches)));
        }

        public static function add(array $fields): Result
        {
            return self::save(1 + max(0, ...array_column(\Site::read()['prices'], 'ID')), $fields, 'OnAfterAdd');
        }

        public static function update($id, array $fields): Result
        {
            return self::save($id, $fields, 'OnAfterUpdate');
        }

        /** The database gives prices with the decimals of its column. */
        private static function save(int $id, array $fields, string $event): Result
        {
            $site = \Site::read();
            if ($site['refusePrices'] ?? false) {
                return new Result(['Цена не сохранена']);
            }
            $row = ['PRICE' => sprintf('%.4F', $fields['PRICE'])] + $fields + ($site['prices'][$id] ?? ['ID' => $id]);
            $site['prices'][$id] = $row;
            \Site::write($site);
            $parameters = ['id' => $id, 'fields' => $fields];
            (new \Bitrix\Main\Event('catalog', "Bitrix\\Catalog\\Model\\Price::$event", $parameters))->send();
            return new Result();
        }
    }
}

namespace {
    /** The site's database. */
    class Site
    {
        public static function read(): array
        {
            return json_decode(file_get_contents(getenv('SITE_DATABASE')), true);
        }

        public static function write(array $site): void
        {
            // Whole at any moment, as a database is for another process.
            $file = getenv('SITE_DATABASE') . '.' . getmypid();
            file_put_contents($file, json_encode($site, JSON_UNESCAPED_UNICODE));
            rename($file, getenv('SITE_DATABASE'));
        }

        /** One process at a time: hits side by side do not undo each other's rows. */
        public static function change(callable $change): void
        {
            $lock = fopen(getenv('SITE_DATABASE') . '.lock', 'c');
            flock($lock, LOCK_EX);
            self::write($change(self::read()));
            fclose($lock);
        }
    }

    class CIBlockElement
    {
        public string $LAST_ERROR = '';

        public function Update($id, array $fields): bool
        {
            $site = Site::read();
            // An own handler of the shop that tidies names.
            if (isset($fields['NAME'])) {
                $fields['NAME'] = $site['rewrites'][$fields['NAME']] ?? str_replace('  ', ' ', $fields['NAME']);
            }
            $site['products'][$id] = $fields + $site['products'][$id];
            Site::write($site);
            $after = ['ID' => $id, 'IBLOCK_ID' => $site['products'][$id]['IBLOCK_ID'], 'RESULT' => true] + $fields;
            self::fire('iblock', 'OnAfterIBlockElementUpdate', $after);
            return true;
        }

        private static function fire(string $module, string $event, array $fields): void
        {
            foreach (\Bitrix\Main\EventManager::getInstance()->handlers($module, $event) as [$callback]) {
                $callback($fields);
            }
        }
    }

    class CCrmDeal
    {
        public function __construct(bool $checkPermissions = true)
        {
        }

        /** The event holds `ID` and the changed fields. */
        public function Update($id, array &$fields): bool
        {
            $fields['ID'] = $id;
            foreach (\Bitrix\Main\EventManager::getInstance()->handlers('crm', 'OnAfterCrmDealUpdate') as [$callback]) {
                $callback($fields);
            }
            return true;
        }
    }
}
