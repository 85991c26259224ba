"""Assets in a bucket, over HTTP to a server that speaks S3 (moto's)."""

import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.session import Session
from moto.server import ThreadedMotoServer

from gateway.assets.base import AssetError, AssetMissing
from gateway.assets.opening import open_asset_store
from gateway.assets.s3 import S3Access, S3Store
from gateway.ledger.ids import EntryIds
from tests.kept_world import b64, open_kept_world, png

BUCKET = "pictures"
KEYS = {"access_key": "AKIDEXAMPLE", "secret_key": "the-secret-key"}
IDS = EntryIds()


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, Any]]:
    """The server's URL and a client of it; it has one empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client = _client(url)
    client.create_bucket(Bucket=BUCKET)
    yield url, client
    client.close()
    server.stop()


@pytest.fixture(scope="module")
def server(bucket: tuple[str, Any]) -> str:
    return bucket[0]


def _client(url: str) -> Any:
    return Session().create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(s3={"addressing_style": "path"}, proxies={}),
    )


@asynccontextmanager
async def opened(url: str, server: str, folder: Path) -> AsyncIterator[S3Store]:
    store = open_asset_store(url, folder, endpoint=server, **KEYS)
    assert isinstance(store, S3Store)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: str, tmp_path: Path) -> AsyncIterator[S3Store]:
    async with opened(f"s3://{BUCKET}/made/here", server, tmp_path) as store:
        yield store


def new_id() -> str:
    return IDS.next(1_800_000_000_000)[0]


async def test_what_is_put_is_read_in_pieces_until_it_is_deleted(store: S3Store) -> None:
    asset = new_id()
    await store.put(asset, "image/png", b"0123456789")
    assert [await store.read(asset, start, 4) for start in (0, 4, 8)] == [b"0123", b"4567", b"89"]
    await store.delete(asset)
    with pytest.raises(AssetMissing):
        await store.read(asset, 0, 4)
    await store.delete(asset)


async def test_an_object_lies_below_the_prefix_with_its_type(store: S3Store, bucket: tuple[str, Any]) -> None:
    asset = new_id()
    await store.put(asset, "image/webp", b"x")
    found = bucket[1].head_object(Bucket=BUCKET, Key=f"made/here/{asset}")
    assert (found["ContentType"], found["ContentLength"]) == ("image/webp", 1)


async def test_without_a_prefix_objects_lie_at_the_top(bucket: tuple[str, Any], tmp_path: Path) -> None:
    asset = new_id()
    async with opened(f"s3://{BUCKET}", bucket[0], tmp_path) as store:
        await store.put(asset, "image/png", b"x")
    assert bucket[1].head_object(Bucket=BUCKET, Key=asset)["ContentLength"] == 1


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "x" * 36])
async def test_only_ids_are_names_of_objects(store: S3Store, name: str) -> None:
    for work in (store.put(name, "image/png", b"x"), store.read(name, 0, 1), store.delete(name)):
        with pytest.raises(AssetMissing):
            await work


async def test_a_bucket_that_is_not_there_is_an_error_that_says_so(server: str, tmp_path: Path) -> None:
    async with opened("s3://no-such-bucket", server, tmp_path) as store:
        with pytest.raises(AssetError, match="NoSuchBucket"):
            await store.put(new_id(), "image/png", b"x")


async def test_a_server_that_is_not_there_is_an_error_without_keys_in_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        async with opened(f"s3://{BUCKET}", f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path) as store:
            with pytest.raises(AssetError) as caught:
                await store.put(new_id(), "image/png", b"x")
    assert KEYS["secret_key"] not in f"{caught.value!r}"


async def test_nothing_in_the_environment_leads_astray(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is looked at when the client is made; the server, in the same process, must not see it."""
    (tmp_path / "config").write_text(
        "[default]\nendpoint_url = http://127.0.0.1:9\ns3 =\n  addressing_style = virtual\n"
    )
    with monkeypatch.context() as astray:
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "ALL_PROXY"):
            astray.setenv(name, "http://127.0.0.1:9")
        astray.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        astray.setenv("AWS_PROFILE", "of-somebody-else")
        astray.setenv("AWS_ACCESS_KEY_ID", "AKIDOFSOMEBODYELSE")
        astray.setenv("AWS_DEFAULT_REGION", "nowhere-1")
        astray.setenv("AWS_USE_FIPS_ENDPOINT", "true")
        client = store._client()
    assert client.meta.region_name == "us-east-1"
    asset = new_id()
    await store.put(asset, "image/png", b"x")
    assert await store.read(asset, 0, 9) == b"x"


async def test_a_closed_store_says_so(server: str, tmp_path: Path) -> None:
    async with opened(f"s3://{BUCKET}", server, tmp_path) as store:
        pass
    with pytest.raises(AssetError):
        await store.put(new_id(), "image/png", b"x")


def test_keys_are_not_shown() -> None:
    shown = repr(S3Access("us-east-1", **KEYS))
    assert not any(key in shown for key in KEYS.values())


async def test_a_call_keeps_its_images_in_the_bucket(store: S3Store, tmp_path: Path) -> None:
    async with open_kept_world(tmp_path, store=store) as kept:
        _, answer = await kept.keep([b64(png(300))])
        assert answer is not None
        assert list(answer["data"][0]) == ["url"]
        (asset,) = await kept.assets()
        pieces = await kept.kept.library.open(await kept.kept.library.find(asset["id"]))
        assert b"".join([piece async for piece in pieces]) == png(300)
