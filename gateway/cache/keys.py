"""What an answer is found again by: a digest of everything it depends on, and of nothing else. Pure.

In the digest are, as JSON with names sorted where their order says nothing:
1. a version of this list, and whose answers are looked at;
2. the path the client called, and the model and provider that would serve the call;
3. what the provider is sent: path, headers, and the body without what changes no answer;
4. the caller's own body, likewise, with the serving model in the place of the requested one: an answer of a cheaper model
   is found by whoever asks for that model by name, and never by who asks for the dearer one and is to get it.

The digest is keyed, so that nobody who reads the store can tell whether a guessed question was asked.
"""

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from gateway.catalog import Model
from gateway.model_request import ModelRequest, Outgoing
from policies.types import Account

__all__ = ["answer_key", "normalised_prompt", "scope_of"]

_VERSION = 1
"""Raised when what is digested changes its meaning: older answers are not found any more."""
_CHANGES_NO_ANSWER = frozenset("user metadata safety_identifier prompt_cache_key prompt_cache_retention store".split())
_RESPONSES = "/responses"
_CHANGES_NO_RESPONSE = frozenset({"store"})
"""A Response object repeats all the other fields: one caller's labels must not come back in another's answer."""
_SPOKEN = frozenset({"messages", "input", "contents"})
"""What was said: the order of names within it says nothing. Everywhere else it may be a schema's, and a model fills in a
schema in the order of its names: what it thought before it answered is another answer than what it made up after."""
_LAST_STOPS = ".。 "


def scope_of(account: Account) -> str:
    """Whose answers the account may be given."""
    return "shared" if account.plan.cache_scope == "shared" else f"creator:{account.creator}"


def answer_key(
    digest: Callable[[bytes], bytes],
    account: Account,
    request: ModelRequest,
    model: Model,
    outgoing: Outgoing,
    *,
    normalises_prompts: bool = False,
) -> str:
    """The key in hex; empty where what is sent is no JSON object, or is nested too deeply to be written once more.

    `normalises_prompts`: prompts of images that differ only as `normalised_prompt` says are one and the same.
    """
    sent = _sent(outgoing)
    if sent is None:
        return ""
    asked = {**request.body, "model": _shown_name(request, model, outgoing)}
    unread = _CHANGES_NO_RESPONSE if request.path == _RESPONSES else _CHANGES_NO_ANSWER
    bodies = [{name: value for name, value in body.items() if name not in unread} for body in (sent, asked)]
    if normalises_prompts and request.cache_kind == "image":
        bodies = [_with_normalised_prompt(body) for body in bodies]
    names = scope_of(account), request.path, model.name, model.provider, outgoing.path
    try:
        form = [_VERSION, *names, outgoing.headers, *map(_with_schemas_as_they_stand, bodies)]
        return digest(orjson.dumps(form, option=orjson.OPT_SORT_KEYS)).hex()
    except orjson.JSONEncodeError:
        return ""


def normalised_prompt(prompt: str) -> str:
    """The prompt in one spelling: Unicode's compatibility forms, small letters, single spaces, no full stop at the end."""
    # Folding may leave letters that compose again.
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", prompt).casefold())
    return " ".join(folded.split()).rstrip(_LAST_STOPS)


def _sent(outgoing: Outgoing) -> dict[str, Any] | None:
    if outgoing.content_type != "application/json":
        return None
    try:
        body = orjson.loads(outgoing.body)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _with_schemas_as_they_stand(body: Mapping[str, Any]) -> dict[str, Any]:
    """`body` with whatever may be or hold a schema as text, whose names are not sorted; in an object, as no text of a
    caller's is. Raises `orjson.JSONEncodeError`."""
    return {
        name: {"": orjson.dumps(value).decode()} if isinstance(value, dict | list) and name not in _SPOKEN else value
        for name, value in body.items()
    }


def _shown_name(request: ModelRequest, model: Model, outgoing: Outgoing) -> str:
    """The serving model's name; but a response that is made of a chat names the model that was asked for."""
    is_made_of_chat = request.path == _RESPONSES and outgoing.path != request.path
    return request.model if is_made_of_chat else model.name


def _with_normalised_prompt(body: Mapping[str, Any]) -> dict[str, Any]:
    prompt = body.get("prompt")
    return {**body, "prompt": normalised_prompt(prompt)} if isinstance(prompt, str) else dict(body)
