<?php

declare(strict_types=1);

namespace Orderbridge;

use Bitrix\Main\Event;
use Bitrix\Main\EventManager;

/**
 * Tells the backend of deals of a boxed portal in the form of Bitrix24's own events, but until it is answered, and of moves
 * to another funnel as well, which no outgoing webhook sends.
 */
final class Deals
{
    public const KIND = 'deal';
    private const PATH = '/bitrix/events';
    private const FIELDS = ['STAGE_ID', 'CATEGORY_ID', 'UF_CRM_ORDER_ID'];

    /** @param list<string> $fields Changes of other fields are not told. */
    public function __construct(private readonly string $applicationToken, private readonly array $fields = self::FIELDS)
    {
    }

    /** @param callable(string $kind, string $id, string $event): void $mark */
    public function listen(EventManager $events, callable $mark): void
    {
        $tell = function (mixed $id, string $event) use ($mark) {
            if ((int) $id > 0) {
                $mark(self::KIND, (string) (int) $id, $event);
            }
        };
        $events->addEventHandlerCompatible('crm', 'OnAfterCrmDealAdd', function (array &$fields) use ($tell) {
            $tell($fields['ID'] ?? 0, 'ONCRMDEALADD');
        });
        $events->addEventHandlerCompatible('crm', 'OnAfterCrmDealUpdate', function (array &$fields) use ($tell) {
            if (array_intersect($this->fields, array_keys($fields)) !== []) {
                $tell($fields['ID'] ?? 0, 'ONCRMDEALUPDATE');
            }
        });
        $events->addEventHandlerCompatible('crm', 'OnAfterCrmDealDelete', function (mixed $id) use ($tell) {
            $tell($id, 'ONCRMDEALDELETE');
        });
        $events->addEventHandler('crm', 'OnAfterDealMoveToCategory', function (Event $event) use ($tell) {
            $tell($event->getParameter('id'), 'ONCRMDEALMOVETOCATEGORY');
        });
    }

    public function message(array $row): Message
    {
        return Message::form(self::PATH, [
            'event' => $row['event'] === '' ? 'ONCRMDEALUPDATE' : $row['event'],
            'data' => ['FIELDS' => ['ID' => $row['id']]],
            'ts' => intdiv($row['markedAtMs'], 1000),
            'auth' => ['application_token' => $this->applicationToken],
        ]);
    }
}
