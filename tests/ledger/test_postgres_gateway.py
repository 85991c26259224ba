"""A real gateway on a real PostgreSQL: calls, a kill, a restart of either, and what the books say then."""

import asyncio
from pathlib import Path

from tests.ledger.books import count, rows
from tests.rig import wire
from tests.rig.gateway import Gateway
from tests.rig.upstream import Upstream
from tests.servers.postgres_server import PASSWORD, PostgresServer

SECRET = "a-root-secret-of-the-tests-0123456789"


async def test_a_gateway_on_postgres_books_its_calls_through_restarts_of_either(
    tmp_path: Path, upstream: Upstream
) -> None:
    for name in ("first", "other"):
        (tmp_path / name).mkdir()
    with PostgresServer() as server:
        url = server.create_database("gateway")
        settings = {"DATABASE_URL": url, "SECRET": SECRET}
        gateway = Gateway(tmp_path / "first", upstream, settings=settings)
        other = Gateway(tmp_path / "other", upstream, settings=settings)
        try:
            gateway.start()
            key, script = gateway.new_key(), upstream.reply(wire.completion("a", usage=wire.usage(100, 10)))
            answers = await asyncio.gather(*(gateway.chat(key, script) for _ in range(20)))
            assert {answer.status for answer in answers} == {200}
            gateway.kill9()
            gateway.start()
            assert (await gateway.chat(key, script)).status == 200
            other.launch()
            assert other.wait(30) != 0
            assert "another gateway uses this database" in other.logs()
            await asyncio.to_thread(server.restart)
            async with asyncio.timeout(30):
                while (answer := await gateway.chat(key, script)).status != 200:
                    assert answer.status == 503
            usage = gateway.admin_json("GET", "/admin/costs?group_by=creator")
            assert usage["data"][0]["calls"] == 22
            verified = gateway.verify()
            assert verified.returncode == 0, verified.stdout + verified.stderr
            assert "22 entries" in verified.stdout
            assert gateway.stop() == 0
            assert count(url, "holds") == 0
            assert rows(url, "SELECT count(DISTINCT request_id) FROM entries") == [(22,)]
            assert PASSWORD not in gateway.logs() + other.logs()
        finally:
            gateway.close()
            other.close()
