<?php

declare(strict_types=1);

namespace Orderbridge;

/**
 * Entities whose change has to be told, one file each: many changes of one entity are told once. It holds no values;
 * they are read when they are sent, so that what is told last is what is true.
 *
 * A row: `{kind, id, event, mark, markedAtMs, dueAtMs, attempts}`.
 */
final class Outbox
{
    /** A hit may not have committed what it noted yet: others read the entity only when that is surely over. */
    private const GRACE_MS = 15_000;

    private readonly Folder $due;
    private readonly Folder $dead;

    /** @param \Closure(): int $nowMs */
    public function __construct(string $directory, private readonly \Closure $nowMs)
    {
        $this->due = new Folder("$directory/due");
        $this->dead = new Folder("$directory/dead");
    }

    /**
     * `$event` is what the receiver is told of the change, where it wants to know. The hit that changed the entity marks it
     * again, `$isCommitted`, at its end; when it dies before, the first mark becomes due by itself.
     */
    public function mark(string $kind, string $id, string $event = '', bool $isCommitted = false): void
    {
        $now = ($this->nowMs)();
        $row = ['kind' => $kind, 'id' => $id, 'event' => $event, 'mark' => bin2hex(random_bytes(8))];
        $row += ['markedAtMs' => $now, 'dueAtMs' => $now + ($isCommitted ? 0 : self::GRACE_MS), 'attempts' => 0];
        $this->due->locked('outbox', fn () => $this->due->write("$kind-$id.json", $row));
    }

    /** @return list<array> What is due, the oldest mark first. */
    public function due(): array
    {
        $now = ($this->nowMs)();
        $rows = array_filter(array_map(fn (string $name) => $this->due->read($name) ?? self::lost($name, $now), $this->due->names()));
        $rows = array_filter($rows, fn (array $row) => $row['dueAtMs'] <= $now);
        usort($rows, fn (array $left, array $right) => $left['markedAtMs'] <=> $right['markedAtMs']);
        return $rows;
    }

    /** A file that a power failure left empty still says by its name which entity changed. */
    private static function lost(string $name, int $now): ?array
    {
        if (preg_match('/^([a-z]+)-(.+)\.json$/D', $name, $parts) !== 1) {
            return null;
        }
        $row = ['kind' => $parts[1], 'id' => $parts[2], 'event' => '', 'mark' => null];
        return $row + ['markedAtMs' => $now, 'dueAtMs' => $now, 'attempts' => 0];
    }

    public function done(array $row): void
    {
        $this->replace($row, fn (string $name) => $this->due->remove($name));
    }

    public function postpone(array $row, int $pauseMs): void
    {
        $row['attempts']++;
        $row['dueAtMs'] = ($this->nowMs)() + $pauseMs;
        $this->replace($row, fn (string $name) => $this->due->write($name, $row));
    }

    /** Sets a row aside for a person. Moving its file back to `due` sends it again. */
    public function bury(array $row, string $reason): void
    {
        $this->replace($row, function (string $name) use ($row, $reason) {
            $this->dead->write($name, $row + ['reason' => $reason]);
            $this->due->remove($name);
        });
    }

    /** Unless the entity was marked again meanwhile: that mark stays. */
    private function replace(array $row, callable $change): void
    {
        $name = "{$row['kind']}-{$row['id']}.json";
        $this->due->locked('outbox', function () use ($name, $row, $change) {
            if (($this->due->read($name)['mark'] ?? null) === $row['mark']) {
                $change($name);
            }
        });
    }
}
