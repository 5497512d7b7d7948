<?php

declare(strict_types=1);

namespace Orderbridge;

/**
 * Numbers the states of an entity: the same values keep their number, others get a greater one. A number is the time in
 * milliseconds, or one more than the last, so numbers grow on even when the files are lost. Changes that raise no
 * event (an import, SQL) are noticed at the next look.
 */
final class Versions
{
    private readonly Folder $states;

    /** @param \Closure(): int $nowMs */
    public function __construct(string $directory, private readonly \Closure $nowMs)
    {
        $this->states = new Folder("$directory/states");
    }

    /**
     * Reads the entity and numbers what it found, one reader at a time: else one that was slow would give older values the
     * greater number.
     *
     * @param callable(): ?array $read `null` for an entity that is gone
     * @return array|null the values with `version`
     */
    public function read(string $kind, string $id, callable $read): ?array
    {
        return $this->states->locked(self::bucket($kind, $id), function () use ($kind, $id, $read) {
            $values = $read();
            if ($values === null) {
                return null;
            }
            $hash = hash('sha256', json_encode($values, JSON_THROW_ON_ERROR));
            $state = $this->states->read(self::file($kind, $id));
            if ($state === null || $state['hash'] !== $hash) {
                $version = max(($this->nowMs)(), ($state['version'] ?? 0) + 1);
                $state = ['hash' => $hash, 'version' => $version, 'told' => $state['told'] ?? 0];
                $this->states->write(self::file($kind, $id), $state);
            }
            return $values + ['version' => $state['version']];
        });
    }

    /** The backend knows this version; an older one need not be sent. */
    public function tell(string $kind, string $id, int $version): void
    {
        $this->states->locked(self::bucket($kind, $id), function () use ($kind, $id, $version) {
            $state = $this->states->read(self::file($kind, $id));
            if ($state !== null && $state['told'] < $version) {
                $this->states->write(self::file($kind, $id), ['told' => $version] + $state);
            }
        });
    }

    public function isTold(string $kind, string $id, int $version): bool
    {
        return ($this->states->read(self::file($kind, $id))['told'] ?? 0) >= $version;
    }

    private static function file(string $kind, string $id): string
    {
        return self::bucket($kind, $id) . "/$kind-$id.json";
    }

    /** One of 256: a shop has many orders. */
    private static function bucket(string $kind, string $id): string
    {
        return substr(md5("$kind-$id"), 0, 2);
    }
}
