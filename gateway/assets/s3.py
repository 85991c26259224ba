"""Assets in a bucket of S3 or of anything that speaks its protocol (MinIO, R2, Ceph ...).

The one module that knows botocore, which the extra `s3` brings: it is imported on first use, and used in threads. Endpoint,
region and keys are the gateway's own settings and nothing else: profiles, variables and instance roles that botocore would
look for are not asked, nor is a proxy that the environment names. `AWS_CA_BUNDLE` alone counts: whom to trust.

Facts: botocore 1.44.5 (`session.py`, `configprovider.py`, `config.py`). Checksums beyond what a call needs are left out,
because stores other than Amazon's refuse them.
"""

import asyncio
import importlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gateway.assets.base import AssetError, AssetMissing
from gateway.ledger.ids import is_entry_id

__all__ = ["S3Access", "S3Store"]

_THREADS = 8
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 15
_ATTEMPTS = 2
_ABSENT = frozenset({"NoSuchKey", "404", "NotFound"})
_NO_FILES = dict.fromkeys(("profile", "config_file", "credentials_file"), (None, None, None, None))
"""Key in a configuration file, variable, default, conversion: there is none of any, so that no file is read."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class S3Access:
    """Whom to ask, and with which keys."""

    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    endpoint: str | None = None
    """`https://host[:port]`; None is Amazon's of the region. With an endpoint the bucket is part of the path."""


class S3Store:
    def __init__(self, bucket: str, prefix: str, access: S3Access) -> None:
        """`prefix` is what every key begins with: empty, or ending in a slash."""
        self._bucket = bucket
        self._prefix = prefix
        self._access = access
        self._threads = ThreadPoolExecutor(_THREADS, "asset-s3")
        self._making = threading.Lock()
        self._made: Any = None

    async def put(self, id: str, content_type: str, data: bytes) -> None:
        key = self._key(id)
        await self._in_thread(
            lambda client: client.put_object(Bucket=self._bucket, Key=key, Body=data, ContentType=content_type)
        )

    async def read(self, id: str, start: int, length: int) -> bytes:
        key, span = self._key(id), f"bytes={start}-{start + length - 1}"

        def read(client: Any) -> bytes:
            answer = client.get_object(Bucket=self._bucket, Key=key, Range=span)
            with answer["Body"] as body:
                return bytes(body.read())

        return await self._in_thread(read)

    async def delete(self, id: str) -> None:
        key = self._key(id)
        await self._in_thread(lambda client: client.delete_object(Bucket=self._bucket, Key=key))

    async def close(self) -> None:
        """Waits for what is under way."""
        await asyncio.to_thread(self._threads.shutdown)
        if self._made is not None:
            self._made.close()

    def _key(self, id: str) -> str:
        if not is_entry_id(id):
            raise AssetMissing("not an asset's id")
        return self._prefix + id

    async def _in_thread(self, work: Callable[[Any], Result]) -> Result:
        def run() -> Result:
            faults = importlib.import_module("botocore.exceptions")
            try:
                return work(self._client())
            except faults.ClientError as exc:
                code = str(exc.response.get("Error", {}).get("Code", ""))
                if code in _ABSENT:
                    raise AssetMissing("there is no such object") from exc
                raise AssetError(f"S3 refused a call: {code if code.isalnum() else 'no known code'}") from exc
            except Exception as exc:
                # Whatever else a library of that size raises: no image that is paid for may be lost to it.
                raise AssetError(f"S3 cannot be reached: {type(exc).__name__}") from exc

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)
        except (ImportError, RuntimeError) as exc:
            raise AssetError("the S3 store is closed, or botocore cannot be loaded") from exc

    def _client(self) -> Any:
        """Made once: making it is slow, and not for two threads at a time; using it is."""
        with self._making:
            if self._made is None:
                self._made = self._new_client()
            return self._made

    def _new_client(self) -> Any:
        session, config = importlib.import_module("botocore.session"), importlib.import_module("botocore.config")
        access = self._access
        return session.Session(session_vars=_NO_FILES).create_client(
            "s3",
            region_name=access.region,
            endpoint_url=access.endpoint,
            aws_access_key_id=access.access_key,
            aws_secret_access_key=access.secret_key,
            config=config.Config(
                connect_timeout=_CONNECT_TIMEOUT_S,
                read_timeout=_READ_TIMEOUT_S,
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                max_pool_connections=_THREADS,
                proxies={},
                ignore_configured_endpoint_urls=True,
                use_fips_endpoint=False,
                use_dualstack_endpoint=False,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": "path" if access.endpoint else "virtual"},
            ),
        )
