"""Assets: the folder they lie in, the URLs they are served at, what opens a store, and the bounds of the library."""

import asyncio
import hmac
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.assets.base import AssetError, AssetMissing, AssetStore
from gateway.assets.folder import FolderStore
from gateway.assets.formats import image_type
from gateway.assets.library import PIECE_BYTES, AssetBounds, Library
from gateway.assets.links import AssetLinks, public_base_url
from gateway.assets.opening import open_asset_store
from gateway.errors import ConfigError, NotFound, RequestError, StoreError
from gateway.ledger.database import Database
from gateway.ledger.generations import AssetRow, asset_by_id, asset_bytes, insert_images
from gateway.ledger.ids import EntryIds
from gateway.secrets import Secrets
from tests.account_world import NOON_S, ROOT, World, open_world

PNG = b"\x89PNG\r\n\x1a\n"
IDS = EntryIds()
BASE = "https://llm.example.com"


def new_id() -> str:
    return IDS.next(1_800_000_000_000)[0]


def png(size: int, filling: bytes = b"x") -> bytes:
    """Enough of one to pass for one."""
    return PNG + filling * (size - len(PNG))


# The folder


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FolderStore]:
    store = FolderStore(tmp_path / "assets")
    yield store
    await store.close()


async def test_what_is_put_is_read_in_pieces_until_it_is_deleted(store: FolderStore) -> None:
    asset = new_id()
    await store.put(asset, "image/png", b"0123456789")
    assert [await store.read(asset, start, 4) for start in (0, 4, 8, 12)] == [b"0123", b"4567", b"89", b""]
    await store.delete(asset)
    with pytest.raises(AssetMissing):
        await store.read(asset, 0, 4)
    await store.delete(asset)


async def test_files_are_for_this_user_alone_and_nothing_else_is_left_in_the_folder(
    store: FolderStore, tmp_path: Path
) -> None:
    asset = new_id()
    await store.put(asset, "image/png", b"x")
    (file,) = (path for path in (tmp_path / "assets").rglob("*") if path.is_file())
    assert file.name == asset
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["", "..", "../secret", "/etc/passwd", "a/b", ".hidden", "\0", "x" * 36])
async def test_only_ids_are_names_of_files(store: FolderStore, name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root")
    for work in (store.put(name, "image/png", b"x"), store.read(name, 0, 1), store.delete(name)):
        with pytest.raises(AssetMissing):
            await work
    assert not (tmp_path / "assets").exists()


async def test_a_folder_that_cannot_be_written_is_an_error_that_names_no_path(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    store = FolderStore(tmp_path / "taken")
    with pytest.raises(AssetError) as caught:
        await store.put(new_id(), "image/png", b"x")
    assert str(tmp_path) not in str(caught.value)
    await store.close()


async def test_a_closed_folder_says_so(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    await store.close()
    with pytest.raises(AssetError):
        await store.put(new_id(), "image/png", b"x")


# What kind of image


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (PNG + b"rest", "image/png"),
        (b"\xff\xd8\xff\xe0rest", "image/jpeg"),
        (b"GIF89arest", "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x20ftypavif", "image/avif"),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>", None),
        (b"<html>", None),
        (b"%PDF-1.7", None),
        (b"", None),
    ],
)
def test_the_bytes_say_what_they_are(data: bytes, content_type: str | None) -> None:
    assert image_type(data) == content_type


# Links


def links(ttl_s: int = 3600, root: bytes = ROOT) -> AssetLinks:
    return AssetLinks(Secrets(root).hasher("asset-links"), BASE, ttl_s=ttl_s)


def parts(url: str) -> tuple[str, str, str]:
    split = urlsplit(url)
    query = parse_qs(split.query)
    return split.path.removeprefix("/assets/"), query["expires"][0], query["signature"][0]


def test_a_link_is_good_until_it_expires_and_says_how_long() -> None:
    made = links().make("some-id", NOON_S)
    assert made.url.startswith(f"{BASE}/assets/some-id?expires={int(NOON_S) + 3600}&signature=")
    assert made.expires_at == int(NOON_S) + 3600
    assert links().check(*parts(made.url), NOON_S) == 3600
    assert links().check(*parts(made.url), NOON_S + 3599.9) == 1
    with pytest.raises(RequestError) as caught:
        links().check(*parts(made.url), NOON_S + 3600)
    assert (caught.value.status, caught.value.code) == (403, "url_expired")


def test_the_signature_is_the_hmac_of_id_and_expiry_under_a_key_for_this_purpose_alone() -> None:
    _, expires, signature = parts(links().make("some-id", NOON_S).url)
    key = Secrets(ROOT).hmac_key("asset-links")
    assert signature == hmac.new(key, f"some-id\n{expires}".encode(), sha256).hexdigest()
    assert key != Secrets(ROOT).hmac_key("virtual-keys")


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        (0, "other-id"),
        (0, ""),
        (1, "99999999999"),
        (1, "1e9"),
        (1, ""),
        (1, "9" * 5000),
        (2, ""),
        (2, "0" * 64),
        (2, "é"),
        (2, "\ud800"),
    ],
)
def test_a_link_that_was_changed_is_not_signed(changed: int, value: str) -> None:
    told = list(parts(links().make("some-id", NOON_S).url))
    told[changed] = value
    with pytest.raises(RequestError) as caught:
        links().check(told[0], told[1], told[2], NOON_S)
    assert (caught.value.status, caught.value.code) == (403, "invalid_signature")


