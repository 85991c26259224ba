"""What becomes of a form that was sent, the same for all of them.

1. What is done is followed by a GET, which says so once: a word in a cookie that the next page takes away. The words are
   those below, so that nobody can have a page say anything else.
2. What is refused is said at the top of the page, where its reader is, and beside the form, with all that was filled in.
3. What must not be done twice has an id that the form chose, unique in the database: by whichever process, the second
   time does nothing.
"""

import secrets
from collections.abc import Mapping
from typing import Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from gateway.dashboard.cookies import cookie_of
from gateway.dashboard.origin import is_secure
from gateway.errors import GatewayError
from gateway.secrets import random_id

__all__ = [
    "DONE",
    "NOTHING_WRONG",
    "Done",
    "Problem",
    "done",
    "forget_done",
    "key_id",
    "posting_key",
    "said_done",
    "was_made_before",
]

_COOKIE = "gateway_done"
_PATH = "/dashboard"
_SECONDS = 60
_SEE_OTHER = 303
Done = Literal[
    "admin_changed",
    "admin_revoked",
    "adjusted",
    "chosen",
    "closed",
    "creator_deleted",
    "granted",
    "key_paused",
    "key_resumed",
    "key_revoked",
    "lifted",
    "refunded",
    "saved",
    "tested",
]
DONE: Mapping[str, str] = {
    "admin_changed": "The admin's name and role are saved.",
    "admin_revoked": "The admin key is revoked.",
    "adjusted": "The adjustment is booked.",
    "chosen": "The image is selected.",
    "closed": "The month is closed.",
    "creator_deleted": "The creator is deleted.",
    "granted": "The credits are granted.",
    "key_paused": "The key is paused.",
    "key_resumed": "The key works again.",
    "key_revoked": "The key is revoked.",
    "lifted": "The creator is no longer slowed down.",
    "refunded": "The refund is booked.",
    "saved": "The changes are saved.",
    "tested": "A notice to try the way is on its way: the list says whether it arrives.",
}


class Problem(NamedTuple):
    """What was wrong with a form that was sent, with what had been filled in."""

    form: str = ""
    """Its name: in the page it has the id `form-` and this."""
    message: str = ""
    entered: Mapping[str, str] = {}

    def of(self, form: str) -> str:
        """What to say beside `form`; empty where it is not the one."""
        return self.message if form == self.form else ""

    def value(self, form: str, name: str, default: str = "") -> str:
        """What stands in a field of `form`: what was filled in before, if that was wrong."""
        return self.entered.get(name, default) if form == self.form else default


NOTHING_WRONG = Problem()


def done(request: Request, path: str, word: Done) -> Response:
    """To `path`, which says what `word` stands for."""
    answer = RedirectResponse(path, _SEE_OTHER)
    secure = is_secure(request.scope)
    answer.set_cookie(_COOKIE, word, _SECONDS, path=_PATH, httponly=True, samesite="strict", secure=secure)
    return answer


def said_done(scope: Scope) -> str:
    """What was done just before this page was asked for, in a sentence; nothing where nothing was."""
    return DONE.get(cookie_of(scope, _COOKIE), "")


def forget_done(scope: Scope, answer: Response) -> None:
    """It has been said."""
    if cookie_of(scope, _COOKIE):
        answer.delete_cookie(_COOKIE, path=_PATH, httponly=True, samesite="strict", secure=is_secure(scope))


def posting_key() -> str:
    """For a form that books something: sent twice, it is booked once. What was refused booked nothing, and gets another."""
    return f"page-{secrets.token_urlsafe(16)}"


def key_id() -> str:
    """For a form that makes a key: the key's public id."""
    return random_id()


def was_made_before(error: GatewayError) -> bool:
    """Whether the form was sent before, and made its key then."""
    return error.code == "key_exists"
