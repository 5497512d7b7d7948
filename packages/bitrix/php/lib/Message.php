<?php

declare(strict_types=1);

namespace Orderbridge;

/** A POST to the backend. */
final class Message
{
    /** @param array<string, string> $headers */
    private function __construct(
        public readonly string $path,
        public readonly string $body,
        public readonly array $headers,
        public readonly ?int $version,
    ) {
    }

    /** With the secret in `X-Webhook-Secret` and the hex HMAC-SHA256 of the body in `X-Webhook-Signature`. */
    public static function json(string $path, array $values, string $secret, int $version): self
    {
        $body = json_encode($values, JSON_THROW_ON_ERROR | JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES);
        return new self($path, $body, [
            'Content-Type' => 'application/json',
            'X-Webhook-Secret' => $secret,
            'X-Webhook-Signature' => hash_hmac('sha256', $body, $secret),
        ], $version);
    }

    public static function form(string $path, array $values): self
    {
        return new self($path, http_build_query($values), ['Content-Type' => 'application/x-www-form-urlencoded'], null);
    }

    public static function instant(int $ms): string
    {
        return gmdate('Y-m-d\TH:i:s', intdiv($ms, 1000)) . sprintf('.%03dZ', $ms % 1000);
    }
}
