"""What a virtual key may ask beside calls: models, itself, its calls and images, what is kept of responses."""

from gateway.endpoints.generations import Choice
from gateway.estimating import READERS
from gateway.ledger.creator_queries import CREATOR_GROUPS
from gateway.openapi import errors
from gateway.openapi.schemas import INSTANT
from gateway.openapi.shapes import (
    Answer,
    Body,
    Operation,
    Schema,
    array,
    boolean,
    choice,
    integer,
    listing,
    nullable,
    query,
    record,
    ref,
    text,
    whatever,
)

__all__ = ["creator_operations"]

_CSV = ("application/json", "text/csv")
_ITEM: Schema = {"type": "object", "description": "An item, as OpenAI has them."}
_CONVERSATION = record({"id": text(), "object": text(), "metadata": {"type": "object"}}, required=["id"], is_open=True)
_DELETED = record({"id": text(), "object": text(), "deleted": boolean()})
_FROM, _TO = query("from", "A day (UTC), inclusive."), query("to", "A day (UTC), exclusive.")
_FROM_INSTANT = query("from", "A day or an RFC 3339 instant, inclusive.")
_TO_INSTANT = query("to", "A day or an RFC 3339 instant, exclusive.")
_FORMAT = query("format", "`csv`: a file with all that fits.", choice(["json", "csv"], default="json"))
_CURSOR = query("cursor", "The `next_cursor` of an answer.")
_ITEMS_PAGE = (
    query("limit", "How many.", integer(minimum=1, maximum=100, default=20)),
    query("after", "The id of the last item shown."),
    query("order", "By age.", choice(["asc", "desc"], default="desc")),
)
_METADATA: Schema = {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 16}


def creator_operations() -> list[Operation]:
    return [*_models(), *_me(), *_images(), *_responses(), *_conversations()]


def _models() -> list[Operation]:
    model_list = record({"object": {"const": "list"}, "data": array(ref("Model"))})
    provider = record({"id": text(), "object": text(), "models": array(text()), "endpoints": array(text())})
    counted = Answer("The estimate.", record({"input_tokens": integer()}))
    messages = record({"model": text(), "messages": array({"type": "object"})}, is_open=True)
    return [
        _get("/v1/models", "Models", "List the models this key may use", "With prices.", Answer("All.", model_list)),
        _get(
            "/v1/models/{name}",
            "Models",
            "Show a model",
            "Names with slashes may be encoded or not.",
            Answer("The model.", ref("Model")),
            errors.MODEL_MISSING,
        ),
        _get(
            "/v1/providers",
            "Models",
            "List the providers of these models",
            "And what they can be asked for.",
            Answer("All.", record({"object": {"const": "list"}, "data": array(provider)})),
        ),
        _of(
            "POST",
            "/v1/estimate",
            "Models",
            "Ask what a call would cost",
            "The body is the call's own. Says who would pay, and whether it would be downgraded or refused. Takes nothing.",
            Answer("What would become of it.", ref("Estimate")),
            (*errors.COUNTED, *errors.ESTIMATE, (400, "unknown_parameter")),
            parameters=(
                query("endpoint", "Which endpoint is meant, where the body leaves it open.", choice(sorted(READERS))),
            ),
            body=Body({"type": "object"}),
            example={"model": "mock-1", "messages": [{"role": "user", "content": "Hello"}]},
        ),
        _of(
            "POST",
            "/v1/messages/count_tokens",
            "Models",
            "Estimate the tokens of messages",
            "The gateway's own estimate, for every model; asks nobody. Errors have Anthropic's shape.",
            counted,
            (*errors.COUNTED, *errors.MODEL_MISSING),
            body=Body(messages),
            example={"model": "mock-1", "messages": [{"role": "user", "content": "Hello"}]},
        ),
    ]


