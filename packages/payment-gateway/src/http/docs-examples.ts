/** A program that a reader copies; the tests run each one. */
export interface DocsExample {
  readonly language: string;
  /** Under `/docs/examples/`. */
  readonly file: string;
  readonly code: string;
}

export interface DocsExamples {
  readonly create: readonly DocsExample[];
  readonly verify: readonly DocsExample[];
}

/** Programs for the languages that need nothing installed beside themselves. */
export function createDocsExamples(publicUrl: string): DocsExamples {
  return {
    create: [
      { language: "curl", file: "create.sh", code: createCurl(publicUrl) },
      { language: "PHP", file: "create.php", code: createPhp(publicUrl) },
      { language: "JavaScript", file: "create.mjs", code: createJavaScript(publicUrl) },
      { language: "Python", file: "create.py", code: createPython(publicUrl) },
    ],
    verify: [
      { language: "curl", file: "verify.sh", code: verifyShell },
      { language: "PHP", file: "verify.php", code: verifyPhp },
      { language: "JavaScript", file: "verify.mjs", code: verifyJavaScript },
      { language: "Python", file: "verify.py", code: verifyPython },
    ],
  };
}

const createCurl = (publicUrl: string): string => `# API_TOKEN=… sh create.sh
# A key is one payment: sent again it gives the same answer. Count it up once that payment has expired or was cancelled.
curl --fail-with-body --silent --show-error '${publicUrl}/api/payment/init' \\
  -H "X-API-Token: $API_TOKEN" \\
  -H 'Idempotency-Key: order-A-17-1' \\
  -H 'Content-Type: application/json' \\
  -d '{
    "amount": "5000.00",
    "currency": "KZT",
    "description": "Order A-17",
    "webhook_url": "https://shop.example/webhooks",
    "metadata": {"order_id": "A-17"}
  }'
`;

const createPhp = (publicUrl: string): string => `<?php
// API_TOKEN=… php create.php
$answer = file_get_contents('${publicUrl}/api/payment/init', false, stream_context_create(['http' => [
    'method' => 'POST',
    'header' => [
        'X-API-Token: ' . getenv('API_TOKEN'),
        'Idempotency-Key: order-A-17-1', // one payment; count it up once that has ended
        'Content-Type: application/json',
    ],
    'content' => json_encode([
        'amount' => '5000.00',
        'currency' => 'KZT',
        'description' => 'Order A-17',
        'webhook_url' => 'https://shop.example/webhooks',
        'metadata' => ['order_id' => 'A-17'],
    ]),
    'ignore_errors' => true,
]]));
$payment = json_decode($answer, true);
if (!$payment['success']) {
    fwrite(STDERR, $payment['detail'] . "\\n");
    exit(1);
}
echo $payment['data']['payment_url'], "\\n"; // send the payer there; keep transaction_id and webhook_secret
`;

const createJavaScript = (publicUrl: string): string => `// API_TOKEN=… node create.mjs
const answer = await fetch("${publicUrl}/api/payment/init", {
  method: "POST",
  headers: {
    "X-API-Token": process.env.API_TOKEN,
    "Idempotency-Key": "order-A-17-1", // one payment; count it up once that has ended
    "Content-Type": "application/json",
  },
  body: JSON.stringify({
    amount: "5000.00",
    currency: "KZT",
    description: "Order A-17",
    webhook_url: "https://shop.example/webhooks",
    metadata: { order_id: "A-17" },
  }),
});
const payment = await answer.json();
if (!payment.success) throw new Error(payment.detail);
console.log(payment.data.payment_url); // send the payer there; keep transaction_id and webhook_secret
`;

const createPython = (publicUrl: string): string => `# API_TOKEN=… python3 create.py
import json, os, urllib.request

request = urllib.request.Request(
    "${publicUrl}/api/payment/init",
    method="POST",
    headers={
        "X-API-Token": os.environ["API_TOKEN"],
        "Idempotency-Key": "order-A-17-1",  # one payment; count it up once that has ended
        "Content-Type": "application/json",
    },
    data=json.dumps({
        "amount": "5000.00",
        "currency": "KZT",
        "description": "Order A-17",
        "webhook_url": "https://shop.example/webhooks",
        "metadata": {"order_id": "A-17"},
    }).encode(),
)
with urllib.request.urlopen(request) as answer:  # raises HTTPError when refused; its body says why
    payment = json.load(answer)["data"]
print(payment["payment_url"])  # send the payer there; keep transaction_id and webhook_secret
`;

