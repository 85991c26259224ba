"""Paths that need no key, or bring one in their URL."""

from gateway.openapi import errors
from gateway.openapi.shapes import Answer, Operation, choice, query, record, text, whatever

__all__ = ["open_operations"]

_TAG = "Watching"


def open_operations() -> list[Operation]:
    live = Answer("It answers.", record({"status": text()}))
    checks = {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": "By name: `ok`, or what is wrong.",
    }
    ready = Answer(
        "Calls are taken; `unavailable` comes with 503.",
        record({"status": choice(["ok", "degraded", "unavailable"]), "checks": checks}),
    )
    figures = Answer("Prometheus' text format.", text(), types=("text/plain",))
    image = Answer("The image.", text(format="binary"), types=("image/*",))
    signed = (
        query("expires", "As the signed URL has it.", is_required=True),
        query("signature", "As the signed URL has it.", is_required=True),
    )
    return [
        Operation("GET", "/health/live", _TAG, "Ask whether the process answers", "Looks at nothing else.", live, ()),
        Operation(
            "GET", "/health/ready", _TAG, "Ask whether calls are taken", "Each dependency by name.", ready, ((503, ""),)
        ),
        Operation("GET", "/metrics", _TAG, "Read the metrics", "Of all workers, whichever is asked.", figures, ()),
        Operation(
            "GET",
            "/assets/{id}",
            "Images",
            "Fetch an image the gateway keeps",
            "Whoever has the signed URL sees it, until it expires.",
            image,
            errors.ASSET,
            parameters=signed,
        ),
        Operation(
            "GET",
            "/openapi.json",
            _TAG,
            "Read this description",
            "For people: /docs/api.",
            Answer("OpenAPI 3.1.", whatever()),
            (),
        ),
    ]
