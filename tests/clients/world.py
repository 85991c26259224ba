"""The gateway that clients are tried against: beside the rig's models one for each further endpoint, at prices that are easy
to reckon by hand.
"""

from collections.abc import Mapping
from pathlib import Path

from tests.rig.gateway import Gateway
from tests.rig.upstream import Upstream

PRICE_LINES: Mapping[str, tuple[str, str]] = {
    "kit-embed": ('["embeddings"]', "input_usd_per_mtok = 0.02\ncontext_tokens_max = 8192"),
    "kit-image": ('["images", "image_edits"]', 'image_default = "1024x1024/standard"\nimage_usd = { "*/*" = 0.04 }'),
    "kit-speech": ('["speech"]', "speech_usd_per_mchar = 15"),
    "kit-transcribe": ('["transcriptions", "translations"]', "audio_usd_per_second = 0.0001"),
    "kit-moderation": ('["moderations"]', "input_usd_per_mtok = 0\ncontext_tokens_max = 32768"),
    "kit-completions": (
        '["completions"]',
        "input_usd_per_mtok = 2.5\noutput_usd_per_mtok = 10\ncontext_tokens_max = 128000\noutput_tokens_max = 4096",
    ),
    "kit-native": (
        '["responses"]',
        "input_usd_per_mtok = 2.5\noutput_usd_per_mtok = 10\ncontext_tokens_max = 128000\noutput_tokens_max = 4096\n"
        'capabilities = ["tools", "json_schema"]',
    ),
}
"""By model: its endpoints, and its prices and bounds."""

NANO_PER_IMAGE = 40_000_000
NANO_PER_CHARACTER = 15_000
NANO_PER_SECOND = 100_000
NANO_PER_EMBEDDED_TOKEN = 20


def rows(prices: Mapping[str, tuple[str, str]] = PRICE_LINES, provider: str = "rig") -> str:
    """Catalog rows; upstream, each model is called `up-<name>`."""
    return "\n".join(
        f'[models."{name}"]\nprovider = "{provider}"\nupstream_model = "up-{name}"\nendpoints = {endpoints}\n{lines}\n'
        for name, (endpoints, lines) in prices.items()
    )


def client_gateway(folder: Path, upstream: Upstream) -> Gateway:
    return Gateway(folder, upstream, models=rows())


def nano(input_tokens: int, output_tokens: int) -> int:
    """What text costs at 2.50 and 10 USD a million tokens, as `rig-chat` and `kit-native` do: no cents to round."""
    return input_tokens * 2_500 + output_tokens * 10_000
