"""Notices in the format of Slack's incoming webhooks, which Mattermost, Discord (`/slack`) and others read too.

Loaded only where such a webhook is configured. `&`, `<` and `>` are all that Slack wants escaped (its page "Formatting text
for app surfaces", 2026-11): a mention or a link needs `<`, so that no creator's name can make one.
"""

import orjson

from gateway.ledger.notices import Outgoing
from gateway.notices.targets import one_line
from gateway.notices.webhook import Poster

__all__ = ["Slack"]


class Slack:
    """`url` is the only secret there is: whoever has it may post."""

    name = "slack"

    def __init__(self, url: str) -> None:
        self._poster = Poster(url)

    async def deliver(self, notice: Outgoing) -> None:
        text = f"{_escaped(notice.message)}\n{_escaped(notice.kind)} · {_escaped(notice.id)}"
        await self._poster.post(orjson.dumps({"text": text}), {})

    async def close(self) -> None:
        await self._poster.close()


def _escaped(text: str) -> str:
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
