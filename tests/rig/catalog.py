"""The catalog and the plans of a gateway under test; beside them prices and the written rule, computed by hand."""

from fractions import Fraction

PLANS = """
[plans.open]
requests_per_hour = 1000000
quota_usd_per_month = 1000000

[plans.narrow]
requests_per_hour = 20
quota_usd_per_month = 5

[plans.poor]
requests_per_hour = 1000000
quota_usd_per_month = 1
"""

PRICES = {
    "rig-chat": {"input": "2.50", "cached": "0.3125", "output": "10.00", "reasoning": "12.34567"},
    "rig-cheap": {"input": "0.01875", "cached": "0.001875", "output": "0.07", "reasoning": "0.07"},
    "rig-dear": {"input": "1", "cached": "1", "output": "1000000", "reasoning": "1000000"},
}
"""USD per million tokens."""

_MODEL = """
[models."{name}"]
provider = "{provider}"
upstream_model = "{upstream}"
endpoints = ["chat"]
display_name = "{name}"
input_usd_per_mtok = {input}
cached_input_usd_per_mtok = {cached}
output_usd_per_mtok = {output}
reasoning_usd_per_mtok = {reasoning}
context_tokens_max = 128000
output_tokens_max = 16384
capabilities = ["tools", "json_schema"]
"""

_PROVIDER = """
[providers.{name}]
dialect = "openai"
base_url = "{base_url}"
api_key_env = "{key}"
"""

CONTEXT_TOKENS_MAX = 128_000
OUTPUT_TOKENS_MAX = 16_384


def provider(name: str, base_url: str, *, key: str = "RIG_PROVIDER_KEY", **fields: object) -> str:
    lines = [f"{field} = {_toml(value)}" for field, value in fields.items()]
    return _PROVIDER.format(name=name, base_url=base_url, key=key) + "\n".join(lines) + "\n"


def model(name: str, *, provider: str = "rig", upstream: str = "upstream-chat", prices: str = "rig-chat") -> str:
    return _MODEL.format(name=name, provider=provider, upstream=upstream, **PRICES[prices])


def unpriced(row: str, kind: str) -> str:
    """The model row without its price for `kind` of token."""
    return "\n".join(line for line in row.splitlines() if not line.startswith(f"{kind}_usd_per_mtok")) + "\n"


def catalog(base_url: str, dead_port: int) -> str:
    """Providers: `rig` at the fake upstream, variants of it, and two that cannot be reached."""
    return "\n".join(
        [
            'version = "2026-11-20"',
            provider("rig", base_url),
            provider("rig-never", base_url, stream_usage="never"),
            provider("rig-always", base_url, stream_usage="always"),
            provider("rig-again", base_url, retry_unanswered=True),
            provider("rig-dead", f"http://127.0.0.1:{dead_port}/v1"),
            provider("rig-keyless", base_url, key="RIG_KEY_NOBODY_HAS"),
            *(model(name, prices=name) for name in PRICES),
            model("rig/with-slash"),
            model("rig-never", provider="rig-never"),
            model("rig-always", provider="rig-always"),
            model("rig-again", provider="rig-again"),
            model("rig-dead", provider="rig-dead"),
            model("rig-keyless", provider="rig-keyless"),
            unpriced(model("rig-unpriced"), "input"),
            unpriced(model("rig-free-output"), "output"),
        ]
    )


