"""Where notices go: what a target is, how it says that it failed, and which ones the settings name.

A target's address may be a secret by itself (Slack's is), so no error of a target holds one: a failure is a word.
"""

import base64
import time
from collections.abc import Callable
from typing import Protocol

from gateway.config import Settings
from gateway.ledger.notices import Outgoing
from gateway.secrets import Secrets

__all__ = ["DeliveryError", "Target", "one_line", "open_targets", "signing_secret"]

_SECRET_PREFIX = "whsec_"  # noqa: S105 -- Standard Webhooks marks its secrets so


class DeliveryError(Exception):
    """A notice did not arrive."""

    def __init__(self, word: str, *, retry_after_s: float | None = None, is_final: bool = False) -> None:
        super().__init__(word)
        self.word = word
        """Such as `timeout` or `http_500`: fit for logs and lists."""
        self.retry_after_s = retry_after_s
        """How long the target asked to be left alone."""
        self.is_final = is_final
        """The target does not want it, now or later."""


class Target(Protocol):
    """One place. It delivers one notice at a time; its `repr` tells neither address nor secret."""

    @property
    def name(self) -> str:
        """`webhook`, `slack` or `mail`."""
        ...

    async def deliver(self, notice: Outgoing) -> None:
        """Returns when the other side has taken it. Bounded in time. Raises `DeliveryError`."""
        ...

    async def close(self) -> None: ...


def open_targets(settings: Settings, secrets: Secrets, *, wall_clock: Callable[[], float] = time.time) -> list[Target]:
    """The targets that are configured. Connects to nobody, and loads only the libraries these need. Raises `ConfigError`."""
    targets: list[Target] = []
    if settings.webhook_url is not None:
        from gateway.notices.webhook import Webhook

        targets.append(
            Webhook(settings.webhook_url.get_secret_value(), signing_secret(settings, secrets), wall_clock=wall_clock)
        )
    if settings.slack_webhook_url is not None:
        from gateway.notices.slack import Slack

        targets.append(Slack(settings.slack_webhook_url.get_secret_value()))
    if settings.smtp_url is not None:
        from gateway.notices.mail import Mail

        targets.append(Mail(settings.smtp_url.get_secret_value(), settings.mail_from or "", settings.mail_to))
    return targets


def signing_secret(settings: Settings, secrets: Secrets) -> str:
    """`whsec_` and base64: what a receiver of webhooks verifies with."""
    if settings.webhook_secret is not None:
        return _SECRET_PREFIX + settings.webhook_secret.get_secret_value().removeprefix(_SECRET_PREFIX)
    return _SECRET_PREFIX + base64.b64encode(secrets.hmac_key("webhooks")).decode()


def one_line(text: str) -> str:
    """`text` without line breaks and other characters that do not print: each run of them is a space."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
