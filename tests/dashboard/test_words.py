"""One table of words for everybody's pages, and names beside ids."""

from typing import get_args

import pytest

from gateway.dashboard import words
from gateway.ledger.records import Kind, Outcome
from gateway.notices.base import Kind as Told
from policies.types import AnomalyAction, BudgetAction, CacheScope, CacheUse, Payer
from policies.windows import WINDOWS
from tests.dashboard.world import opened_dashboard


def _is_plain(text: str) -> bool:
    return bool(text) and "_" not in text


@pytest.mark.parametrize(
    ("say", "names"),
    [
        (words.outcome_words, get_args(Outcome)),
        (words.kind_words, get_args(Kind)),
        (words.kind_words, get_args(Told)),
        (words.payer_words, get_args(Payer)),
        (words.limit_words, tuple(WINDOWS)),
        (words.deed_words, get_args(AnomalyAction)),
        (words.option_words, tuple(
            name for type_ in (BudgetAction, CacheUse, CacheScope, AnomalyAction) for name in get_args(type_)
        )),
    ],
)  # fmt: skip
def test_every_name_of_the_api_has_words_of_its_own(say, names):
    said = [say(name) for name in names]
    assert all(map(_is_plain, said)), said
    assert len(set(said)) == len(set(names))


def test_a_limit_says_whether_it_is_the_keys_own_or_a_providers():
    assert words.limit_words("requests_per_hour") == "Requests an hour"
    assert words.limit_words("key_requests_per_hour") == "Requests an hour, of this key"
    assert words.limit_words("openai_tokens_per_minute") == "Tokens a minute, to openai"


@pytest.mark.parametrize("say", [*words.FILTERS.values()])
def test_what_has_no_words_is_said_as_it_is(say):
    assert say("never_heard").lower() == "never heard"


def test_messages_name_fields_as_forms_do_and_nothing_in_them_is_markup():
    assert words.message_words("`to` takes a day after `from`.") == "“Before” takes a day after “From”."
    assert words.message_words("`days` is <b>`note`") == "<code>days</code> is &lt;b&gt;“Note”"
    assert words.message_words("`<i>`") == "<code>&lt;i&gt;</code>"
    assert words.message_words("one ` <i> alone") == "one ` &lt;i&gt; alone"


async def test_creators_are_called_by_their_names(tmp_path):
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        await world.admin_api("PATCH", "/admin/creators/ada", json={"name": "Ada & Co"})
        page = await world.finance.get("/dashboard/creators")
        assert "Ada & Co" in page.words
        found = await world.admin_api("GET", "/admin/creators?ids=ada,bo,nobody")
        assert [row["id"] for row in found["data"]] == ["ada", "bo"]
        await world.call("ada")
        for path in ("/dashboard/overview?period=today", "/dashboard/calls", "/dashboard/months"):
            page = await world.finance.get(path)
            assert page.links["Ada & Co"] == "/dashboard/creators/ada", path
