"""Every kind of notice, from a gateway whose receivers are dead at first, crash and restart included: one story.

It is played once, with three processes on one data folder, and each test claims one thing about what came of it:

1. no receiver answers: creators are made and one of them calls until 80 % of its quota are gone,
   then another, and before it may have been looked at comes the `kill -9`;
2. receivers answer, and everything else there is to tell of happens;
3. after a stop and a start all of it happens again.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from tests.e2e.notices_world import (
    MAIL_FROM,
    MAIL_PASSWORD,
    MAIL_TO,
    MAIL_USER,
    SLACK_PATH,
    WEBHOOK_SECRET,
    Hour,
    Post,
    Receiver,
    TellingGateway,
    Told,
    hour_back,
    says_tokens,
    tally,
    tally_of_posts,
    within_an_hour,
)
from tests.rig.client import Answer
from tests.rig.gateway import Key, free_port
from tests.rig.policy_world import CENT, USD, grant, paint, paints, statuses
from tests.rig.upstream import Upstream
from tests.rig.waiting import soon

DAY_S = 86_400
CALLS = 50
"""Made while no receiver answers."""
DAY_COST = "0.4"
NEVER = [("x-gateway-downgrade", "never")]
SEARCH = [("x-gateway-feature", "search")]

WHILE_DEAD = Counter([Told("test"), Told("quota.80_percent", "quota-waits")])
ONCE = Counter(
    [
        *WHILE_DEAD,
        *(Told(f"quota.{step}", "quota-climbs") for step in ("80_percent", "95_percent", "exhausted")),
        Told("quota.95_percent", "quota-jumps"),
        Told("quota.80_percent", "quota-crashes"),
        *(Told(f"budget.{step}", "budget-climbs") for step in ("80_percent", "95_percent", "exhausted")),
        Told("budget.downgraded", "budget-yields"),
        Told("budget.exhausted", "budget-insists"),
        Told("credits.exhausted", "credits-end"),
        Told("key.expiring", "key-ends"),
        *(Told("anomaly.request_rate", creator) for creator in ("odd-slowed", "odd-paused")),
        Told("anomaly.cost", "odd-dear"),
        Told("creator.throttled", "odd-slowed"),
        Told("key.paused", "odd-paused"),
        Told("day_cost.above"),
        *(Told("error_rate.above", provider) for provider in ("all", "rig")),
    ]
)
AFTERWARDS = Counter(
    [
        Told("test"),
        *(Told("quota.80_percent", creator) for creator in ("zz-first", "zz-second")),
        Told("anomaly.request_rate", "zz-odd"),
    ]
)
"""New after the restart: when these are told, what came before them would have been."""
KINDS = {
    *("quota.80_percent", "quota.95_percent", "quota.exhausted"),
    *("budget.80_percent", "budget.95_percent", "budget.exhausted", "budget.downgraded"),
    *("credits.exhausted", "key.expiring", "key.paused", "creator.throttled", "anomaly.request_rate", "anomaly.cost"),
    *("day_cost.above", "error_rate.above", "test"),
}


@dataclass
class Story:
    """What happened, in its order."""

    gateway: TellingGateway
    upstream: Upstream
    receiver: Receiver
    keys: dict[str, Key] = field(default_factory=dict)
    held_before_calls: list[str] = field(default_factory=list)
    answers_while_dead: list[Answer] = field(default_factory=list)
    held_after_calls: tuple[int, list[str]] = (0, [])
    """Connections that wait for the mute receiver, and every notice it was ever sent."""
    before_crash: list[dict[str, Any]] = field(default_factory=list)
    posts_before_crash: int = 0
    before_restart: list[dict[str, Any]] = field(default_factory=list)
    refused_again: dict[str, Answer] = field(default_factory=dict)
    in_the_end: list[dict[str, Any]] = field(default_factory=list)

    async def spend(self, creator: str, tokens: int, **more: Any) -> Answer:
        return await says_tokens(self.gateway, self.upstream, self.keys[creator], tokens, **more)

    async def spent(self, creator: str, tokens: int, **more: Any) -> None:
        answer = await self.spend(creator, tokens, **more)
        assert answer.status == 200, answer

    async def refused(self, creator: str, tokens: int, code: str = "insufficient_quota", **more: Any) -> Answer:
        answer = await self.spend(creator, tokens, **more)
        assert answer.error["code"] == code, answer
        return answer

    async def paints_in_vain(self) -> None:
        answer = await paint(self.gateway, self.keys["credits-end"], paints(self.upstream))
        assert answer.error["code"] == "insufficient_quota", answer

    async def fails(self, times: int) -> None:
        script = self.upstream.reply({"error": {"message": "no"}}, 500)
        answers = [await self.gateway.chat(self.keys["unlucky"], script, model="cent") for _ in range(times)]
        assert {answer.status for answer in answers} == {500}, statuses(answers)

    # The chapters

    async def nobody_listens(self) -> None:
        gateway, receiver = self.gateway, self.receiver
        receiver.is_mute = True
        gateway.change(SLACK_WEBHOOK_URL=f"http://127.0.0.1:{free_port()}{SLACK_PATH}")
        gateway.start()
        self._make_creators()
        gateway.admin_json("POST", "/admin/notices/test")
        await soon(lambda: receiver.held == 1, "a notice that waits for an answer")
        self.held_before_calls = _ids(receiver.webhooks)
        calls = (self.spend("quota-waits", 1) for _ in range(CALLS))
        self.answers_while_dead = await asyncio.gather(*calls)
        await gateway.told(*WHILE_DEAD)
        self.held_after_calls = receiver.held, _ids(receiver.webhooks)
        await soon(lambda: not _untried(gateway.notices(), "slack"), "an attempt at the Slack that refuses")
        self.before_crash = gateway.notices()
        self.posts_before_crash = len(receiver.posts)
        await self.spent("quota-crashes", 85)
        gateway.kill9()

    def _make_creators(self) -> None:
        hard = {"budget_usd_per_month": 1, "when_budget_reached": "deny"}
        overrides: dict[str, dict[str, object]] = {
            "quota-waits": {"quota_usd_per_month": "0.6"},
            **{creator: {"quota_usd_per_month": 1} for creator in ("quota-climbs", "quota-jumps", "quota-crashes")},
            **{creator: {"quota_usd_per_month": 1} for creator in ("zz-first", "zz-second")},
            "budget-climbs": hard,
            **{creator: {"budget_usd_per_month": 2} for creator in ("budget-yields", "budget-insists")},
            "odd-slowed": {"when_unusual": "throttle"},
            "odd-paused": {"when_unusual": "pause"},
            **{creator: {} for creator in ("credits-end", "key-ends", "odd-dear", "zz-odd", "unlucky")},
        }
        self.keys = {creator: self.gateway.key_of(creator, **given) for creator, given in overrides.items()}
        grant(self.gateway, self.keys["credits-end"], 10)
        for days in (6, 8):
            self.keys[f"ends in {days}"] = self.gateway.new_key("key-ends", expires_in_s=days * DAY_S)

    def _seed_usual_hours(self) -> None:
        """Two hours with three calls of a cent in all."""
        features = {"odd-slowed": "search", "odd-paused": "", "odd-dear": "search", "zz-odd": ""}
        self.gateway.seed(
            *(
                Hour(back, creator, feature, self.keys[creator].id, 3, CENT)
                for creator, feature in features.items()
                for back in (2, 5)
            )
        )

    async def everything_happens(self) -> None:
        gateway, receiver = self.gateway, self.receiver
        receiver.is_mute = False
        self._seed_usual_hours()
        gateway.change(SLACK_WEBHOOK_URL=receiver.slack_url, SMTP_URL=receiver.smtp_url)
        gateway.change(MAIL_FROM=MAIL_FROM, MAIL_TO=MAIL_TO)
        gateway.start()
        for creator in ("quota-climbs", "budget-climbs"):
            await self.spent(creator, 80)
        await self.spent("quota-jumps", 96)
        await self.spent("budget-yields", 3, model="pair")
        await self.spent("budget-insists", 1, model="pair")
        await self.refused("budget-insists", 2, model="pair", headers=NEVER)
        await self.spent("budget-insists", 65)  # 82 %: less than was told
        assert (
            await paint(gateway, self.keys["credits-end"], paints(self.upstream), model="masterpiece")
        ).status == 200
        await self.paints_in_vain()
        for _ in range(6):
            await self.spent("odd-slowed", 1, headers=SEARCH)
            await self.spent("odd-paused", 1)
        await self.spent("odd-dear", 2, model="dollar", headers=SEARCH)
        await gateway.told(*(Told(f"{of}.80_percent", f"{of}-climbs") for of in ("quota", "budget")))
        for creator in ("quota-climbs", "budget-climbs"):
            await self.spent(creator, 15)
        await gateway.told(*(Told(f"{of}.95_percent", f"{of}-climbs") for of in ("quota", "budget")))
        await self.refused("quota-climbs", 6)
        await self.spent("budget-climbs", 5)
        await self.fails(20)
        await gateway.told(*ONCE)
        self.before_restart = await self._delivered("webhook")
        assert gateway.stop() == 0

    async def everything_happens_again(self) -> None:
        gateway = self.gateway
        gateway.start()
        await self.spent("quota-waits", 1)
        await self.spent("quota-jumps", 1)
        await self.refused("quota-climbs", 6)
        await self.refused("budget-climbs", 1)
        await self.spent("budget-yields", 3, model="pair")
        await self.refused("budget-insists", 2, model="pair", headers=NEVER)
        await self.paints_in_vain()
        await self.spent("odd-dear", 2, model="dollar", headers=SEARCH)
        self.refused_again["odd-slowed"] = await self.refused("odd-slowed", 1, "rate_limit_exceeded", headers=SEARCH)
        self.refused_again["odd-paused"] = await self.refused("odd-paused", 1, "key_paused")
        await self.fails(20)
        gateway.admin_json("POST", "/admin/notices/test")
        for _ in range(6):
            await self.spent("zz-odd", 1)
        for creator in ("zz-first", "zz-second"):  # the second is seen only after a whole look at the first
            await self.spent(creator, 85)
            await gateway.told(Told("quota.80_percent", creator))
        await gateway.told(*AFTERWARDS)
        self.in_the_end = await self._delivered("webhook", "slack", "mail")

    async def _delivered(self, *targets: str) -> list[dict[str, Any]]:
        """All notices, once nothing waits to be sent to these targets for the first time."""
        await soon(lambda: not any(_untried(self.gateway.notices(), target) for target in targets), "all deliveries")
        return self.gateway.notices()

    @property
    def new(self) -> list[dict[str, Any]]:
        """Notices that were recorded when all three targets were there."""
        known = {notice["id"] for notice in self.before_crash}
        return [notice for notice in self.in_the_end if notice["id"] not in known]

    def one(self, kind: str, subject: str) -> dict[str, Any]:
        (found,) = [notice for notice in self.in_the_end if tally([notice]) == {Told(kind, subject): 1}]
        return dict(found)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture(scope="module")
def story(upstream: Upstream, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    within_an_hour()
    folder = tmp_path_factory.mktemp("telling")
    gateway = TellingGateway(folder, upstream, receiver, NOTICE_DAY_COST_USD=DAY_COST, LOG_LEVEL="debug")
    story = Story(gateway, upstream, receiver)
    try:
        for chapter in (story.nobody_listens, story.everything_happens, story.everything_happens_again):
            asyncio.run(chapter())
        yield story
        gateway.audit()
        assert gateway.stop() == 0
    finally:
        gateway.close()


def _ids(posts: list[Post]) -> list[str]:
    return [post.notice_id for post in posts]


def _delivery(notice: dict[str, Any], target: str) -> dict[str, Any]:
    return next((delivery for delivery in notice["deliveries"] if delivery["target"] == target), {})


def _untried(notices: list[dict[str, Any]], target: str) -> list[str]:
    return [notice["id"] for notice in notices if _delivery(notice, target).get("attempts") == 0]


# A dead receiver


def test_calls_are_answered_while_a_receiver_holds_its_notice(story: Story) -> None:
    """It held the same one before the first call and after the last: no call waited for it, and it was sent no other."""
    assert statuses(story.answers_while_dead) == {200: CALLS}
    assert len(story.held_before_calls) == 1
    assert story.held_after_calls == (1, story.held_before_calls)


def test_what_a_dead_receiver_is_sent_is_bounded(story: Story) -> None:
    """Whoever refuses is tried again after five seconds, then after thirty."""
    assert tally(story.before_crash) == WHILE_DEAD
    assert story.posts_before_crash == 1
    for notice in story.before_crash:
        assert _delivery(notice, "webhook").items() >= {"state": "pending", "attempts": 0, "error": ""}.items()
        refused = _delivery(notice, "slack")
        assert (refused["state"], refused["error"]) == ("pending", "connect_failed")
        assert refused["attempts"] in (1, 2)
    tries = sum(_delivery(notice, "slack")["attempts"] for notice in story.before_crash)
    logged = [line for line in story.gateway.log_lines("notice_not_delivered") if line["error"] == "connect_failed"]
    assert len(logged) == tries


def test_what_was_not_delivered_before_a_crash_arrives_after_it_under_the_same_id(story: Story) -> None:
    waiting = [notice["id"] for notice in story.before_crash]
    after = _ids(story.receiver.webhooks)[story.posts_before_crash :]
    assert len(waiting) == 2
    assert sorted(after[:2]) == sorted(waiting)
    first, *again = [post for post in story.receiver.webhooks if post.notice_id == story.held_before_calls[0]]
    assert [post.body for post in again] == [first.body]


# Each once


def test_every_kind_is_told_once(story: Story) -> None:
    assert {told.kind for told in ONCE} == KINDS
    assert tally(story.before_restart) == ONCE
    arrived = story.receiver.webhooks[story.posts_before_crash :][: ONCE.total()]
    assert tally_of_posts(arrived) == ONCE


def test_nothing_is_told_again_in_the_same_period_after_a_restart(story: Story) -> None:
    assert tally(story.in_the_end) == ONCE + AFTERWARDS
    assert story.in_the_end[-ONCE.total() :] == [
        notice | {"deliveries": now["deliveries"]}
        for notice, now in zip(story.before_restart, story.in_the_end[-ONCE.total() :], strict=True)
    ]


def test_every_notice_arrives_exactly_once_wherever_it_was_to_go(story: Story) -> None:
    receiver = story.receiver
    everything = [notice["id"] for notice in story.in_the_end]
    new = [notice["id"] for notice in story.new]
    arrived = receiver.webhooks[story.posts_before_crash :]
    assert Counter(_ids(arrived)) == Counter(everything)
    on_slack = Counter(text.rsplit(" · ", 1)[1] for text in receiver.slack_texts)
    assert {notice_id: on_slack[notice_id] for notice_id in new} == dict.fromkeys(new, 1)
    assert Counter(mail["message-id"].strip("<>").split("@")[0] for mail in receiver.mails) == Counter(new)
    for notice in story.new:
        fates = [(way["target"], way["state"], way["attempts"], way["error"]) for way in notice["deliveries"]]
        assert fates == [(target, "delivered", 1, "") for target in ("mail", "slack", "webhook")]


def test_what_a_plan_did_about_an_anomaly_outlives_the_restart(story: Story) -> None:
    assert {creator: answer.status for creator, answer in story.refused_again.items()} == {
        "odd-slowed": 429,
        "odd-paused": 403,
    }


# What is said


def test_every_webhook_is_signed_as_standard_webhooks_says(story: Story) -> None:
    verifier, stranger = Verifier(WEBHOOK_SECRET), Verifier("whsec_" + "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0")
    listed = {notice["id"]: notice for notice in story.in_the_end}
    for post in story.receiver.webhooks:
        said = verifier.verify(post.body, post.headers)
        assert said == post.json
        notice = listed[post.notice_id]
        about = {"id": notice["id"], "creator": notice["creator"], "message": notice["message"]}
        assert said == {"type": notice["kind"], "timestamp": notice["created_at"], "data": {**notice["data"], **about}}
        with pytest.raises(WebhookVerificationError):
            stranger.verify(post.body, post.headers)
        with pytest.raises(WebhookVerificationError):
            verifier.verify(post.body.replace(b"ntc_", b"ntc-"), post.headers)


def test_slack_and_mail_say_the_same(story: Story) -> None:
    receiver, notice = story.receiver, story.one("budget.exhausted", "budget-climbs")
    text = f"{notice['message']}\nbudget.exhausted · {notice['id']}"
    assert text in receiver.slack_texts
    (mail,) = [mail for mail in receiver.mails if notice["id"] in mail["message-id"]]
    assert (mail["from"], mail["to"]) == (MAIL_FROM, MAIL_TO)
    assert mail["subject"] == "[gateway] budget.exhausted (budget-climbs)"
    lines = mail.get_content().splitlines()
    assert lines[0] == notice["message"]
    assert {"used_usd: 1", "limit_usd: 1", f"id: {notice['id']}"} <= set(lines)
    assert set(receiver.logins) == {(MAIL_USER, MAIL_PASSWORD)}


def test_limits_are_told_with_what_is_spent_and_until_when(story: Story) -> None:
    now = datetime.now(UTC)
    month = f"{now:%Y-%m}"
    first = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    told = story.one("quota.exhausted", "quota-climbs")
    assert told["data"] == {
        "limit_name": "quota_usd_per_month",
        "used_nano_usd": 95 * CENT,
        "used_usd": "0.95",
        "limit_nano_usd": USD,
        "limit_usd": "1",
        "percent": 95,
        "period": month,
        "resets_at": f"{first:%Y-%m-%dT%H:%M:%SZ}",
    }
    steps = [story.one(f"budget.{step}", "budget-climbs")["data"] for step in ("80_percent", "95_percent", "exhausted")]
    assert [(data["used_usd"], data["percent"]) for data in steps] == [("0.8", 80), ("0.95", 95), ("1", 100)]
    down = story.one("budget.downgraded", "budget-yields")["data"]
    assert (down["requested_model"], down["served_model"]) == ("pair", "plain")
    assert (down["limit_name"], down["limit_usd"], down["period"]) == ("budget_usd_per_month", "2", month)
    spent = story.one("credits.exhausted", "credits-end")["data"]
    used = {"used_credits": 10, "limit_credits": 10, "left_credits": 0}
    assert spent == {"limit_name": "credits", **used, "period": f"{now:%Y-%m-%d}"}


def test_only_the_key_that_ends_within_a_week_is_told_of(story: Story) -> None:
    notice, key = story.one("key.expiring", "key-ends"), story.keys["ends in 6"]
    shown = story.gateway.admin_json("GET", "/admin/creators/key-ends/keys")["data"]
    ends_at = next(row["expires_at"] for row in shown if row["id"] == key.id)
    assert notice["data"] == {"key_id": key.id, "expires_at": ends_at}


def test_the_day_and_the_errors_are_told_with_their_figures(story: Story) -> None:
    day = story.one("day_cost.above", "")["data"]
    assert (day["limit_usd"], day["period"]) == (DAY_COST, f"{datetime.now(UTC):%Y-%m-%d}")
    assert day["cost_nano_usd"] >= CALLS * CENT
    for subject, provider in (("all", None), ("rig", "rig")):
        data = story.one("error_rate.above", subject)["data"]
        assert (data["provider"], data["limit_percent"], data["period"]) == (provider, "5", hour_back(0))
        assert data["calls"] >= 20
        assert 0 < data["errors"] <= 20
        assert float(data["percent"]) > 5
        assert data["percent"] == f"{data['errors'] * 10_000 // data['calls'] / 100:g}"


# What is not said


def test_no_secret_is_in_anything_that_is_told_or_listed(story: Story) -> None:
    """The logs and the database are looked through when the gateway ends."""
    gateway, receiver = story.gateway, story.receiver
    said = {
        "the webhooks": b"".join(post.body for post in receiver.posts),
        "their headers": "".join(str(post.headers) for post in receiver.posts).encode(),
        "the mails": b"".join(mail.as_bytes() for mail in receiver.mails),
        **{
            path: gateway.admin("GET", path, params={"limit": 1000}).content
            for path in ("/admin/notices", "/admin/anomalies", "/admin/throttles")
        },
    }
    found = [
        (name, where) for where, text in said.items() for name, canary in gateway.canaries() if canary.encode() in text
    ]
    assert found == []
    assert all(said.values())
