"""`POST /admin/estimate`: an admin asks for a creator, from no address of the creator's unless one is named."""

import httpx
import pytest

from gateway.app import build_control_app
from tests.clocked_gateway import Clock, opened, utc


@pytest.fixture
async def asked(tmp_path):
    """How an estimate for a creator with an allow-list comes out, with these fields beside the request."""
    async with opened(tmp_path, Clock(utc(2026, 5, 10, 12))) as gateway:
        await gateway.new_key(addresses=["192.0.2.0/24"])
        transport = httpx.ASGITransport(build_control_app(gateway.services))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", trust_env=False) as http:

            async def ask(**fields: object) -> httpx.Response:
                request = {"model": "talk", "messages": [{"role": "user", "content": "hi"}]}
                return await http.post("/admin/estimate", json={"creator": "acme", "request": request, **fields})

            yield ask


@pytest.mark.parametrize("fields", [{}, {"address": None}, {"address": "192.0.2.7"}, {"address": "::ffff:192.0.2.7"}])
async def test_without_an_address_or_from_an_allowed_one_the_list_refuses_nothing(asked, fields):
    answer = (await asked(**fields)).json()
    assert (answer["would"], answer["refusal"]) == ("admit", None)


@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::1"])
async def test_from_another_address_the_estimate_is_a_refusal(asked, address):
    answer = (await asked(address=address)).json()
    assert (answer["would"], answer["refusal"]["code"]) == ("refuse", "address_not_allowed")


@pytest.mark.parametrize("address", ["", "nowhere", "192.0.2.0/24", "192.0.2.7:80", 7])
async def test_what_is_no_address_is_refused(asked, address):
    answer = await asked(address=address)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "address")
