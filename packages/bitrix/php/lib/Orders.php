<?php

declare(strict_types=1);

namespace Orderbridge;

use Bitrix\Main\Event;
use Bitrix\Main\EventManager;
use Bitrix\Main\Loader;
use Bitrix\Sale\Order;

/** Tells the backend of an order's status, payment and cancellation. */
final class Orders
{
    public const KIND = 'order';
    private const PATH = '/api/v1/webhooks/order-status-sync';

    public function __construct(private readonly Versions $versions, private readonly string $webhookSecret)
    {
    }

    /** @param callable(string $kind, string $id): void $mark */
    public function listen(EventManager $events, callable $mark): void
    {
        foreach (['OnSaleOrderSaved', 'OnSaleOrderPaid', 'OnSaleOrderCanceled'] as $name) {
            $events->addEventHandler('sale', $name, function (Event $event) use ($mark) {
                $order = $event->getParameter('ENTITY');
                if ($order instanceof Order && (int) $order->getId() > 0) {
                    $mark(self::KIND, (string) $order->getId());
                }
            });
        }
    }

    /** The order as it is now; `null` when it is gone or the backend knows it so. */
    public function message(array $row): ?Message
    {
        $id = (int) $row['id'];
        $values = $this->versions->read(self::KIND, $row['id'], fn () => self::values($id));
        if ($values === null || $this->versions->isTold(self::KIND, $row['id'], $values['version'])) {
            return null;
        }
        // The version is its own time: a state that is told again must not look younger than it is.
        $body = ['order_id' => $id] + $values + ['changed_at' => Message::instant($values['version'])];
        return Message::json(self::PATH, $body, $this->webhookSecret, $values['version']);
    }

    private static function values(int $id): ?array
    {
        Loader::includeModule('sale');
        $order = Order::load($id);
        return $order === null ? null : [
            'status' => (string) $order->getField('STATUS_ID'),
            'paid' => $order->isPaid(),
            'canceled' => $order->isCanceled(),
        ];
    }
}
