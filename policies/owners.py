"""Whose counter it is: a creator's, shared by all of its virtual keys, or one virtual key's own.

Ids of creators and keys hold no slash, so what follows an owner behind a slash is never mistaken for a part of its id,
and no creator can be named so that it counts on somebody else's counter.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NewType

from policies.types import Account, Plan

__all__ = ["Owner", "creator_owner", "is_key", "key_owner", "limit_name", "own_limits_owner", "owners_of", "whose"]

Owner = NewType("Owner", str)
"""`c/{creator}` or `k/{key id}`."""


# Asked several times a call. The same text each time is also what other caches find fastest.
@lru_cache(maxsize=16_384)
def creator_owner(creator: str) -> Owner:
    return Owner(f"c/{creator}")


@lru_cache(maxsize=16_384)
def key_owner(key_id: str) -> Owner:
    """`key_id` is the public id of a virtual key."""
    return Owner(f"k/{key_id}")


def own_limits_owner(account: Account) -> Owner:
    """Who counts `account.key_plan`: one and the same for all keys that came of each other by rotation."""
    return key_owner(account.limits_id or account.key_id)


def is_key(owner: Owner) -> bool:
    return owner.startswith("k/")


def owners_of(account: Account) -> Iterator[tuple[Owner, Plan]]:
    """Whose limits a call of `account` must fit into, each with the plan that sets them: the creator's, then the key's."""
    yield creator_owner(account.creator), account.plan
    if account.key_plan is not None:
        yield own_limits_owner(account), account.key_plan


def limit_name(owner: Owner, name: str) -> str:
    """What people read: a key's own limits are told from the creator's by `key_` in front."""
    return f"key_{name}" if is_key(owner) else name


def whose(owner: Owner, plan: Plan) -> str:
    """Whose limit a refusal speaks of: `plan 'pro'`, `this virtual key`."""
    if is_key(owner):
        return "this virtual key"
    return f"plan '{plan.name}' with overrides" if plan.is_overridden else f"plan '{plan.name}'"
