"""Settings of kept answers, repetitions, notices and anomalies: what is taken, and what stops the start, by name."""

import base64
from collections.abc import Callable
from decimal import Decimal

import pytest
from pydantic import SecretStr

from gateway.config import Settings, load_settings
from gateway.errors import ConfigError

Load = Callable[..., Settings]
MAIL = {"SMTP_URL": "smtps://u:p@mail.example.com:465", "MAIL_FROM": "gateway@example.com", "MAIL_TO": "a@example.com"}


def signing_secret(size: int, prefix: str = "whsec_") -> str:
    return prefix + base64.b64encode(b"\xfb" * size).decode()


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Settings of an environment that names these variables and, of ours, no others."""

    def load(**variables: str) -> Settings:
        for field in Settings.model_fields:
            monkeypatch.delenv(f"GATEWAY_{field.upper()}", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(f"GATEWAY_{name}", value)
        return load_settings()

    return load


def test_without_any_setting_nothing_is_sent_anywhere(load: Load) -> None:
    settings = load()
    assert (settings.webhook_url, settings.slack_webhook_url, settings.smtp_url) == (None, None, None)
    assert (settings.webhook_secret, settings.mail_from, settings.mail_to) == (None, None, "")


def test_answers_are_kept_as_long_as_their_kind_is_likely_to_stay_true(load: Load) -> None:
    hour_s, day_s = 3_600, 86_400
    settings = load()
    assert settings.cache_chat_ttl_s == hour_s
    assert settings.cache_completion_ttl_s == 7 * day_s
    assert settings.cache_embedding_ttl_s == 30 * day_s
    assert settings.cache_image_ttl_s == 90 * day_s
    assert settings.idempotency_ttl_s == day_s
    assert settings.idempotency_answer_bytes_max == 2**20


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        pytest.param("CACHE_BYTES_MAX", "0", 0, id="no cache"),
        pytest.param("CACHE_CHAT_TTL_S", "0", 0, id="no chat is kept"),
        pytest.param("CACHE_IMAGE_PROMPTS", "normalised", "normalised", id="prompts that look alike"),
        pytest.param("NOTICE_DAY_COST_USD", "0.000000001", Decimal("0.000000001"), id="one nano-dollar a day"),
        pytest.param("NOTICE_DAY_COST_USD", "none", None, id="no day is told"),
        pytest.param("NOTICE_ERROR_PERCENT", "NONE", None, id="no error rate is told"),
        pytest.param("NOTICE_ERROR_PERCENT", "0.25", Decimal("0.25"), id="a quarter of a percent"),
        pytest.param("ANOMALY_FACTOR", "3.5", Decimal("3.5"), id="a factor with a fraction"),
        pytest.param("ANOMALY_COST_USD_MIN", "0", Decimal(0), id="any cost may be unusual"),
        pytest.param(
            "WEBHOOK_URL", "https://hooks.example.com/x?y=1", SecretStr("https://hooks.example.com/x?y=1"), id="https"
        ),
        pytest.param("WEBHOOK_URL", "http://[::1]:8080/", SecretStr("http://[::1]:8080/"), id="http to an address"),
    ],
)
def test_a_value_is_read_exactly(load: Load, name: str, text: str, value: object) -> None:
    read = getattr(load(**{name: text}), name.lower())
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("CACHE_BYTES_MAX", "-1", id="a negative cache"),
        pytest.param("CACHE_ANSWER_BYTES_MAX", "1023", id="answers of no size"),
        pytest.param("CACHE_CHAT_TTL_S", "-1", id="a negative time"),
        pytest.param("CACHE_EMBEDDING_TTL_S", "30d", id="a time with its unit"),
        pytest.param("CACHE_IMAGE_PROMPTS", "loose", id="an unknown way to compare prompts"),
        pytest.param("IDEMPOTENCY_TTL_S", "59", id="a repetition that hardly stands"),
        pytest.param("IDEMPOTENCY_TTL_S", "2592001", id="a repetition beyond a month"),
        pytest.param("IDEMPOTENCY_BYTES_MAX", "-1", id="negative room for repetitions"),
        pytest.param("NOTICES_EVERY_S", "0", id="looking without a pause"),
        pytest.param("NOTICES_EVERY_S", "nan", id="looking never"),
        pytest.param("NOTICE_DAY_COST_USD", "-1", id="negative cost"),
        pytest.param("NOTICE_DAY_COST_USD", "0.0000000001", id="finer than a nano-dollar"),
        pytest.param("NOTICE_DAY_COST_USD", "NaN", id="no number"),
        pytest.param("NOTICE_DAY_COST_USD", "Infinity", id="endless cost"),
        pytest.param("NOTICE_DAY_COST_USD", "never", id="another word than none"),
        pytest.param("NOTICE_ERROR_PERCENT", "100.5", id="more than all calls"),
        pytest.param("NOTICE_ERROR_PERCENT", "0.001", id="a finer share than is counted"),
        pytest.param("NOTICE_KEY_EXPIRY_DAYS", "366", id="told more than a year before"),
        pytest.param("ANOMALY_FACTOR", "0", id="everything is unusual"),
        pytest.param("ANOMALY_FACTOR", "6.125", id="a finer factor than is computed"),
        pytest.param("ANOMALY_HOURS_MIN", "1", id="a median of one hour"),
        pytest.param("ANOMALY_HISTORY_DAYS", "91", id="a longer memory than there is"),
        pytest.param("ANOMALY_REQUESTS_MIN", "-1", id="a negative floor"),
        pytest.param("ANOMALY_COST_USD_MIN", "-0.5", id="a negative floor of cost"),
    ],
)
def test_a_value_out_of_bounds_stops_the_start_and_is_named(load: Load, name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^GATEWAY_{name} "):
        load(**{name: text})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.com/x",
        "ftp://hooks.example.com",
        "https://",
        "https:///path",
        "https://:8080/x",
        "https://hooks.example.com:99999/x",
        "https://hooks.example.com:0/x",
        "https://[::1/x",
        "mailto:admin@example.com",
    ],
)
@pytest.mark.parametrize("name", ["WEBHOOK_URL", "SLACK_WEBHOOK_URL"])
def test_what_is_no_web_address_stops_the_start_and_is_not_repeated(load: Load, name: str, url: str) -> None:
    """A webhook's address is as good as a key to it."""
    with pytest.raises(ConfigError, match=rf"^GATEWAY_{name} must be http://") as caught:
        load(**{name: url})
    assert "hooks.example.com" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["whsec_", ""])
