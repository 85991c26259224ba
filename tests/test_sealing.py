"""Sealed values: only this gateway opens them, only in their place, and only unchanged."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sealing import Sealer
from gateway.secrets import Secrets

SECRETS = Secrets(b"root-of-the-tests-0123456789abcdef")
SEALER = Sealer(SECRETS, "cache-answers")
OVERHEAD = 28
"""A nonce of 12 bytes and a tag of 16."""


@given(st.binary(max_size=2_000), st.text(max_size=100))
def test_what_was_sealed_opens_as_it_was(plain: bytes, about: str) -> None:
    sealed = SEALER.seal(plain, about)
    assert SEALER.open(sealed, about) == plain
    assert len(sealed) == len(plain) + OVERHEAD


def test_the_text_and_what_it_is_about_cannot_be_read() -> None:
    sealed = SEALER.seal(b"canary of a prompt", "canary-id")
    assert b"canary" not in sealed


def test_the_same_text_is_sealed_differently_each_time() -> None:
    """Who sees two rows must not learn that they hold the same answer."""
    made = {SEALER.seal(b"the same", "id") for _ in range(100)}
    assert len(made) == len({sealed[:12] for sealed in made}) == 100


@given(st.binary(max_size=60), st.data())
def test_a_changed_bit_keeps_it_shut(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(SEALER.seal(plain, "id"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert SEALER.open(bytes(sealed), "id") is None


@pytest.mark.parametrize("kept", [0, 1, 11, 12, 13, 27, 28, 32])
def test_a_cut_one_stays_shut(kept: int) -> None:
    sealed = SEALER.seal(b"hello", "id")
    assert len(sealed) > kept
    assert SEALER.open(sealed[:kept], "id") is None


@pytest.mark.parametrize("about", ["", "id2", "ID", "id ", "i"])
def test_one_that_was_moved_to_another_row_stays_shut(about: str) -> None:
    assert SEALER.open(SEALER.seal(b"hello", "id"), about) is None


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Sealer(SECRETS, "idempotency-answers"), id="another purpose"),
        pytest.param(Sealer(Secrets(b"another-root-0123456789abcdefghij"), "cache-answers"), id="another root secret"),
    ],
)
def test_whoever_has_another_key_cannot_open_it(other: Sealer) -> None:
    sealed = SEALER.seal(b"hello", "id")
    assert other.open(sealed, "id") is None
    assert Sealer(SECRETS, "cache-answers").open(sealed, "id") == b"hello", "a restart changes nothing"


def test_a_sealer_does_not_show_its_key() -> None:
    assert SECRETS.hmac_key("cache-answers").hex() not in f"{SEALER!r} {vars(SEALER)}"
