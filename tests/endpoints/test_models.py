"""`/v1/models` as the port has it: what a key and its plan allow, and nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.app import build_app
from tests.clocked_gateway import Clock, ClockedGateway, chat_model, opened, utc

TIERED = chat_model("fine", more='tier = "premium"')


@asynccontextmanager
async def answering(folder: Path) -> AsyncIterator[tuple[ClockedGateway, httpx.AsyncClient]]:
    async with opened(folder, Clock(utc(2026, 5, 10, 12)), models=TIERED) as gateway:
        transport = httpx.ASGITransport(build_app(gateway.services))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:
            yield gateway, http


@pytest.mark.parametrize(
    ("overrides", "shown", "hidden"),
    [
        pytest.param({}, {"talk", "painter", "fine"}, set(), id="all"),
        pytest.param({"models": ["talk"]}, {"talk"}, {"grand", "painter", "fine"}, id="models"),
        pytest.param({"tiers": ["premium"]}, {"fine"}, {"talk", "painter"}, id="tiers"),
        pytest.param({"endpoints": ["images"]}, {"painter", "gallery"}, {"talk", "fine"}, id="endpoints"),
        pytest.param({"endpoints": ["chat"]}, {"talk", "fine"}, {"painter", "gallery"}, id="another endpoint"),
    ],
)
async def test_the_list_has_what_the_plan_allows(tmp_path, overrides: dict[str, Any], shown, hidden):
    async with answering(tmp_path) as (gateway, http):
        headers = {"authorization": f"Bearer {await gateway.new_key(**overrides)}"}
        listed = {model["id"] for model in (await http.get("/v1/models", headers=headers)).json()["data"]}
        assert shown <= listed
        assert not hidden & listed
        for name in shown:
            assert (await http.get(f"/v1/models/{name}", headers=headers)).json()["id"] == name
        for name in hidden:
            answer = await http.get(f"/v1/models/{name}", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