const verifyShell = `# WEBHOOK_SECRET=whsec_… ID=… TIMESTAMP=… SIGNATURE=… sh verify.sh < body
# ID, TIMESTAMP and SIGNATURE are the headers webhook-id, webhook-timestamp and webhook-signature.
age=$(($(date +%s) - TIMESTAMP))
if [ "$age" -gt 300 ] || [ "$age" -lt -300 ]; then echo "too old, or from the future" >&2; exit 1; fi
key=$(printf %s "\${WEBHOOK_SECRET#whsec_}" | base64 -d | od -An -v -tx1 | tr -d ' \\n')
expected=v1,$({ printf %s "$ID.$TIMESTAMP."; cat; } | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | base64)
for signature in $SIGNATURE; do
  if [ "$signature" = "$expected" ]; then echo genuine; exit 0; fi
done
echo "not genuine" >&2
exit 1
`;

const verifyPhp = `<?php
// WEBHOOK_SECRET=whsec_… php -S 127.0.0.1:8080 verify.php
$body = file_get_contents('php://input'); // the bytes that were sent, before any JSON parser
$id = $_SERVER['HTTP_WEBHOOK_ID'] ?? '';
$timestamp = $_SERVER['HTTP_WEBHOOK_TIMESTAMP'] ?? '';
$key = base64_decode(substr(getenv('WEBHOOK_SECRET'), strlen('whsec_')));
$expected = 'v1,' . base64_encode(hash_hmac('sha256', "$id.$timestamp.$body", $key, true));
$genuine = false;
foreach (explode(' ', $_SERVER['HTTP_WEBHOOK_SIGNATURE'] ?? '') as $signature) {
    $genuine = hash_equals($expected, $signature) || $genuine;
}
if (!$genuine || !ctype_digit($timestamp) || abs(time() - (int) $timestamp) > 300) {
    http_response_code(400);
    exit;
}
$webhook = json_decode($body, true, 512, JSON_BIGINT_AS_STRING);
error_log("$id {$webhook['event']} {$webhook['transaction_id']}"); // take each id once
http_response_code(204);
`;

const verifyJavaScript = `// WEBHOOK_SECRET=whsec_… PORT=8080 node verify.mjs
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const key = Buffer.from(process.env.WEBHOOK_SECRET.slice("whsec_".length), "base64");

function isGenuine(headers, body) {
  const id = headers["webhook-id"] ?? "";
  const timestamp = headers["webhook-timestamp"] ?? "";
  const age = Math.abs(Date.now() / 1000 - Number(timestamp));
  if (!/^[0-9]+$/.test(timestamp) || age > 300) return false;
  const expected = createHmac("sha256", key).update(id + "." + timestamp + ".").update(body).digest();
  return (headers["webhook-signature"] ?? "").split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    return signature.startsWith("v1,") && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

createServer(async (request, response) => {
  const body = Buffer.concat(await request.toArray()); // the bytes that were sent, before any JSON parser
  if (!isGenuine(request.headers, body)) return response.writeHead(400).end();
  const webhook = JSON.parse(body);
  console.log(webhook.id, webhook.event, webhook.transaction_id); // take each id once
  response.writeHead(204).end();
}).listen(process.env.PORT, "127.0.0.1");
`;

const verifyPython = `# WEBHOOK_SECRET=whsec_… PORT=8080 python3 verify.py
import base64, hashlib, hmac, json, os, time
from http.server import BaseHTTPRequestHandler, HTTPServer

key = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))


def is_genuine(headers, body):
    id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > 300:
        return False
    digest = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    expected = b"v1," + base64.b64encode(digest)
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(expected, signature) for signature in given)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))  # the bytes that were sent
        genuine = is_genuine(self.headers, body)
        if genuine:
            webhook = json.loads(body)
            print(webhook["id"], webhook["event"], webhook["transaction_id"])  # take each id once
        self.send_response(204 if genuine else 400)
        self.end_headers()


HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Receiver).serve_forever()
`;
