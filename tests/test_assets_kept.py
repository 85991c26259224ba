"""What is kept of an answered call: its history, and its images where URLs were asked for."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from gateway.assets.base import AssetError
from gateway.assets.folder import FolderStore
from gateway.assets.library import AssetBounds, Library
from gateway.assets.links import AssetLinks
from gateway.images import read_image_request
from gateway.kept_images import IMAGES_MAX, KeptImages
from gateway.ledger.schema import generations
from gateway.metering import NOTHING
from gateway.model_request import Answered, ModelRequest
from gateway.secrets import Secrets
from tests.account_world import ROOT
from tests.clocked_gateway import Answer, Clock, opened, utc
from tests.kept_world import BASE, NOON_S, TTL_S, KeptWorld, b64, open_kept_world, painter, png


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[KeptWorld]:
    async with open_kept_world(tmp_path) as kept:
        yield kept


def id_in(url: str) -> str:
    return url.removeprefix(f"{BASE}/assets/").partition("?")[0]


async def test_base64_becomes_a_signed_url_where_urls_were_asked_for(kept: KeptWorld) -> None:
    _, answer = await kept.keep([{**b64(png()), "revised_prompt": "a fine cat"}], answer={"usage": {"total_tokens": 7}})
    assert answer is not None
    url = answer["data"][0]["url"]
    assert answer == {
        "created": 1,
        "data": [{"revised_prompt": "a fine cat", "url": url}],
        "usage": {"total_tokens": 7},
    }
    assert f"?expires={int(NOON_S) + TTL_S}&signature=" in url
    (asset,) = await kept.assets()
    assert asset["id"] == id_in(url)
    assert (asset["creator"], asset["account_id"], asset["content_type"]) == ("acme", "acme", "image/png")
    pieces = await kept.kept.library.open(await kept.kept.library.find(id_in(url)))
    assert b"".join([piece async for piece in pieces]) == png()


async def test_every_image_gets_a_row_of_history(kept: KeptWorld) -> None:
    request_id, _ = await kept.keep(
        [b64(png(100)), {**b64(png(200)), "revised_prompt": "r" * 2_000}], prompt="p" * 2_000, size="512x512"
    )
    rows = await kept.generations()
    asset_ids = [asset["id"] for asset in await kept.assets()]
    assert [row["position"] for row in rows] == [0, 1]
    assert {row["asset_id"] for row in rows} == set(asset_ids)
    assert all(row["id"].startswith("gen_") for row in rows)
    shared = {name: rows[0][name] for name in ("account_id", "creator", "request_id", "endpoint", "model", "provider")}
    assert shared == {
        "account_id": "acme",
        "creator": "acme",
        "request_id": request_id,
        "endpoint": "images",
        "model": "painter",
        "provider": "mock",
    }
    assert [row["prompt"] for row in rows] == ["p" * 1_000] * 2
    assert [row["revised_prompt"] for row in rows] == ["", "r" * 1_000]
    assert {row["variant"] for row in rows} == {"512x512/standard"}
    assert {row["is_selected"] for row in rows} == {False}
    assert {row["created_at"] for row in rows} == {int(NOON_S * 1000)}


@pytest.mark.parametrize("response_format", ["b64_json", None])
async def test_an_answer_nobody_wanted_urls_for_stays_as_it_came(kept: KeptWorld, response_format: str | None) -> None:
    _, answer = await kept.keep([b64(png())], response_format=response_format)
    assert answer is None
    assert kept.files() == set()
    (row,) = await kept.generations()
    assert row["asset_id"] == ""


async def test_an_image_at_the_providers_url_is_recorded_and_never_fetched(kept: KeptWorld) -> None:
    _, answer = await kept.keep([{"url": "http://127.0.0.1:9/never"}])
    assert answer is None
    assert [row["asset_id"] for row in await kept.generations()] == [""]


async def test_entries_without_an_image_are_no_generations(kept: KeptWorld) -> None:
    _, answer = await kept.keep([{}, None, b64(png()), {"b64_json": ""}])
    assert answer is not None
    assert [row["position"] for row in await kept.generations()] == [2]
    assert answer["data"][0] == {}
    assert list(answer["data"][2]) == ["url"]


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(b64(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"), id="svg"),
        pytest.param(b64(b"<html><script>alert(1)</script></html>"), id="html"),
        pytest.param(b64(png(4_001)), id="too large"),
        pytest.param({"b64_json": "A" * 8_000}, id="far too large"),
        pytest.param({"b64_json": "not base64!"}, id="no base64"),
        pytest.param({"b64_json": "iVBORw0KGgo=\n"}, id="base64 with a line end"),
    ],
)
async def test_what_cannot_be_kept_stays_base64_beside_what_can(kept: KeptWorld, entry: dict[str, str]) -> None:
    with capture_logs() as logs:
        _, answer = await kept.keep([entry, b64(png())])
    assert answer is not None
    assert answer["data"][0] == entry
    assert list(answer["data"][1]) == ["url"]
    assert [row["asset_id"] != "" for row in await kept.generations()] == [False, True]
    assert [line["event"] for line in logs] == ["asset_refused"]


async def test_no_more_images_are_kept_than_a_call_can_ask_for(kept: KeptWorld) -> None:
    _, answer = await kept.keep([b64(png(9))] * (IMAGES_MAX + 4))
    assert answer is not None
    assert ["url" in entry for entry in answer["data"]] == [True] * IMAGES_MAX + [False] * 4
    assert len(await kept.generations()) == IMAGES_MAX


async def test_without_a_store_the_base64_stays_and_the_log_says_so(tmp_path: Path) -> None:
    async with open_kept_world(tmp_path, is_off=True) as kept:
        with capture_logs() as logs:
            request_id, answer = await kept.keep([b64(png())])
        assert answer is None
        assert len(await kept.generations()) == 1
    assert [(line["event"], line["request_id"]) for line in logs] == [("images_not_stored", request_id)]


async def test_a_store_that_fails_costs_the_url_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    async with open_kept_world(tmp_path, store=FolderStore(tmp_path / "taken")) as kept:
        with capture_logs() as logs:
            _, answer = await kept.keep([b64(png())])
        assert answer is None
        assert [row["asset_id"] for row in await kept.generations()] == [""]
        assert await kept.assets() == []
    assert [line["event"] for line in logs] == ["asset_not_stored"]


class Moody:
    """A folder that refuses every second image."""

    def __init__(self, folder: Path) -> None:
        self._inner = FolderStore(folder)
        self._turn = 0

    async def put(self, id: str, content_type: str, data: bytes) -> None:
        self._turn += 1
        if self._turn % 2 == 0:
            raise AssetError("not today")
        await self._inner.put(id, content_type, data)

    async def read(self, id: str, start: int, length: int) -> bytes:
        return await self._inner.read(id, start, length)

    async def delete(self, id: str) -> None:
        await self._inner.delete(id)

    async def close(self) -> None:
        await self._inner.close()


async def test_a_url_leads_to_its_own_image_also_where_others_failed(tmp_path: Path) -> None:
    async with open_kept_world(tmp_path, store=Moody(tmp_path / "assets")) as kept:
        images = [png(100 + number, bytes([number])) for number in range(5)]
        _, answer = await kept.keep([b64(image) for image in images])
        assert answer is not None
        for image, entry in zip(images, answer["data"], strict=True):
            if "url" not in entry:
                assert entry == b64(image)
                continue
            pieces = await kept.kept.library.open(await kept.kept.library.find(id_in(entry["url"])))
            assert b"".join([piece async for piece in pieces]) == image
        assert sum("url" in entry for entry in answer["data"]) == 3


async def test_where_the_ledger_cannot_be_written_the_answer_stays_and_the_file_goes(tmp_path: Path) -> None:
    async with open_kept_world(tmp_path) as kept:
        account = await kept.account()
        await kept.world.database.ledger.close(10)
        with capture_logs() as logs:
            _, answer = await kept.keep([b64(png())], account=account)
        assert answer is None
        assert "images_not_recorded" in [line["event"] for line in logs]
    assert kept.files() == set()


async def test_without_history_images_are_kept_and_prompts_are_not(tmp_path: Path) -> None:
    async with open_kept_world(tmp_path, keeps_history=False) as kept:
        _, answer = await kept.keep([b64(png())], prompt="a secret plan")
        assert answer is not None
        assert await kept.generations() == []
        assert len(await kept.assets()) == 1
        assert b"a secret plan" not in kept.world.stored_bytes()


async def test_an_answer_without_images_leaves_no_trace(kept: KeptWorld) -> None:
    _, answer = await kept.keep([], answer={"data": None})
    assert answer is None
    assert await kept.generations() == []


class Finished:
    """As much of a relay as is asked at the end of a stream."""

    def __init__(self, images: int) -> None:
        self._images = images

    def metered(self, *, is_partial: bool) -> Any:
        assert not is_partial
        return NOTHING._replace(images=self._images)


async def test_of_a_stream_every_image_is_recorded(kept: KeptWorld) -> None:
    request = read_image_request(b'{"model": "painter", "prompt": "a cat"}')
    relay: Any = Finished(2)
    answered = Answered("req_s", await kept.account(), painter(), b"", None, relay, 0)
    assert await kept.kept.keeper(request.body).keep(answered, request) is None
    assert [(row["request_id"], row["position"]) for row in await kept.generations()] == [("req_s", 0), ("req_s", 1)]


async def test_a_creator_who_is_forgotten_leaves_nothing_behind(kept: KeptWorld) -> None:
    await kept.keep([b64(png())], prompt="mine")
    await kept.keep([b64(png())], account=await kept.account("other"), prompt="theirs")
    await kept.kept.forget("acme")
    assert [row["prompt"] for row in await kept.generations()] == ["theirs"]
    (asset,) = await kept.assets()
    assert kept.files() == {asset["id"]}


async def test_calls_at_once_keep_each_their_own(kept: KeptWorld) -> None:
    account = await kept.account()
    images = [png(100 + number, bytes([number])) for number in range(12)]
    done = await asyncio.gather(*(kept.keep([b64(image)], account=account) for image in images))
    for image, (_, answer) in zip(images, done, strict=True):
        assert answer is not None
        found = await kept.kept.library.find(id_in(answer["data"][0]["url"]))
        assert found.size_bytes == len(image)
    ids = [row["id"] for row in await kept.generations()]
    assert len(set(ids)) == len(images)


async def test_the_pipeline_answers_with_urls_that_lead_to_the_images(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(utc(2026, 6, 1, 12))) as gateway:
        services = gateway.services
        library = Library(services.database, FolderStore(tmp_path / "assets"), AssetBounds())
        links = AssetLinks(Secrets(ROOT).hasher("asset-links"), BASE, ttl_s=TTL_S)
        kept = KeptImages(services.database, library, links)
        key = await gateway.new_key()
        raw = b'{"model": "painter", "prompt": "a fox", "n": 2, "response_format": "url"}'

        async def read() -> ModelRequest:
            request = read_image_request(raw)
            request.keeper = kept.keeper(request.body)
            return request

        answer = Answer()
        headers = [(b"host", b"gateway"), (b"authorization", b"Bearer " + key.encode())]
        await services.pipeline.serve("images", read, headers, answer)
        assert answer.status == 200
        for entry in answer.json["data"]:
            assert list(entry) == ["url"]
            pieces = await library.open(await library.find(id_in(entry["url"])))
            assert b"".join([piece async for piece in pieces]).startswith(b"\x89PNG")
        rows = await services.database.fetch_all(select(generations).order_by(generations.c.position))
        assert [(row["request_id"], row["prompt"]) for row in rows] == [(answer.request_id, "a fox")] * 2
        await kept.close()
