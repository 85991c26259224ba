"""Notices by mail: one plain-text message to all who get them, over TLS.

Loaded only where a mail server is configured. `smtps://` is TLS from the first byte (port 465 unless the URL says
otherwise), `smtp://` must become TLS by STARTTLS (port 587) before anything is said; only a server on this very machine
is spoken to in plain text (port 25). RFC 8314, section 3.

The Message-ID is the same in every attempt, so that a mail that was sent twice can be told to be the same.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from aiosmtplib import SMTP
from aiosmtplib.errors import (
    SMTPAuthenticationError,
    SMTPConnectError,
    SMTPException,
    SMTPRecipientsRefused,
    SMTPResponseException,
    SMTPServerDisconnected,
)

from gateway.errors import ConfigError
from gateway.ledger.notices import Outgoing
from gateway.ledger.periods import instant
from gateway.notices.targets import DeliveryError, one_line

__all__ = ["Mail"]

TIMEOUT_S = 30.0
"""Longer than for a webhook: mail servers make strangers wait before they greet."""
_QUIT_S = 1.0
_SUBJECT_CHARS_MAX = 150
_SMTPS_PORT = 465
_STARTTLS_PORT = 587
_PLAIN_PORT = 25


class Mail:
    """`url`: `smtps://user:password@host[:port]`, user and password percent-encoded. Raises `ConfigError` for addresses
    that are none."""

    name = "mail"

    def __init__(self, url: str, sender: str, recipients: str) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        is_tls = parts.scheme == "smtps"
        is_plain = not is_tls and _is_loopback(host)
        self._server: dict[str, Any] = {
            "hostname": host,
            "port": parts.port or (_SMTPS_PORT if is_tls else _PLAIN_PORT if is_plain else _STARTTLS_PORT),
            "use_tls": is_tls,
            "start_tls": False,  # done in `_connect`, before a word that matters
            "timeout": TIMEOUT_S,
            "local_hostname": _own_name(),
        }
        self._must_start_tls = not is_tls and not is_plain
        self._login = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
        (self._sender,) = _addresses(sender, "GATEWAY_MAIL_FROM", one=True)
        self._recipients = _addresses(recipients, "GATEWAY_MAIL_TO")
        self._from = sender
        domain = self._sender.rpartition("@")[2]
        self._domain = domain if domain.isascii() else "gateway.invalid"  # RFC 5322 knows ASCII only

    async def deliver(self, notice: Outgoing) -> None:
        client = SMTP(**self._server)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                message = self._message(notice)
                await self._connect(client)
                await client.send_message(message, sender=self._sender, recipients=self._recipients)
        # ValueError: an address or a text that the library does not take.
        except (SMTPException, MessageError, OSError, TimeoutError, ValueError) as exc:
            raise DeliveryError(_word(exc)) from None  # whose text may hold names and what the server said
        else:
            await _quit(client)
        finally:
            client.close()

    async def close(self) -> None:
        """Nothing is open between two mails."""

    async def _connect(self, client: SMTP) -> None:
        await client.connect()
        if self._must_start_tls:
            await client.ehlo()
            if not client.supports_extension("starttls"):
                raise DeliveryError("tls_not_offered")
            await client.starttls()
        if self._login is not None:
            await client.login(*self._login)

    def _message(self, notice: Outgoing) -> EmailMessage:
        about = f" ({notice.creator})" if notice.creator else ""
        message = EmailMessage()
        message["From"] = self._from
        message["To"] = ", ".join(self._recipients)
        message["Subject"] = one_line(f"[gateway] {notice.kind}{about}")[:_SUBJECT_CHARS_MAX]
        message["Date"] = format_datetime(instant(notice.created_at))
        message["Message-ID"] = f"<{notice.id}@{self._domain}>"
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence note answers it
        figures = [f"{one_line(name)}: {_shown(value)}" for name, value in notice.data.items()]
        message.set_content("\n".join([one_line(notice.message), "", *figures, f"id: {notice.id}", ""]))
        return message


async def _quit(client: SMTP) -> None:
    """The mail is taken: that the server also hears a goodbye is a courtesy."""
    with suppress(SMTPException, OSError, TimeoutError):
        async with asyncio.timeout(_QUIT_S):
            await client.quit()


def _word(exc: Exception) -> str:
    """The order matters: some of these are several things at once."""
    if isinstance(exc, TimeoutError):
        return "timeout"
    if isinstance(exc, SMTPAuthenticationError):
        return "login_refused"
    if isinstance(exc, SMTPRecipientsRefused):
        return "recipients_refused"
    if isinstance(exc, SMTPResponseException):
        return f"smtp_{exc.code}"
    if isinstance(exc, ssl.SSLError) or isinstance(exc.__cause__, ssl.SSLError):
        return "tls_failed"
    if isinstance(exc, SMTPConnectError):
        return "connect_failed"
    if isinstance(exc, (SMTPServerDisconnected, OSError)):
        return "connection_broken"
    return "smtp_unusable" if isinstance(exc, SMTPException) else "mail_unusable"


def _addresses(text: str, setting: str, *, one: bool = False) -> list[str]:
    """The bare addresses in `text`. Raises `ConfigError` for a part that is none, and for several of `one`."""
    found = [address for _, address in getaddresses([text]) if address]
    sound = [address for address in found if _is_address(address)]
    if not text.isprintable() or not found or sound != found or (one and len(found) != 1):
        raise ConfigError(f"{setting} must be {'one address' if one else 'addresses'} such as alerts@example.com")
    return found


def _is_address(text: str) -> bool:
    local, at, domain = text.rpartition("@")
    return bool(local and at and domain) and not any(char.isspace() or char in '<>"' for char in text)


def _own_name() -> str:
    """For the greeting: what the machine calls itself, without asking the name service, or RFC 5321's way out."""
    name = socket.gethostname()
    return name if "." in name else "[127.0.0.1]"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(value: Any) -> str:
    return one_line(value if isinstance(value, str) else orjson.dumps(value).decode())
