<?php

declare(strict_types=1);

namespace Orderbridge;

use Bitrix\Main\Application;
use Bitrix\Main\EventManager;

/** Wires the parts by `config.php`. */
final class Bridge
{
    private static ?self $instance = null;

    public readonly Guard $guard;
    public readonly Sender $sender;
    public readonly ?ProductEndpoint $productEndpoint;
    private readonly Outbox $outbox;
    /** @var array<string, array{string, string, string}> What this hit has noted. */
    private array $noted = [];

    /**
     * @param array $config see `config.example.php`
     * @param (\Closure(): int)|null $nowMs
     * @throws \InvalidArgumentException names the setting
     */
    public function __construct(array $config, ?\Closure $nowMs = null)
    {
        $nowMs ??= fn (): int => (int) floor(microtime(true) * 1000);
        $backendUrl = rtrim(self::text($config, 'backendUrl'), '/');
        if (preg_match('~^https?://[^/]~', $backendUrl) !== 1) {
            throw new \InvalidArgumentException('backendUrl must begin with https://');
        }
        $directory = rtrim(self::text($config, 'dataDir'), '/');
        $documentRoot = (string) realpath($_SERVER['DOCUMENT_ROOT'] ?? '');
        if ($documentRoot !== '' && str_starts_with((realpath($directory) ?: $directory) . '/', "$documentRoot/")) {
            throw new \InvalidArgumentException('dataDir must lie outside of the site\'s root');
        }
        $this->guard = new Guard();
        $this->outbox = new Outbox($directory, $nowMs);
        $versions = new Versions($directory, $nowMs);
        $locks = new Folder("$directory/locks");
        $senders = [];
        if ($config['orders'] ?? false) {
            $senders[Orders::KIND] = new Orders($versions, self::text($config, 'webhookSecret'));
        }
        $productEndpoint = null;
        if (isset($config['products'])) {
            $settings = $config['products'];
            $iblockIds = array_map(intval(...), $settings['iblockIds'] ?? []);
            $products = new Products($versions, self::text($config, 'webhookSecret'), $iblockIds, (int) ($settings['priceTypeId'] ?? 1));
            $senders[Products::KIND] = $products;
            $tokens = (array) ($settings['siteToken'] ?? []);
            foreach ($tokens === [] ? [''] : $tokens as $token) {
                self::text(['siteToken' => $token], 'siteToken');
            }
            $currency = $settings['currency'] ?? 'KZT';
            $productEndpoint = new ProductEndpoint($products, $versions, $this->guard, $locks, array_values($tokens), $currency);
        }
        if (isset($config['deals'])) {
            $fields = array_filter(['fields' => $config['deals']['fields'] ?? null]);
            $senders[Deals::KIND] = new Deals(self::text($config['deals'], 'applicationToken'), ...$fields);
        }
        $this->productEndpoint = $productEndpoint;
        $this->sender = new Sender($backendUrl, $this->outbox, $versions, $senders, $locks, $nowMs);
        foreach ($senders as $sender) {
            $sender->listen(EventManager::getInstance(), $this->mark(...));
        }
    }

    public static function start(array $config, ?\Closure $nowMs = null): self
    {
        return self::$instance = new self($config, $nowMs);
    }

    /** For code of the site's own: `Bridge::instance()?->guard->during('order:17', fn () => $order->save())`. */
    public static function instance(): ?self
    {
        return self::$instance;
    }

    /** Never throws: saving an order must not fail because of the backend. */
    private function mark(string $kind, string $id, string $event = ''): void
    {
        if ($this->guard->holds("$kind:$id")) {
            return;
        }
        try {
            $this->outbox->mark($kind, $id, $event);
            $isScheduled = $this->noted !== [];
            $this->noted["$kind:$id"] = [$kind, $id, $event];
            if (!$isScheduled) {
                // After the answer to the browser; what does not get through is sent by cron.
                Application::getInstance()->addBackgroundJob(fn () => $this->sendSoon());
            }
        } catch (\Throwable $error) {
            Log::write("$kind $id was not noted: " . $error->getMessage());
        }
    }

    private function sendSoon(): void
    {
        $noted = $this->noted;
        $this->noted = [];
        try {
            // Another process may have read what this hit had not committed yet.
            foreach ($noted as $row) {
                $this->outbox->mark(...$row, isCommitted: true);
            }
            $this->sender->run(10_000);
        } catch (\Throwable $error) {
            Log::write('sending failed: ' . $error->getMessage());
        }
    }

    private static function text(array $settings, string $name): string
    {
        $value = $settings[$name] ?? null;
        if (!is_string($value) || $value === '') {
            throw new \InvalidArgumentException("$name must be set");
        }
        return $value;
    }
}
