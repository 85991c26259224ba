"""What admins may ask of the catalog and of the running gateway."""

from typing import get_args

from gateway.endpoints.admin.keys import NoForm
from gateway.ledger.anomalies import Metric
from gateway.notices.base import Kind as NoticeKind
from gateway.openapi import errors
from gateway.openapi.admin_operation import CSV, CURSOR, FORMAT, OBJECT, OBJECTS, YES_OR_NO, admin_operation, page_limit
from gateway.openapi.shapes import Answer, Operation, array, boolean, choice, integer, query, record, text

__all__ = ["running_operations"]


def running_operations() -> list[Operation]:
    return [*_catalog(), *_running()]


def _catalog() -> list[Operation]:
    tag = "Models and providers"
    models = record({"object": {"const": "list"}, "version": text(), "data": array(OBJECT)})
    kept = integer()
    cache = record(dict.fromkeys("answers size_bytes bytes_max hits misses stored evicted".split(), kept))
    return [
        admin_operation(
            "GET",
            "/admin/models",
            tag,
            "Show the catalog",
            "With what is off, and why.",
            Answer("All that fit.", models, types=CSV),
            errors.READS,
            (
                *(query(name, "Only those with it.") for name in ("endpoint", "provider", "capability")),
                query("state", "Only these.", choice(["active", "inactive"])),
                FORMAT,
            ),
        ),
        admin_operation(
            "GET",
            "/admin/models/{name}",
            tag,
            "Show a model",
            "With every price row that entries may name.",
            Answer("The model.", OBJECT),
            (*errors.READS, *errors.MODEL_MISSING),
        ),
        admin_operation(
            "GET",
            "/admin/prices/diff",
            tag,
            "Compare prices with public lists",
            "Those that are installed; nothing is fetched.",
            Answer("Where they differ.", OBJECT, types=CSV),
            errors.READS,
            (FORMAT,),
        ),
        admin_operation(
            "GET",
            "/admin/providers",
            tag,
            "Show providers and deployments",
            "And how they are doing in this process.",
            Answer("All.", record({"object": {"const": "list"}, "data": array(OBJECT)}), types=CSV),
            errors.READS,
            (FORMAT,),
        ),
        admin_operation(
            "GET",
            "/admin/providers/figures",
            tag,
            "Show how providers did",
            "Out of the newest entries.",
            Answer("By provider.", OBJECT, types=CSV),
            errors.READS,
            (query("window", "How far back.", choice(["1h", "24h"], default="1h")), FORMAT),
        ),
        admin_operation(
            "GET",
            "/admin/cache",
            tag,
            "Show what is kept of answers",
            "And of what use it was.",
            Answer("Counts.", cache),
        ),
        admin_operation(
            "DELETE",
            "/admin/cache",
            tag,
            "Forget kept answers",
            "Of a creator, a model, both, or all.",
            Answer("How many were removed here.", record({"removed": integer()})),
            (*errors.READS, *errors.NOTHING_SAID),
            (query("creator", "Of this one."), query("model", "Of this one."), query("all", "All of them.", YES_OR_NO)),
        ),
    ]


def _running() -> list[Operation]:
    tag = "Running it"
    sent = record({"id": text(), "targets": array(text())})
    page = (page_limit(1_000, 100), CURSOR)
    return [
        admin_operation(
            "GET",
            "/admin/status",
            tag,
            "Show how the gateway is doing",
            "As `/health/ready`, and the money held by calls in flight.",
            Answer("As of now.", record({"status": text(), "checks": OBJECT, "holds": OBJECT})),
            errors.READS,
        ),
        admin_operation(
            "POST",
            "/admin/reload",
            tag,
            "Read plans and prices again",
            "A bad file changes nothing, and the answer says why.",
            Answer("What changed.", record({"reloaded": boolean()}, is_open=True)),
            errors.RELOAD,
        ),
        admin_operation(
            "GET",
            "/admin/notices",
            tag,
            "List what people were told",
            "And whether it arrived.",
            Answer("A page.", OBJECTS, types=CSV),
            errors.READS,
            (
                query("kind", "Only these.", choice(get_args(NoticeKind))),
                query("creator", "About this one."),
                *page,
                FORMAT,
            ),
        ),
        admin_operation(
            "POST",
            "/admin/notices/test",
            tag,
            "Send a notice to try the way",
            "Answers before it is delivered.",
            Answer("It is on its way.", sent, 202),
            errors.NO_TARGETS,
            form=NoForm,
        ),
        admin_operation(
            "GET",
            "/admin/anomalies",
            tag,
            "List hours out of the usual",
            "With the figures that made them so.",
            Answer("A page.", OBJECTS, types=CSV),
            errors.READS,
            (query("creator", "Of this one."), query("metric", "Only these.", choice(get_args(Metric))), *page, FORMAT),
        ),
        admin_operation(
            "GET",
            "/admin/throttles",
            tag,
            "List who is slowed down now",
            "By creator.",
            Answer("A page.", OBJECTS),
            errors.READS,
            page,
        ),
        admin_operation(
            "DELETE",
            "/admin/throttles/{creator}",
            tag,
            "End a throttle",
            "At once.",
            Answer("It has ended.", record({"creator": text(), "lifted": boolean()})),
            errors.MISSING,
        ),
    ]
