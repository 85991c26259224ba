"""The root secret, what is derived from it, and the keys we hand out.

One root, one HMAC key per purpose (HKDF-SHA256), so that a digest made for one purpose never passes for another. Only
digests are stored: a copy of the database without the root is of no use for guessing keys.
"""

import hmac
import os
import secrets
import string
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.config import Settings
from gateway.durable_folder import sync_folder
from gateway.errors import ConfigError

Purpose = Literal[
    "virtual-keys",
    "admin-keys",
    "fingerprint",
    "asset-links",
    "cache-keys",
    "cache-answers",
    "idempotency-keys",
    "idempotency-answers",
    "webhooks",
    "sessions",
]

SECRET_FILE = "secret"  # noqa: S105 -- the file's name
VIRTUAL_KEY_PREFIX = "sk-gw"
ADMIN_KEY_PREFIX = "sk-gwadmin"
_ALPHABET = string.ascii_letters + string.digits
_ID_CHARS = 12
_SECRET_CHARS = 48
_ROOT_BYTES = 32
_SHA256_BLOCK_BYTES = 64
_LAST_CHARS = 4


class Secrets:
    """HMAC keys by purpose, derived from one root. Holds nothing that `repr` would show."""

    def __init__(self, root: bytes) -> None:
        self._root = root

    def hmac_key(self, purpose: Purpose) -> bytes:
        """32 bytes, the same for the same root and purpose for ever."""
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"gateway/{purpose}".encode()).derive(self._root)

    def hasher(self, purpose: Purpose) -> Callable[[bytes], bytes]:
        """HMAC-SHA256 under the purpose's key, for the hot path.

        What depends on the key alone is hashed here once (RFC 2104, section 4): about half the time of `hmac.digest`.
        """
        block = self.hmac_key(purpose).ljust(_SHA256_BLOCK_BYTES, b"\0")
        inner = sha256(bytes(byte ^ 0x36 for byte in block)).copy
        outer = sha256(bytes(byte ^ 0x5C for byte in block)).copy

        def digest(credential: bytes) -> bytes:
            first = inner()
            first.update(credential)
            second = outer()
            second.update(first.digest())
            return second.digest()

        return digest

    def digest(self, purpose: Purpose, credential: str) -> str:
        """What is stored instead of `credential`: hex HMAC-SHA256 over all of it."""
        return hmac.digest(self.hmac_key(purpose), credential.encode(), "sha256").hex()

    @property
    def fingerprint(self) -> str:
        """Tells this root from others and nothing else about it; kept beside the digests it made."""
        return self.digest("fingerprint", "")


class NewKey(NamedTuple):
    """A key at its birth, the only moment its text exists on our side."""

    id: str
    """Public: what logs and lists show."""
    text: str
    """What the caller sends. Shown once, stored nowhere."""

    @property
    def last4(self) -> str:
        return self.text[-_LAST_CHARS:]

    def __repr__(self) -> str:
        return f"NewKey(id={self.id!r})"


def make_key(prefix: str, id: str | None = None) -> NewKey:
    """`<prefix>-<12 public characters>-<48 secret ones>`, all of [A-Za-z0-9]: 285 bits nobody can guess.

    `id` are the public ones, if whoever asks for the key has chosen them.
    """
    public = random_id() if id is None else id
    return NewKey(public, f"{prefix}-{public}-{_random_text(_SECRET_CHARS)}")


def random_id() -> str:
    """12 characters of [A-Za-z0-9]."""
    return _random_text(_ID_CHARS)


def load_secrets(settings: Settings) -> Secrets:
    """The root of `GATEWAY_SECRET`, or of the file `secret` in the data folder, which is made if it is not there.

    The file holds text; the same text in `GATEWAY_SECRET` is the same root. Raises `ConfigError` when the file is
    empty, cannot be read, or can be read by others.
    """
    if settings.secret is not None:
        return Secrets(settings.secret.get_secret_value().strip().encode())
    path = settings.data_dir / SECRET_FILE
    try:
        if not path.exists():
            _make_secret_file(path)
        return Secrets(_read_secret_file(path))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}; set GATEWAY_SECRET or make the folder writable") from exc


def _random_text(chars: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(chars))


def _make_secret_file(path: Path) -> None:
    """Leaves a file that is there alone. Complete and durable before it has its name: half a secret would lock every key out."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{SECRET_FILE}.{random_id()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_ROOT_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, never replaces a file that another process made meanwhile.
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_folder(path.parent)


def _read_secret_file(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    with os.fdopen(handle, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others: run `chmod 600` on it, or set GATEWAY_SECRET")
        root = file.read().strip()
    if len(root) < _ROOT_BYTES:
        raise ConfigError(f"{path} is empty or cut short: restore it from a backup; a new one makes every key invalid")
    return root