def cost_nano_usd(
    input_tokens: int, output_tokens: int, *, cached: int = 0, reasoning: int = 0, model: str = "rig-chat"
) -> int:
    """What a call costs by the price list, from OpenAI's inclusive totals: exact, rounded once, upward."""
    price = {name: Fraction(text) for name, text in PRICES[model].items()}
    per_mtok = (
        (input_tokens - cached) * price["input"]
        + cached * price["cached"]
        + (output_tokens - reasoning) * price["output"]
        + reasoning * price["reasoning"]
    )
    nano = per_mtok * 1000  # USD per million tokens is a thousand nano-dollars a token
    return -(-nano.numerator // nano.denominator)


def estimated_input(text: str) -> int:
    """The written rule: a token for every four bytes of text, rounded up."""
    return -(-len(text.encode()) // 4)


def estimated_output(*deltas: str) -> int:
    """The written rule: the larger of the non-empty delta events and a token for every four bytes."""
    return max(sum(1 for delta in deltas if delta), -(-len("".join(deltas).encode()) // 4))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


DIALECT_PRICES = """
input_usd_per_mtok = 3
cached_input_usd_per_mtok = 0.3
cache_write_usd_per_mtok = 3.75
output_usd_per_mtok = 15
reasoning_usd_per_mtok = 17
"""
"""No bucket costs as much as another. A dollar per million tokens is a thousand nano-dollars a token."""
_CHAT_CAPABILITIES = '["tools", "vision", "json_schema"]'


def dialect_rows(base_url: str) -> str:
    """A provider of every native dialect at the fake upstream, and a model of theirs for every endpoint they have."""
    return "".join(
        [
            provider("dia-openai", base_url),
            provider("dia-azure", base_url, auth_header="api-key", query="api-version=2024-10-21"),
            provider("dia-never", base_url, stream_usage="never"),
            provider("dia-always", base_url, stream_usage="always"),
            _native("dia-anthropic", "anthropic", base_url, 'auth_header = "x-api-key"')
            + '[providers.dia-anthropic.headers]\n"anthropic-version" = "2023-06-01"\n',
            _native("dia-gemini", "gemini", base_url, 'auth_header = "x-goog-api-key"'),
            _native("dia-fal", "fal", base_url, 'auth_scheme = "Key"'),
            *(
                _talks(name, provider=name, upstream="gpt-4o-mini", endpoints='["chat", "completions"]')
                for name in ("dia-openai", "dia-azure", "dia-never", "dia-always")
            ),
            _talks("dia-native", upstream="gpt-4o-mini", endpoints='["chat", "responses", "messages"]'),
            _talks(
                "dia-claude",
                provider="dia-anthropic",
                upstream="claude-haiku-4-5-20251001",
                endpoints='["chat", "messages"]',
            ),
            _talks("dia-gemini", provider="dia-gemini", upstream="gemini-3.5-flash", endpoints='["chat"]'),
            _row("dia-embedding", "text-embedding-3-small", '["embeddings"]', "input_usd_per_mtok = 0.02"),
            _row(
                "dia-gemini-embedding",
                "gemini-embedding-001",
                '["embeddings"]',
                "input_usd_per_mtok = 0.15",
                provider="dia-gemini",
            ),
            _row("dia-moderation", "omni-moderation-latest", '["moderations"]', "input_usd_per_mtok = 0"),
            _row("dia-paid-moderation", "guard", '["moderations"]', "input_usd_per_mtok = 0.2"),
            _row("dia-image", "gpt-image-1", '["images", "image_edits"]', _IMAGE_TOKENS),
            _row(
                "dia-gemini-image",
                "gemini-3.1-flash-image",
                '["images"]',
                _IMAGE_TOKENS,
                provider="dia-gemini",
            ),
            _row(
                "dia-dalle",
                "dall-e-2",
                '["images", "image_variations"]',
                'image_default = "1024x1024/standard"\nimage_usd = { "1024x1024" = 0.02, "256x256" = 0.016 }',
            ),
            _row("dia-flux", "fal-ai/flux/schnell", '["images"]', 'image_usd = { "*" = 0.003 }', provider="dia-fal"),
            _row(
                "dia-kontext",
                "fal-ai/flux-pro/kontext",
                '["image_edits"]',
                'image_usd = { "*" = 0.04 }',
                provider="dia-fal",
            ),
            _row("dia-tts", "tts-1", '["speech"]', "speech_usd_per_mchar = 15"),
            _row(
                "dia-mini-tts",
                "gpt-4o-mini-tts",
                '["speech"]',
                "input_usd_per_mtok = 0.6\naudio_output_usd_per_mtok = 12",
            ),
            _row("dia-whisper", "whisper-1", '["transcriptions", "translations"]', "audio_usd_per_second = 0.0001"),
            _row(
                "dia-transcribe",
                "gpt-4o-transcribe",
                '["transcriptions"]',
                "input_usd_per_mtok = 2.5\naudio_input_usd_per_mtok = 6\noutput_usd_per_mtok = 10\n"
                "context_tokens_max = 16000\noutput_tokens_max = 2000",
            ),
        ]
    )


_IMAGE_TOKENS = """
input_usd_per_mtok = 5
cached_input_usd_per_mtok = 1.25
image_input_usd_per_mtok = 10
output_usd_per_mtok = 30
image_output_usd_per_mtok = 40
image_output_tokens_max = 6240
"""


def _native(name: str, dialect: str, base_url: str, more: str) -> str:
    return provider(name, base_url).replace('"openai"', f'"{dialect}"') + more + "\n"


def _row(name: str, upstream: str, endpoints: str, prices: str, *, provider: str = "dia-openai") -> str:
    return (
        f'\n[models."{name}"]\nprovider = "{provider}"\nupstream_model = "{upstream}"\nendpoints = {endpoints}\n'
        f"{prices.strip()}\n"
    )


def _talks(name: str, *, upstream: str, endpoints: str, provider: str = "dia-openai") -> str:
    limits = f"context_tokens_max = {CONTEXT_TOKENS_MAX}\noutput_tokens_max = {OUTPUT_TOKENS_MAX}\n"
    prices = f"{DIALECT_PRICES}{limits}capabilities = {_CHAT_CAPABILITIES}"
    return _row(name, upstream, endpoints, prices, provider=provider)