@given(asset=st.text(max_size=40), expires=st.text(max_size=14), signature=st.text(max_size=70))
def test_nothing_made_up_is_ever_good(asset: str, expires: str, signature: str) -> None:
    with pytest.raises(RequestError) as caught:
        links().check(asset, expires, signature, 0.0)
    assert caught.value.status == 403


def test_another_root_signs_other_links() -> None:
    with pytest.raises(RequestError):
        links(root=b"another-root-0123456789abcdef-012").check(*parts(links().make("x", NOON_S).url), NOON_S)


@pytest.mark.parametrize(
    ("public_url", "host", "base"),
    [
        (None, "127.0.0.1", "http://127.0.0.1:8000"),
        ("", "0.0.0.0", "http://127.0.0.1:8000"),
        (None, "::", "http://[::1]:8000"),
        (None, "2001:db8::1", "http://[2001:db8::1]:8000"),
        (None, "localhost", "http://localhost:8000"),
        ("https://llm.example.com", "0.0.0.0", "https://llm.example.com"),
        ("https://example.com:8443/llm/", "x", "https://example.com:8443/llm"),
    ],
)
def test_urls_begin_with_the_setting_or_where_the_gateway_listens(public_url: str | None, host: str, base: str) -> None:
    assert public_base_url(public_url, host, 8000) == base


@pytest.mark.parametrize(
    "public_url",
    [
        "llm.example.com",
        "ftp://example.com",
        "https://",
        "https://user@example.com",
        "https://example.com?a=b",
        "https://example.com#a",
        "https://exa mple.com",
        "https://example.com/\r\nx: y",
        "https://example.com:99999",
        'https://example.com/"onload=',
    ],
)
def test_a_public_url_that_is_none_stops_the_start(public_url: str) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_PUBLIC_URL"):
        public_base_url(public_url, "127.0.0.1", 8000)


# Opening


async def test_a_folder_is_the_default_and_storing_can_be_switched_off(tmp_path: Path) -> None:
    default, named = open_asset_store(None, tmp_path), open_asset_store(f"file://{tmp_path}/pictures", tmp_path)
    assert open_asset_store("off", tmp_path) is None
    assert default is not None
    assert named is not None
    asset = new_id()
    await default.put(asset, "image/png", b"x")
    await named.put(asset, "image/png", b"x")
    assert {path.parent.parent.name for path in tmp_path.rglob(asset)} == {"assets", "pictures"}
    await default.close()
    await named.close()


