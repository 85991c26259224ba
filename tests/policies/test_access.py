from dataclasses import replace

import pytest

from policies import access
from policies.types import Deny
from tests.policies.samples import ACCOUNT, CALL, NOW


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(None, id="no list"),
        pytest.param(frozenset({"gpt-big"}), id="only this model"),
        pytest.param(frozenset({"gpt-small", "gpt-big"}), id="among others"),
    ],
)
def test_a_key_may_use_the_models_on_its_list(models: frozenset[str] | None) -> None:
    assert access.decide(CALL, replace(ACCOUNT, models=models), NOW) == ()


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(frozenset(), id="empty list"),
        pytest.param(frozenset({"gpt-small"}), id="another model"),
        pytest.param(frozenset({"gpt"}), id="a prefix of the name"),
        pytest.param(frozenset({"GPT-BIG"}), id="another case"),
    ],
)
def test_a_key_may_not_use_any_other_model(models: frozenset[str]) -> None:
    deny = access.decide(CALL, replace(ACCOUNT, models=models), NOW)
    assert isinstance(deny, Deny)
    assert (deny.code, deny.policy) == ("model_not_allowed", "access")
    assert "gpt-big" in deny.message
    assert "GET /v1/models" in deny.message


def test_the_model_that_would_serve_is_what_counts() -> None:
    """A route that ends at another model than the one asked for must not lead out of the key's list."""
    account = replace(ACCOUNT, models=frozenset({"gpt-big"}))
    assert isinstance(access.decide(CALL._replace(model="gpt-other"), account, NOW), Deny)
