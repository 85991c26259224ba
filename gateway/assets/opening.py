"""Settings -> an asset store. Opens nothing and connects to nobody."""

import re
from importlib.util import find_spec
from pathlib import Path

from gateway.assets.base import AssetStore
from gateway.assets.folder import FolderStore
from gateway.assets.s3 import S3Access, S3Store
from gateway.errors import ConfigError

__all__ = ["OFF", "open_asset_store"]

OFF = "off"
_FOLDER = "assets"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*")
_ENDPOINT = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?")


def open_asset_store(
    url: str | None,
    data_dir: Path,
    *,
    endpoint: str | None = None,
    region: str = "us-east-1",
    access_key: str | None = None,
    secret_key: str | None = None,
) -> AssetStore | None:
    """The store that `GATEWAY_ASSETS_URL` names; None for `off`, a folder beside the database where it is unset.

    `s3://bucket/prefix` wants both keys, and the extra `s3`. Raises `ConfigError`.
    """
    if not url:
        return FolderStore(data_dir / _FOLDER)
    if url == OFF:
        return None
    if url.startswith("file:///"):
        return FolderStore(Path(url.removeprefix("file://")))
    if not url.startswith("s3://"):
        raise ConfigError("GATEWAY_ASSETS_URL must be file:///folder, s3://bucket/prefix or off; unset is a folder")
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
    if not _BUCKET.fullmatch(bucket) or not _PREFIX.fullmatch(prefix):
        raise ConfigError("GATEWAY_ASSETS_URL must name a bucket and a plain prefix: s3://bucket/prefix")
    if not access_key or not secret_key:
        raise ConfigError(
            "GATEWAY_ASSETS_URL is an S3 bucket: GATEWAY_ASSETS_S3_ACCESS_KEY and GATEWAY_ASSETS_S3_SECRET_KEY are "
            "needed (no other source of keys is asked)"
        )
    if endpoint and not _ENDPOINT.fullmatch(endpoint):
        raise ConfigError("GATEWAY_ASSETS_S3_ENDPOINT must be https://host[:port]")
    if find_spec("botocore") is None:
        raise ConfigError("GATEWAY_ASSETS_URL is an S3 bucket: install the extra `s3`")
    return S3Store(bucket, prefix, S3Access(region, access_key, secret_key, endpoint or None))
