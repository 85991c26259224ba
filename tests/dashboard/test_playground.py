"""The playground: calls out of a page are calls like all others, and nothing but the creator's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
from structlog.testing import capture_logs

from gateway.ledger.verify import verify
from tests.clocked_gateway import chat_model
from tests.dashboard.served import HANG_S, Served, served
from tests.dashboard.world import opened_dashboard
from tests.ledger.books import rows

CHAT = "/dashboard/me/playground/chat"
IMAGES = "/dashboard/me/playground/images"
MODELS = chat_model("drips", upstream="f0d20n400")
"""Four hundred pieces in eight seconds: whoever leaves leaves in the middle."""
ENTRY = "creator, key_id, feature, endpoint, served_model, outcome, charge_nano_usd"


@asynccontextmanager
async def opened_playground(folder: Path, **settings: Any) -> AsyncIterator[Served]:
    async with (
        opened_dashboard(folder, has_calls=False, models=MODELS, gone_grace_s=0, **settings) as world,
        served(world) as found,
    ):
        yield found


def asked(text: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "talk", "messages": [{"role": "user", "content": text}], **fields}


def said(answer: httpx.Response) -> str:
    """The text of a stream that ended as it should."""
    *events, last = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert last == "[DONE]"
    pieces = [orjson.loads(event) for event in events]
    assert not any("error" in piece for piece in pieces)
    return "".join(choice["delta"].get("content") or "" for piece in pieces for choice in piece["choices"]).strip()


# Refusals


async def test_nobody_calls_without_a_session(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor() as stranger:
        for path in (CHAT, IMAGES):
            answer = await stranger.post(path, json=asked())
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/dashboard/sign-in")
        key = {"authorization": f"Bearer {found.world.keys['ada']}"}
        assert (await stranger.post(CHAT, json=asked(), headers=key)).status_code == 303
        assert found.world.gateway.entries("id") == []


async def test_what_another_site_sends_is_no_call(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        for headers in (
            {"origin": "http://evil.test"},
            {"origin": "null"},
            {"origin": f"{found.origin}.evil.test"},
            {"origin": "", "sec-fetch-site": "cross-site"},
            {"origin": ""},
        ):
            answer = await ada.post(CHAT, json=asked(), headers=headers)
            assert answer.status_code == 403
        assert found.world.gateway.entries("id") == []


async def test_an_admin_has_no_playground(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.admin_keys["owner"]) as owner:
        assert (await owner.get("/dashboard/me/playground")).status_code == 403
        for path in (CHAT, IMAGES):
            assert (await owner.post(path, json=asked())).status_code == 403
        assert found.world.gateway.entries("id") == []


REFUSED = {
    "another creator": (asked(user="bo"), 422, "unknown_field"),
    "another upstream": (asked(api_base="http://evil.test"), 422, "unknown_field"),
    "other labels": (asked(metadata={"feature": "x"}), 422, "unknown_field"),
    "tools": (asked(tools=[]), 422, "unknown_field"),
    "many answers": (asked(n=8), 422, "unknown_field"),
    "too hot": (asked(temperature=3), 400, "invalid_value"),
    "no tokens": (asked(max_tokens=0), 400, "invalid_value"),
    "a word for a switch": (asked(stream="yes"), 400, "invalid_value"),
    "nothing said": ({"model": "talk", "messages": []}, 400, "invalid_value"),
    "a role": ({"model": "talk", "messages": [{"role": "system", "content": "x"}]}, 400, "invalid_value"),
    "parts": ({"model": "talk", "messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "invalid_value"),
    "no object": ([asked()], 400, "invalid_json"),
    "no such model": (asked(model="nothing"), 404, "model_not_found"),
    "too large": (asked("x" * 1_000_001), 413, "request_too_large"),
}


async def test_only_what_the_form_has_can_be_said(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        for what, (body, status, code) in REFUSED.items():
            answer = await ada.post(CHAT, json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), what
            assert answer.headers["x-request-id"].startswith("req_"), what
        assert found.world.gateway.entries("id") == []
        assert found.lent == 0


async def test_headers_of_the_page_steer_nothing(tmp_path: Path) -> None:
    """Neither whose call it is, nor what it is booked under, nor whether it is repeated."""
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        bo = found.world.keys["bo"]
        headers = {
            "x-gateway-creator": "bo",
            "x-gateway-feature": "other",
            "x-gateway-agent": "other",
            "authorization": f"Bearer {bo}",
            "x-api-key": bo,
            "api-key": bo,
            "idempotency-key": "same",
        }
        for _ in range(2):
            answer = await ada.post(CHAT, json=asked(), headers=headers)
            assert answer.status_code == 200
        entries = found.world.gateway.entries("creator, feature, agent")
        assert entries == [("ada", "playground", "")] * 2


async def test_a_session_is_over_with_its_key(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        key_id = found.world.keys["ada"].split("-")[2]
        assert (await ada.post(CHAT, json=asked())).status_code == 200
        await found.world.admin_api("POST", f"/admin/keys/{key_id}/pause")
        for path in ("/dashboard/me", "/dashboard/me/playground"):
            assert (await ada.get(path)).headers["location"] == f"/dashboard/sign-in?next={path}"
        assert (await ada.post(CHAT, json=asked())).headers["location"] == "/dashboard/sign-in"
        assert len(found.world.gateway.entries("id")) == 1


async def test_a_limit_holds_on_the_page_as_elsewhere_and_says_when_to_come_back(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found:
        await found.world.new_creator("cy", requests_per_hour=1)
        async with found.visitor(found.world.keys["cy"]) as cy:
            assert (await cy.post(CHAT, json=asked())).status_code == 200
            with capture_logs() as logs:
                refused = await cy.post(CHAT, json=asked())
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert int(refused.headers["retry-after"]) > 0
            assert [line["event"] for line in logs] == ["request_rejected"]
        outside = await found.world.gateway.chat(found.world.keys["cy"])
        assert outside.status == 429
        assert len(found.world.gateway.entries("id")) == 1
        assert found.lent == 0


# Calls


async def test_a_stream_is_booked_as_the_creator_s_own_call(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        with capture_logs() as logs:
            answer = await ada.post(CHAT, json=asked("say this", system="Be brief.", temperature=0.5, max_tokens=50))
        assert answer.status_code == 200
        assert said(answer) == "You said: say this"
        assert answer.headers["x-gateway-model"] == "talk"
        assert answer.headers["content-type"].startswith("text/event-stream")
        (request_id,) = answer.headers.get_list("x-request-id")
        key_id = found.world.keys["ada"].split("-")[2]
        (entry,) = found.world.gateway.entries(f"request_id, is_streaming, {ENTRY}")
        assert entry[:-1] == (request_id, 1, "ada", key_id, "playground", "chat", "talk", "ok")
        assert entry[-1] > 0
        assert found.lent == 0
        finished = [line for line in logs if line["event"].startswith("request_")]
        assert [(line["event"], line["request_id"], line["creator"]) for line in finished] == [
            ("request_finished", request_id, "ada")
        ]
        page = await ada.get(f"/dashboard/me/calls/{request_id}")
        assert page.status_code == 200
        assert "playground" in page.text


async def test_an_answer_can_come_whole(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        messages = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
        answer = await ada.post(CHAT, json={"model": "talk", "messages": messages, "stream": False})
        assert answer.json()["choices"][0]["message"]["content"] == "You said: three"
        assert answer.headers["x-gateway-cost-usd"]
        assert found.lent == 0


async def test_every_answer_carries_the_policy_of_pages(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        for body in (asked(), asked(stream=False), asked(model="nothing"), asked(n=1)):
            answer = await ada.post(CHAT, json=body)
            (policy,) = answer.headers.get_list("content-security-policy")
            assert "script-src 'self'" in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "no-store" in answer.headers["cache-control"]
            assert "set-cookie" not in answer.headers
            # The next answer on the connection is another one's.
            api = await ada.get("/v1/models", headers={"authorization": f"Bearer {found.world.keys['ada']}"})
            assert "content-security-policy" not in api.headers


async def test_an_image_is_made_paid_for_and_shown_from_this_host(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        body = {"model": "painter", "prompt": "a <b>cat</b>", "size": "256x256"}
        answer = await ada.post(IMAGES, json=body)
        assert answer.status_code == 200, answer.text
        (image,) = answer.json()["data"]
        assert "/assets/" in image["url"]
        ((creator, feature),) = found.world.gateway.entries("creator, feature")
        assert (creator, feature) == ("ada", "playground")
        page = (await ada.get("/dashboard/me/images")).text
        assert "a &lt;b&gt;cat&lt;/b&gt;" in page
        source = page.split('<img src="')[1].split('"')[0].replace("&amp;", "&")
        assert source.startswith("/assets/")
        picture = await ada.get(source)
        assert picture.headers["content-type"] == "image/png"
        refused = await ada.post(IMAGES, json={**body, "n": 9})
        assert refused.json()["error"]["code"] == "unknown_field"


async def test_leaving_in_the_middle_is_booked_once(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found:
        async with (
            found.visitor(found.world.keys["ada"]) as ada,
            ada.stream("POST", CHAT, json=asked(model="drips")) as answer,
        ):
            assert answer.status_code == 200
            request_id = answer.headers["x-request-id"]
            assert found.lent == 1
            async for piece in answer.aiter_text():
                if "content" in piece:
                    break
        await found.is_idle()
        (entry,) = found.world.gateway.entries(f"request_id, {ENTRY}")
        key_id = found.world.keys["ada"].split("-")[2]
        assert entry[:-1] == (request_id, "ada", key_id, "playground", "chat", "drips", "client_gone")
        assert entry[-1] > 0
        assert found.lent == 0
        assert rows(found.world.gateway.path, "SELECT count(*) FROM holds") == [(0,)]
        assert verify(found.world.gateway.path).differences == []


async def test_leaving_before_the_request_is_whole_costs_nothing(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found, found.visitor(found.world.keys["ada"]) as ada:
        cookie = "; ".join(f"{name}={value}" for name, value in ada.cookies.items())
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{found.port}\r\nOrigin: {found.origin}\r\nCookie: {cookie}\r\n"
        with capture_logs() as logs:
            reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
            writer.write(f"{head}Content-Length: 500\r\n\r\n{{".encode())
            await writer.drain()
            async with asyncio.timeout(HANG_S):
                while not len(found.world.services.calls):
                    await asyncio.sleep(0)
            writer.close()
            await writer.wait_closed()
            await found.is_idle()
        assert await reader.read() == b""
        assert [line["code"] for line in logs if line["event"] == "request_rejected"] == ["client_gone"]
        assert not [line for line in logs if line["log_level"] == "error"]
        assert found.world.gateway.entries("id") == []
        assert found.lent == 0


async def test_creators_side_by_side_are_told_their_own_words_only(tmp_path: Path) -> None:
    async with opened_playground(tmp_path) as found:
        creators = ("ada", "bo")

        async def talk(creator: str) -> list[str]:
            async with found.visitor(found.world.keys[creator]) as visitor:
                answers = await asyncio.gather(
                    *(visitor.post(CHAT, json=asked(f"{creator} {number}")) for number in range(10))
                )
            return [said(answer) for answer in answers]

        async with asyncio.timeout(HANG_S):
            heard = await asyncio.gather(*(talk(creator) for creator in creators))
        for creator, words in zip(creators, heard, strict=True):
            assert sorted(words) == sorted(f"You said: {creator} {number}" for number in range(10))
        counted = rows(found.world.gateway.path, "SELECT creator, count(*) FROM entries GROUP BY creator ORDER BY 1")
        assert counted == [("ada", 10), ("bo", 10)]
        assert found.lent == 0


# The page


async def test_the_page_offers_what_the_key_may_use(tmp_path: Path) -> None:
    async with opened_dashboard(tmp_path, has_calls=False) as world:
        narrow = await world.new_creator("narrow", models=["talk", "painter"])
        page = await narrow.get("/dashboard/me/playground?model=talk")
        assert page.form(CHAT).options["model"] == ["talk"]
        assert page.form(IMAGES).options["model"] == ["painter"]
        assert {"message", "system", "temperature", "max_tokens", "stream"} <= set(page.form(CHAT).names)
        wide = await world.creator("ada").get("/dashboard/me/playground?model=grand")
        assert wide.form(CHAT).fields["model"] == "grand"
        scripts = [attributes["src"] for tag, attributes in wide.elements if tag == "script"]
        assert any(source.startswith("/dashboard/static/playground.js?v=") for source in scripts)
