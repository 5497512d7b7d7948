<?php

declare(strict_types=1);

namespace Orderbridge;

/**
 * Keeps a change that came from the backend from being told back to it. Keyed by entity, so that other orders saved
 * meanwhile are still told.
 */
final class Guard
{
    /** @var array<string, int> */
    private array $depths = [];

    /** Runs `$work`; changes of `$entity` (`order:17`, `product:5`, `deal:9`) that it makes are not told. */
    public function during(string $entity, callable $work): mixed
    {
        $this->depths[$entity] = ($this->depths[$entity] ?? 0) + 1;
        try {
            return $work();
        } finally {
            if (--$this->depths[$entity] === 0) {
                unset($this->depths[$entity]);
            }
        }
    }

    public function holds(string $entity): bool
    {
        return isset($this->depths[$entity]);
    }
}