@pytest.mark.parametrize("size", [24, 32, 64])
def test_a_signing_secret_has_24_to_64_bytes(load: Load, prefix: str, size: int) -> None:
    text = signing_secret(size, prefix)
    settings = load(WEBHOOK_SECRET=text)
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.get_secret_value() == text
    assert text not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        signing_secret(23),
        signing_secret(65),
        signing_secret(32, "whpk_"),
        signing_secret(32).rstrip("="),
        signing_secret(32).replace("+", "-"),
        "whsec_",
        "",
        "a secret of more than twenty-four letters",
        "é" * 40,
    ],
)
def test_another_signing_secret_stops_the_start_and_is_not_repeated(load: Load, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^GATEWAY_WEBHOOK_SECRET must be `whsec_`") as caught:
        load(WEBHOOK_SECRET=text)
    assert len(text) < 10 or text not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["smtp://localhost:1025", "smtps://user:pass%40word@mail.example.com", MAIL["SMTP_URL"]]
)
def test_a_mail_server_is_named_with_or_without_a_password(load: Load, url: str) -> None:
    settings = load(**(MAIL | {"SMTP_URL": url}))
    assert settings.smtp_url is not None
    assert settings.smtp_url.get_secret_value() == url
    assert url not in repr(settings)


@pytest.mark.parametrize("url", ["mail.example.com:587", "https://mail.example.com", "smtps://", "smtp://u:canary@:25"])
def test_what_is_no_mail_server_stops_the_start_and_is_not_repeated(load: Load, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^GATEWAY_SMTP_URL must be smtp://") as caught:
        load(**(MAIL | {"SMTP_URL": url}))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("missing", [{"MAIL_FROM": ""}, {"MAIL_TO": ""}, {"MAIL_TO": " , "}])
def test_mail_needs_a_sender_and_somebody_to_get_it(load: Load, missing: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**(MAIL | missing))
    assert str(caught.value) == "GATEWAY_SMTP_URL needs GATEWAY_MAIL_FROM and GATEWAY_MAIL_TO"


def test_every_wrong_setting_has_a_line_of_its_own(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load(ANOMALY_FACTOR="0", WEBHOOK_URL="x", NOTICES_EVERY_S="x")
    lines = str(caught.value).splitlines()
    assert sorted(line.split()[0] for line in lines) == [
        "GATEWAY_ANOMALY_FACTOR",
        "GATEWAY_NOTICES_EVERY_S",
        "GATEWAY_WEBHOOK_URL",
    ]