def _me() -> list[Operation]:
    change = {
        "request_id": text(),
        "kind": text(),
        "payer": text(),
        "change": integer("Of the balance."),
        "model": nullable(text()),
        "images": integer(),
        "expires_at": nullable(INSTANT),
        "created_at": INSTANT,
    }
    calls = record(
        {"object": {"const": "list"}, "data": array(ref("Call")), "next_cursor": nullable(text())}, is_open=True
    )
    limit = query("limit", "How many.", integer(minimum=1, maximum=500, default=50))
    return [
        _get(
            "/v1/me",
            "Me",
            "Show everything about oneself",
            "Plan, every limit with used, held and left, free images, credits, the month and where it leads.",
            Answer("As of now.", ref("Me")),
        ),
        _get(
            "/v1/me/usage",
            "Me",
            "Sum one's own calls",
            "This month by day where nothing else is said.",
            Answer(
                "A line a group.",
                record({"object": {"const": "list"}, "data": array(ref("Sums")), "from": text(), "to": text()}),
                types=_CSV,
            ),
            errors.READS,
            (_FROM, _TO, query("group_by", f"Any of {', '.join(CREATOR_GROUPS)}, joined by commas."), _FORMAT),
        ),
        _get(
            "/v1/me/calls",
            "Me",
            "List one's own calls",
            "The newest first.",
            Answer("A page.", calls, types=_CSV),
            errors.READS,
            (
                _FROM_INSTANT,
                _TO_INSTANT,
                query("model", "Asked for or served."),
                query("feature", "The label."),
                limit,
                _CURSOR,
                _FORMAT,
            ),
        ),
        _get(
            "/v1/me/calls/{request_id}",
            "Me",
            "Show one of one's calls",
            "Every attempt. What a stream cost is read here.",
            Answer("Its entries.", record({"object": {"const": "list"}, "data": array(ref("Call"))})),
            errors.MISSING,
        ),
        _get(
            "/v1/me/credits",
            "Me",
            "Show one's credits and what changed them",
            "Balance, grants, and a page of changes.",
            Answer("The newest first.", listing(record(change))),
            errors.READS,
            (limit, _CURSOR),
        ),
    ]


def _images() -> list[Operation]:
    page = record(
        {
            "object": {"const": "list"},
            "data": array(ref("Generation")),
            "first_id": nullable(text()),
            "last_id": nullable(text()),
            "has_more": boolean(),
        }
    )
    return [
        _get(
            "/v1/generations",
            "Images",
            "List the images one had made",
            "The newest first; an image that is kept comes with a fresh signed URL.",
            Answer("A page.", page, types=("application/json", "text/csv")),
            errors.READS,
            (
                query("limit", "How many.", integer(minimum=1, maximum=100, default=20)),
                query("after", "The `last_id` of an answer."),
                query("request_id", "Of one call only."),
                _FORMAT,
            ),
        ),
        _get(
            "/v1/generations/{id}",
            "Images",
            "Show one image",
            "Somebody else's does not exist.",
            Answer("The image.", ref("Generation")),
            errors.GENERATION_MISSING,
        ),
        _of(
            "POST",
            "/v1/generations/{id}/select",
            "Images",
            "Choose an image among those of its request",
            "In place of the one that was chosen. Doing it again changes nothing.",
            Answer("The image.", ref("Generation")),
            (*errors.FORM, *errors.GENERATION_MISSING),
            body=Body(Choice.model_json_schema(), is_required=False),
        ),
    ]


