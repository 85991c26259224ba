"""Receives the gateway's notices and believes only what is signed (docs/notices.md). Runs until it is stopped.

    pip install standardwebhooks
    WEBHOOK_SECRET=$(gateway notices secret) python examples/webhook_receiver.py &
    GATEWAY_WEBHOOK_URL=http://127.0.0.1:9000/ gateway serve

Then POST /admin/notices/test sends one. Prints:

    refused: no valid signature
    test: This is a test: notices of the gateway arrive here.
"""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

PORT = int(os.environ.get("RECEIVER_PORT", "9000"))
BODY_BYTES_MAX = 100_000
webhook = Webhook(os.environ["WEBHOOK_SECRET"])
seen: set[str] = set()  # a notice may arrive twice, under the same id


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("content-length", 0)), BODY_BYTES_MAX))
        try:
            notice = webhook.verify(body, dict(self.headers))
        except (WebhookVerificationError, ValueError):
            self.answer(401)
            print("refused: no valid signature", flush=True)
            return
        if self.headers["webhook-id"] not in seen:
            seen.add(self.headers["webhook-id"])
            print(f"{notice['type']}: {notice['data']['message']}", flush=True)
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: requests are not what this prints."""


HTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
