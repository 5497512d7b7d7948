<?php

declare(strict_types=1);

namespace Orderbridge;

use Bitrix\Main\Web\HttpClient;

/** Sends what the outbox holds, one process at a time, until the backend answers 200. */
final class Sender
{
    private const FIRST_PAUSE_MS = 30_000;
    /** A backend that is back should not be kept waiting; an order that it does not know may. */
    private const LONGEST_PAUSE_MS = 600_000;
    private const LONGEST_PAUSE_UNKNOWN_MS = 6 * 3_600_000;
    /** An order that the backend does not know after so long is none of its orders. */
    private const GIVE_UP_AFTER_MS = 7 * 24 * 3_600_000;

    /**
     * @param array<string, Orders|Products|Deals> $senders by kind
     * @param \Closure(): int $nowMs
     */
    public function __construct(
        private readonly string $backendUrl,
        private readonly Outbox $outbox,
        private readonly Versions $versions,
        private readonly array $senders,
        private readonly Folder $locks,
        private readonly \Closure $nowMs,
    ) {
    }

    /**
     * Sends what is due until nothing is, the time is over, or the backend cannot be reached.
     *
     * @return int rows sent; 0 as well while another process sends
     */
    public function run(int $limitMs): int
    {
        return $this->locks->locked('sender', fn () => $this->send(hrtime(true) + $limitMs * 1_000_000), wait: false) ?? 0;
    }

    private function send(int $endNs): int
    {
        $sent = 0;
        while (($rows = $this->outbox->due()) !== []) {
            foreach ($rows as $row) {
                if (hrtime(true) > $endNs) {
                    return $sent;
                }
                $status = $this->deliver($row);
                if ($status === 0) {
                    return $sent;
                }
                $sent += $status === 200 ? 1 : 0;
            }
        }
        return $sent;
    }

    /** @return int|null the status; 0 without an answer, `null` when there was nothing to tell */
    private function deliver(array $row): ?int
    {
        $name = "{$row['kind']} {$row['id']}";
        try {
            $sender = $this->senders[$row['kind']] ?? throw new \RuntimeException("$name is not switched on in config.php");
            $message = $sender->message($row);
        } catch (\Throwable $error) {
            Log::write("$name cannot be read: " . $error->getMessage());
            $this->later($row, 'cannot be read', self::LONGEST_PAUSE_UNKNOWN_MS);
            return null;
        }
        if ($message === null) {
            $this->outbox->done($row);
            return null;
        }
        $status = $this->post($message);
        if ($status === 200) {
            if ($message->version !== null) {
                $this->versions->tell($row['kind'], $row['id'], $message->version);
            }
            $this->outbox->done($row);
            return $status;
        }
        Log::write("$name: the backend answered " . ($status === 0 ? 'nothing' : $status));
        if ($status === 400 || $status === 422) {
            $this->outbox->bury($row, "answered $status");
        } else {
            $this->later($row, "answered $status", $status === 404 ? self::LONGEST_PAUSE_UNKNOWN_MS : self::LONGEST_PAUSE_MS);
        }
        return $status;
    }

    private function later(array $row, string $reason, int $longestMs): void
    {
        if (($this->nowMs)() - $row['markedAtMs'] > self::GIVE_UP_AFTER_MS) {
            $this->outbox->bury($row, $reason);
            return;
        }
        $this->outbox->postpone($row, min($longestMs, self::FIRST_PAUSE_MS * 2 ** min($row['attempts'], 20)));
    }

    private function post(Message $message): int
    {
        $client = new HttpClient(['redirect' => false, 'socketTimeout' => 5, 'streamTimeout' => 10]);
        foreach ($message->headers as $header => $value) {
            $client->setHeader($header, $value);
        }
        return $client->query('POST', $this->backendUrl . $message->path, $message->body) ? (int) $client->getStatus() : 0;
    }
}
