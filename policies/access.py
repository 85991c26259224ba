"""Access: may this virtual key use this model at all. Counts nothing."""

from collections.abc import Sequence
from datetime import datetime

from policies.types import Account, Call, Deny, LimitGroup


def decide(call: Call, account: Account, now: datetime) -> Sequence[LimitGroup] | Deny:
    """No limits, or the refusal `model_not_allowed`.

    The model that would serve the call is what counts: no route leads a key to a model outside its list.
    """
    if account.models is None or call.model in account.models:
        return ()
    return Deny(
        "model_not_allowed",
        f"This virtual key may not use the model '{call.model}'. GET /v1/models lists the models it may use; "
        "ask the gateway's admin to allow another one.",
        "access",
    )
