<?php

declare(strict_types=1);

namespace Orderbridge;

use Bitrix\Catalog\Model\Price;
use Bitrix\Iblock\ElementTable;
use Bitrix\Main\Application;
use Bitrix\Main\Event;
use Bitrix\Main\EventManager;
use Bitrix\Main\Loader;

/** Name, price and activity of products: what the site has, how it is changed, and telling the backend of it. */
final class Products
{
    public const KIND = 'product';
    private const PATH = '/api/v1/webhooks/product-sync';

    /** @param list<int> $iblockIds Products of other information blocks are left alone. */
    public function __construct(
        private readonly Versions $versions,
        private readonly string $webhookSecret,
        private readonly array $iblockIds,
        private readonly int $priceTypeId,
    ) {
    }

    /** @param callable(string $kind, string $id): void $mark */
    public function listen(EventManager $events, callable $mark): void
    {
        $element = function (array &$fields) use ($mark) {
            $id = (int) ($fields['ID'] ?? 0);
            if ($id > 0 && ($fields['RESULT'] ?? true) && in_array((int) ($fields['IBLOCK_ID'] ?? 0), $this->iblockIds, true)) {
                $mark(self::KIND, (string) $id);
            }
        };
        foreach (['OnAfterIBlockElementAdd', 'OnAfterIBlockElementUpdate'] as $name) {
            $events->addEventHandlerCompatible('iblock', $name, $element);
        }
        $price = function (Event $event) use ($mark) {
            $productId = $this->productOfPrice((array) $event->getParameter('fields'), $event->getParameter('id'));
            if ($productId > 0) {
                $mark(self::KIND, (string) $productId);
            }
        };
        foreach (['OnAfterAdd', 'OnAfterUpdate'] as $name) {
            $events->addEventHandler('catalog', "Bitrix\\Catalog\\Model\\Price::$name", $price);
        }
    }

    /** The product as it is now; `null` when it is gone, is none of ours, or the backend knows it so. */
    public function message(array $row): ?Message
    {
        $current = $this->current((int) $row['id']);
        if ($current === null || $this->versions->isTold(self::KIND, $row['id'], $current['version'])) {
            return null;
        }
        $values = ['id' => (int) $row['id']] + $current + ['changed_at' => Message::instant($row['markedAtMs'])];
        return Message::json(self::PATH, $values, $this->webhookSecret, $current['version']);
    }

    /** @return array{name: string, enabled: bool, price?: string, currency?: string, version: int}|null */
    public function current(int $id): ?array
    {
        return $this->versions->read(self::KIND, (string) $id, fn () => $this->values($id));
    }

    /**
     * Writes what is given, all of it or nothing.
     *
     * @param array{name?: string, enabled?: bool, price?: string, currency?: string} $change
     */
    public function write(int $id, array $change): void
    {
        $fields = isset($change['name']) ? ['NAME' => $change['name']] : [];
        $fields += isset($change['enabled']) ? ['ACTIVE' => $change['enabled'] ? 'Y' : 'N'] : [];
        $connection = Application::getConnection();
        $connection->startTransaction();
        try {
            if ($fields !== []) {
                $element = new \CIBlockElement();
                if (!$element->Update($id, $fields)) {
                    throw new \RuntimeException("product $id was not saved: " . strip_tags((string) $element->LAST_ERROR));
                }
            }
            if (isset($change['price'])) {
                $this->writePrice($id, ['PRICE' => $change['price'], 'CURRENCY' => $change['currency']]);
            }
            $connection->commitTransaction();
        } catch (\Throwable $error) {
            $connection->rollbackTransaction();
            throw $error;
        }
    }

    private function writePrice(int $id, array $fields): void
    {
        $price = $this->price($id);
        $result = $price === null
            ? Price::add(['PRODUCT_ID' => $id, 'CATALOG_GROUP_ID' => $this->priceTypeId] + $fields)
            : Price::update((int) $price['ID'], $fields);
        if (!$result->isSuccess()) {
            throw new \RuntimeException("price of product $id was not saved: " . implode('; ', $result->getErrorMessages()));
        }
    }

    private function values(int $id): ?array
    {
        $element = $this->element($id);
        if ($element === null) {
            return null;
        }
        $values = ['name' => (string) $element['NAME'], 'enabled' => $element['ACTIVE'] === 'Y'];
        $price = $this->price($id);
        return $price === null
            ? $values
            : $values + ['price' => self::decimal($price['PRICE']), 'currency' => (string) $price['CURRENCY']];
    }

    private function element(int $id): ?array
    {
        Loader::includeModule('iblock');
        $element = ElementTable::getRow(['select' => ['IBLOCK_ID', 'NAME', 'ACTIVE'], 'filter' => ['=ID' => $id]]);
        return $element !== null && in_array((int) $element['IBLOCK_ID'], $this->iblockIds, true) ? $element : null;
    }

    /** The price for any quantity; prices for ranges of quantities are never touched. */
    private function price(int $id): ?array
    {
        Loader::includeModule('catalog');
        $filter = ['=PRODUCT_ID' => $id, '=CATALOG_GROUP_ID' => $this->priceTypeId];
        $filter += ['=QUANTITY_FROM' => null, '=QUANTITY_TO' => null];
        $select = ['ID', 'PRICE', 'CURRENCY'];
        return Price::getList(['select' => $select, 'filter' => $filter, 'order' => ['ID' => 'ASC']])->fetch() ?: null;
    }

    /** Whether the product has prices of this type for ranges of quantities: a plain one beside them would contradict them. */
    public function hasRanges(int $id): bool
    {
        Loader::includeModule('catalog');
        $filter = ['=PRODUCT_ID' => $id, '=CATALOG_GROUP_ID' => $this->priceTypeId];
        $rows = Price::getList(['select' => ['QUANTITY_FROM', 'QUANTITY_TO'], 'filter' => $filter]);
        while ($row = $rows->fetch()) {
            if (isset($row['QUANTITY_FROM']) || isset($row['QUANTITY_TO'])) {
                return true;
            }
        }
        return false;
    }

    /** The event of an update may hold changed fields only. */
    private function productOfPrice(array $fields, mixed $priceId): int
    {
        if (!isset($fields['PRODUCT_ID'])) {
            $query = ['select' => ['PRODUCT_ID'], 'filter' => ['=ID' => (int) $priceId]];
            $fields = Price::getList($query)->fetch() ?: [];
        }
        return (int) ($fields['PRODUCT_ID'] ?? 0);
    }

    /** `4500`, `4500.5`, `4500.5000` or a float to `4500.50`; digits after the second are rounded. */
    private static function decimal(mixed $price): string
    {
        if (is_string($price) && preg_match('/^(\d+)(?:\.(\d{1,2})0*)?$/D', $price, $parts) === 1) {
            return $parts[1] . '.' . str_pad($parts[2] ?? '', 2, '0');
        }
        return number_format((float) $price, 2, '.', '');
    }
}
