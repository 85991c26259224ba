"""Who looks at a page: an admin, or a creator by one of its virtual keys."""

from typing import NamedTuple

from starlette.requests import Request
from starlette.types import Scope

from gateway.errors import RequestError
from gateway.roles import Admin

__all__ = ["Viewer", "require_creator", "viewer_of"]

_STATE = "viewer"


class Viewer(NamedTuple):
    """Somebody who signed in. Either `admin` is set, or `creator` and the key it signed in with."""

    session_id: str
    """The digest of the session's token: what ends the session."""
    admin: Admin | None = None
    creator: str = ""
    key_id: str = ""
    key_digest: str = ""
    """Of the virtual key, as the database has it."""

    @property
    def name(self) -> str:
        return self.creator if self.admin is None else self.admin.name

    @property
    def sees_money(self) -> bool:
        return self.admin is None or self.admin.role != "support"

    @property
    def is_owner(self) -> bool:
        return self.admin is not None and self.admin.role == "owner"

    def __repr__(self) -> str:
        return f"Viewer({self.name!r})"


def viewer_of(request: Request) -> Viewer:
    """Behind the guard there always is one."""
    viewer: Viewer = request.scope["state"][_STATE]
    return viewer


def require_creator(request: Request) -> Viewer:
    """The signed-in creator. Raises `RequestError` (403) for an admin, who has neither calls nor limits of its own."""
    viewer = viewer_of(request)
    if viewer.admin is not None:
        raise RequestError("This page is a creator's: sign in with a virtual key.", status=403, code="creators_only")
    return viewer


def set_viewer(scope: Scope, viewer: Viewer) -> None:
    scope.setdefault("state", {})[_STATE] = viewer