def _responses() -> list[Operation]:
    response = record({"id": text(), "object": text(), "output": array(_ITEM)}, required=["id"], is_open=True)
    items = record({"object": {"const": "list"}, "data": array(_ITEM), "has_more": boolean()}, is_open=True)
    tokens = record({"object": text(), "input_tokens": integer(), "is_estimate": boolean()})
    path = "/v1/responses/{response_id}"
    return [
        _of(
            "POST",
            "/v1/responses/input_tokens",
            "Responses",
            "Estimate the tokens of a response",
            "Takes nothing and asks nobody.",
            Answer("The estimate.", tokens),
            (*errors.COUNTED, *errors.KEPT),
            body=Body(record({"model": text(), "input": whatever()}, is_open=True)),
            example={"model": "mock-1", "input": "Hello"},
        ),
        _get(
            path,
            "Responses",
            "Show a kept response",
            "From the provider that keeps it, or from the gateway. A finished one is not streamed again.",
            Answer("The response.", response),
            (*errors.RESPONSE_MISSING, (400, "unsupported_parameter")),
            (query("stream", "`false` or nothing.", choice(["false"])),),
        ),
        _of(
            "DELETE",
            path,
            "Responses",
            "Forget a response",
            "At its provider first, where that keeps it.",
            Answer("It is gone.", _DELETED),
            errors.RESPONSE_MISSING,
        ),
        _of(
            "POST",
            f"{path}/cancel",
            "Responses",
            "Cancel a response",
            "Always refused: none runs in the background.",
            Answer("Never.", whatever()),
            (*errors.RESPONSE_MISSING, *errors.NOT_CANCELLABLE),
        ),
        _get(
            f"{path}/input_items",
            "Responses",
            "List what a response was asked",
            "The newest first unless `order` says otherwise.",
            Answer("A page.", items),
            (*errors.RESPONSE_MISSING, (400, "invalid_value")),
            _ITEMS_PAGE,
        ),
    ]


def _conversations() -> list[Operation]:
    items = record({"object": {"const": "list"}, "data": array(_ITEM), "has_more": boolean()}, is_open=True)
    codes = (*errors.COUNTED, *errors.CONVERSATION)
    tag, root, one = "Conversations", "/v1/conversations", "/v1/conversations/{conversation_id}"
    made = Answer("The conversation.", _CONVERSATION)
    given = array(_ITEM, maxItems=20)
    return [
        _of(
            "POST",
            root,
            tag,
            "Begin a conversation",
            "Kept by the gateway, whatever models continue it.",
            made,
            codes,
            body=Body(record({"items": given, "metadata": _METADATA}, required=[]), is_required=False),
        ),
        _get(one, tag, "Show a conversation", "Without its items.", made, errors.CONVERSATION),
        _of(
            "POST",
            one,
            tag,
            "Change a conversation's metadata",
            "As a whole.",
            made,
            codes,
            body=Body(record({"metadata": _METADATA}, required=[])),
        ),
        _of(
            "DELETE",
            one,
            tag,
            "Delete a conversation",
            "And its items.",
            Answer("Gone.", _DELETED),
            errors.CONVERSATION,
        ),
        _of(
            "POST",
            f"{one}/items",
            tag,
            "Add items",
            "At most 20 at once.",
            Answer("Those added.", items),
            codes,
            body=Body(record({"items": given})),
        ),
        _get(
            f"{one}/items",
            tag,
            "List the items",
            "The newest first unless `order` says otherwise.",
            Answer("A page.", items),
            (*errors.CONVERSATION, (400, "invalid_value")),
            _ITEMS_PAGE,
        ),
        _get(
            f"{one}/items/{{item_id}}",
            tag,
            "Show an item",
            "As it was added.",
            Answer("It.", _ITEM),
            errors.CONVERSATION,
        ),
        _of(
            "DELETE",
            f"{one}/items/{{item_id}}",
            tag,
            "Delete an item",
            "The rest of the conversation stays.",
            Answer("The conversation.", _CONVERSATION),
            errors.CONVERSATION,
        ),
    ]


def _get(
    path: str,
    tag: str,
    summary: str,
    description: str,
    answer: Answer,
    codes: tuple[errors.Code, ...] = (),
    parameters: tuple[Schema, ...] = (),
) -> Operation:
    return _of("GET", path, tag, summary, description, answer, codes, parameters=parameters)


def _of(
    method: str,
    path: str,
    tag: str,
    summary: str,
    description: str,
    answer: Answer,
    codes: tuple[errors.Code, ...],
    *,
    parameters: tuple[Schema, ...] = (),
    body: Body | None = None,
    example: object = None,
) -> Operation:
    return Operation(
        method,
        path,
        tag,
        summary,
        description,
        answer,
        (*errors.CREATOR, *codes),
        ("virtualKey", "virtualKeyHeader"),
        parameters,
        body,
        example=example,
    )
