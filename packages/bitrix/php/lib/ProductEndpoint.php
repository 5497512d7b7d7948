<?php

declare(strict_types=1);

namespace Orderbridge;

/**
 * The backend's way to change a product: `PUT` with a bearer token and
 * `{id, name?, price?: "5000.00", currency?, enabled?, base?: {version}}`.
 *
 * 200 `{version}`; 409 `{current}` when the product is no longer as the backend last saw it (`base`), or when the site
 * itself put something else in the place of what was written; then the site's values hold. 401, 404, 405, 422 name what
 * is wrong. Without `base.version` the change is written whatever the product is.
 */
final class ProductEndpoint
{
    private const MAX_BYTES = 65_536;

    /** @param non-empty-list<string> $tokens in force; several while one is being replaced */
    public function __construct(
        private readonly Products $products,
        private readonly Versions $versions,
        private readonly Guard $guard,
        private readonly Folder $locks,
        private readonly array $tokens,
        private readonly string $currency,
    ) {
    }

    /** @return array{int, array} status and body */
    public function answer(string $method, string $authorization, string $body): array
    {
        if ($method !== 'PUT') {
            return [405, ['error' => 'use PUT']];
        }
        if (!$this->isAuthentic($authorization)) {
            return [401, ['error' => 'unauthorized']];
        }
        $request = strlen($body) > self::MAX_BYTES ? null : json_decode($body, true);
        if (!is_array($request)) {
            return [422, ['error' => 'body must be a JSON object of at most 64 KiB']];
        }
        $problem = self::problem($request);
        if ($problem !== null) {
            return [422, ['error' => $problem]];
        }
        $id = (int) $request['id'];
        // Two pushes of one product must not both pass the comparison.
        return $this->locks->locked("product-" . $id % 256, fn () => $this->change($id, $request));
    }

    private function change(int $id, array $request): array
    {
        $before = $this->products->current($id);
        if ($before === null) {
            return [404, ['error' => 'product not found']];
        }
        $base = $request['base']['version'] ?? null;
        if ($base !== null && (int) $base !== $before['version']) {
            return [409, ['current' => $before]];
        }
        $wanted = array_intersect_key($request, ['name' => true, 'enabled' => true]);
        if (isset($request['price'])) {
            $wanted += ['price' => $request['price'], 'currency' => $request['currency'] ?? $this->currency];
        }
        $change = array_filter($wanted, fn ($value, $key) => $value !== ($before[$key] ?? null), ARRAY_FILTER_USE_BOTH);
        if (isset($change['price']) || isset($change['currency'])) {
            $change = ['price' => $wanted['price'], 'currency' => $wanted['currency']] + $change;
        }
        if (isset($change['price']) && !isset($before['price']) && $this->products->hasRanges($id)) {
            return [422, ['error' => 'price is set by ranges of quantities on the site']];
        }
        if ($change === []) {
            return [200, ['version' => $before['version']]];
        }
        $this->guard->during(Products::KIND . ":$id", fn () => $this->products->write($id, $change));
        $after = $this->products->current($id);
        if ($after === null) {
            return [404, ['error' => 'product not found']];
        }
        foreach ($wanted as $field => $value) {
            if (($after[$field] ?? null) !== $value) {
                return [409, ['current' => $after]];
            }
        }
        $this->versions->tell(Products::KIND, (string) $id, $after['version']);
        return [200, ['version' => $after['version']]];
    }

    /** Every token is compared, so that the time does not tell which one was near. */
    private function isAuthentic(string $authorization): bool
    {
        $found = false;
        foreach ($this->tokens as $token) {
            $found = hash_equals("Bearer $token", $authorization) || $found;
        }
        return $found;
    }

    /** The first field that cannot be used, and what it should be. */
    private static function problem(array $request): ?string
    {
        $checks = [
            'id' => [fn ($value) => preg_match('/^[1-9]\d{0,15}$/D', is_int($value) || is_string($value) ? (string) $value : '') === 1, 'a positive whole number'],
            'name' => [fn ($value) => is_string($value) && preg_match('/^(?=.*\S).{1,255}$/Dsu', $value) === 1, 'text of 1 to 255 characters'],
            'price' => [fn ($value) => is_string($value) && preg_match('/^(0|[1-9]\d{0,12})\.\d\d$/D', $value) === 1, 'text such as 5000.00'],
            'currency' => [fn ($value) => is_string($value) && preg_match('/^[A-Z]{3}$/D', $value) === 1, 'a code such as KZT'],
            'enabled' => [is_bool(...), 'true or false'],
            'base' => [fn ($value) => is_array($value) && is_int($value['version'] ?? 0), '{"version": number}'],
        ];
        if (!isset($request['id'])) {
            return 'id is missing';
        }
        foreach ($checks as $field => [$fits, $form]) {
            if (isset($request[$field]) && !$fits($request[$field])) {
                return "$field must be $form";
            }
        }
        return null;
    }
}