@pytest.mark.parametrize(
    ("url", "more", "names"),
    [
        ("ftp://x", {}, "GATEWAY_ASSETS_URL"),
        ("relative/folder", {}, "GATEWAY_ASSETS_URL"),
        ("s3://", {}, "GATEWAY_ASSETS_URL"),
        ("s3://Bucket", {}, "GATEWAY_ASSETS_URL"),
        ("s3://bucket/../x", {}, "GATEWAY_ASSETS_URL"),
        ("s3://bucket/a?b", {}, "GATEWAY_ASSETS_URL"),
        ("s3://bucket/prefix", {}, "GATEWAY_ASSETS_S3_ACCESS_KEY"),
        ("s3://bucket", {"access_key": "a"}, "GATEWAY_ASSETS_S3_SECRET_KEY"),
        ("s3://bucket", {"access_key": "a", "secret_key": "b", "endpoint": "minio:9000"}, "GATEWAY_ASSETS_S3_ENDPOINT"),
        (
            "s3://bucket",
            {"access_key": "a", "secret_key": "b", "endpoint": "http://u:p@h"},
            "GATEWAY_ASSETS_S3_ENDPOINT",
        ),
    ],
)
def test_a_setting_that_is_no_store_stops_the_start(url: str, more: dict[str, str], names: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=names):
        open_asset_store(url, tmp_path, **more)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 3), (1, 3, 2)])
def test_bounds_that_contradict_each_other_stop_the_start(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="GATEWAY_ASSET"):
        AssetBounds(*sizes)


# The library


@asynccontextmanager
async def reopened(folder: Path) -> AsyncIterator[Database]:
    """The database of a world that was left."""
    database = await Database.open(folder / "gateway.db")
    try:
        yield database
    finally:
        await database.close()


BOUNDS = AssetBounds(asset_bytes_max=4_000, creator_bytes_max=10_000, all_bytes_max=15_000)


@asynccontextmanager
async def open_library(
    folder: Path, store: AssetStore | None = None, bounds: AssetBounds = BOUNDS, put_timeout_s: float = 10
) -> AsyncIterator[tuple[Library, World]]:
    """Its clock steps a millisecond at each look."""
    async with open_world(folder) as world:
        ticks = count()
        library = Library(
            world.database,
            store or FolderStore(folder / "assets"),
            bounds,
            wall_clock=lambda: NOON_S + next(ticks) / 1000,
            put_timeout_s=put_timeout_s,
        )
        try:
            yield library, world
        finally:
            await library.close()


async def add(library: Library, database: Database, creator: str, *sizes: int) -> list[AssetRow]:
    """Kept as a call keeps its images."""
    rows = [row for row in await library.put([png(size) for size in sizes]) if row is not None]
    whose = {"account_id": creator, "creator": creator, "created_at": library.now_ms()}
    await insert_images(database, made=[], kept=[{**row._asdict(), **whose} for row in rows])
    library.added(creator, rows)
    return rows


async def whole(library: Library, asset: str) -> bytes:
    return b"".join([piece async for piece in await library.open(await library.find(asset))])


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "assets").rglob("*") if path.is_file()}


async def test_what_is_kept_is_found_and_read(tmp_path: Path) -> None:
    async with open_library(tmp_path) as (library, world):
        (row,) = await add(library, world.database, "acme", 100)
        assert row == (row.id, "image/png", 100, sha256(png(100)).hexdigest())
        assert await library.find(row.id) == row
        assert await whole(library, row.id) == png(100)


async def test_a_large_image_comes_in_pieces(tmp_path: Path) -> None:
    size = 2 * PIECE_BYTES + 7
    async with open_library(tmp_path, bounds=AssetBounds(3 * size, 3 * size, 3 * size)) as (library, world):
        (row,) = await add(library, world.database, "acme", size)
        pieces = [piece async for piece in await library.open(row)]
        assert [len(piece) for piece in pieces] == [PIECE_BYTES, PIECE_BYTES, 7]
        assert b"".join(pieces) == png(size)


