"""Admins: who they are, and what each role may do."""

from typing import Literal, NamedTuple, get_args

__all__ = ["LOCAL", "ROLES", "SETTINGS", "Admin", "Role"]

Role = Literal["owner", "finance", "support"]
"""`owner` does everything; `finance` reads everything and changes nothing; `support` neither sees nor moves money."""
ROLES: tuple[Role, ...] = get_args(Role)


class Admin(NamedTuple):
    """Whoever asks the admin API."""

    key_id: str
    """The admin key's public id; `settings` and `local` for those that have none in the database."""
    name: str
    role: Role


SETTINGS = Admin("settings", "settings", "owner")
"""Whoever has the key in `GATEWAY_ADMIN_KEY`."""
LOCAL = Admin("local", "local", "owner")
"""Whoever may open the control socket, or the data folder."""