async def test_what_is_no_image_or_too_large_is_not_kept(tmp_path: Path) -> None:
    async with open_library(tmp_path) as (library, _):
        kept = await library.put([b"<svg/>", png(4_001), png(4_000), b""])
        assert [row is not None for row in kept] == [False, False, True, False]


async def test_the_oldest_of_a_creator_go_when_its_bound_is_reached(tmp_path: Path) -> None:
    async with open_library(tmp_path) as (library, world):
        first = await add(library, world.database, "acme", 4_000, 4_000)
        other = await add(library, world.database, "else", 4_000)
        last = await add(library, world.database, "acme", 3_000)
    assert files(tmp_path) == {row.id for row in (first[1], *other, *last)}
    async with reopened(tmp_path) as database:
        assert await asset_by_id(database, first[0].id) is None
        assert await asset_bytes(database, "acme") == 7_000


async def test_the_oldest_of_all_go_when_the_bound_of_all_is_reached(tmp_path: Path) -> None:
    async with open_library(tmp_path) as (library, world):
        kept = [row for creator in "abcde" for row in await add(library, world.database, creator, 3_000)]
        # The sixth is one too many for 15 000 bytes.
        kept += await add(library, world.database, "f", 3_000)
    assert files(tmp_path) == {row.id for row in kept[1:]}


async def test_after_a_restart_the_bound_of_all_still_counts_what_was_there(tmp_path: Path) -> None:
    async with open_library(tmp_path) as (library, world):
        old = [row for creator in "abcde" for row in await add(library, world.database, creator, 3_000)]
    async with reopened(tmp_path) as database:
        library = Library(database, FolderStore(tmp_path / "assets"), BOUNDS, wall_clock=lambda: NOON_S + 60)
        new = await add(library, database, "f", 3_000)
        await library.close()
    assert files(tmp_path) == {row.id for row in (*old[1:], *new)}


async def test_files_whose_rows_could_not_be_written_are_removed(tmp_path: Path) -> None:
    async with open_library(tmp_path) as (library, _):
        rows = [row for row in await library.put([png(10), png(20)]) if row is not None]
        assert len(files(tmp_path)) == 2
        library.discard(rows)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("asset", ["", "..", "../gateway.db", "x" * 36, "0" * 36])
async def test_what_is_not_kept_is_not_found(tmp_path: Path, asset: str) -> None:
    async with open_library(tmp_path) as (library, _):
        with pytest.raises(NotFound):
            await library.find(asset)
        with pytest.raises(NotFound):
            await library.find(new_id())


async def test_a_file_that_somebody_removed_is_not_found(tmp_path: Path) -> None:
    async with open_library(tmp_path) as (library, world):
        (row,) = await add(library, world.database, "acme", 10)
        next((tmp_path / "assets").rglob(row.id)).unlink()
        with pytest.raises(NotFound):
            await library.open(row)


class Stuck:
    """A store that takes what it is given and never answers, until it is let go."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.deleted: list[str] = []

    async def put(self, id: str, content_type: str, data: bytes) -> None:
        await self.released.wait()

    async def read(self, id: str, start: int, length: int) -> bytes:
        raise AssetError("it is down")

    async def delete(self, id: str) -> None:
        self.deleted.append(id)
        raise AssetError("it is down")

    async def close(self) -> None:
        return


async def test_a_store_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path) -> None:
    store = Stuck()
    async with asyncio.timeout(10), open_library(tmp_path, store, put_timeout_s=0.01) as (library, _):
        assert await library.put([png(10), png(20)]) == [None, None]
    assert len(store.deleted) == 2


async def test_a_store_that_is_down_is_told_as_such(tmp_path: Path) -> None:
    async with open_library(tmp_path, Stuck()) as (library, _):
        with pytest.raises(StoreError) as caught:
            await library.open(AssetRow(new_id(), "image/png", 10, ""))
    assert (caught.value.status, caught.value.code) == (503, "asset_unavailable")
