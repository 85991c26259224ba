"""Whose address counts: the peer's, unless a proxy that the operator named says otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import client_address, trusted_networks
from gateway.errors import ConfigError

PROXIES = trusted_networks("10.0.0.0/8, 192.0.2.7,2001:db8:ffff::/48")
CLIENT = "203.0.113.9"


def forwarded(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"gateway"), *((b"x-forwarded-for", line.encode("latin-1")) for line in lines)]


@pytest.mark.parametrize(
    ("peer", "lines", "address"),
    [
        pytest.param("10.1.2.3", [CLIENT], CLIENT, id="one proxy"),
        pytest.param("10.1.2.3", [f"{CLIENT}, 10.9.9.9"], CLIENT, id="two proxies"),
        pytest.param(
            "10.1.2.3", [f"1.1.1.1, {CLIENT}, 192.0.2.7"], CLIENT, id="what the client invented is left of it"
        ),
        pytest.param("10.1.2.3", ["1.1.1.1", f"{CLIENT},10.9.9.9"], CLIENT, id="two lines are one list"),
        pytest.param("10.1.2.3", [f"{CLIENT}:50123"], CLIENT, id="with a port"),
        pytest.param("10.1.2.3", ["[2001:db8::5]:50123"], "2001:db8::5", id="IPv6 with a port"),
        pytest.param("10.1.2.3", ["2001:DB8:0::5"], "2001:db8::5", id="IPv6 in its shortest form"),
        pytest.param("10.1.2.3", [f"::ffff:{CLIENT}"], CLIENT, id="IPv4 inside IPv6"),
        pytest.param("::ffff:10.1.2.3", [CLIENT], CLIENT, id="the proxy's own IPv4 inside IPv6"),
        pytest.param("2001:db8:ffff::1", [CLIENT], CLIENT, id="a proxy on IPv6"),
        pytest.param("10.1.2.3", ["10.4.4.4, 10.5.5.5"], "10.4.4.4", id="only proxies: where the chain began"),
        pytest.param("10.1.2.3", ["fe80::1%eth0"], "fe80::1", id="a zone says nothing here"),
    ],
)
def test_a_trusted_proxy_is_believed(peer, lines, address):
    assert client_address(peer, forwarded(*lines), PROXIES) == address


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="no header"),
        pytest.param([""], id="empty"),
        pytest.param(["unknown"], id="a word"),
        pytest.param([f"{CLIENT},"], id="a comma at the end"),
        pytest.param([f"{CLIENT}, nonsense, 10.9.9.9"], id="junk between proxies"),
        pytest.param(["300.1.1.1"], id="no address"),
        pytest.param(["010.0.0.1"], id="octal or not"),
        pytest.param(["203.0.113.9/32"], id="a network"),
        pytest.param(["[]"], id="empty brackets"),
        pytest.param(['for="203.0.113.9"'], id="the words of Forwarded"),
        pytest.param(["203.0.113.9\x00"], id="a control character"),
        pytest.param(["\xb2\xb9.1.1.1"], id="digits of another script"),
        pytest.param(["1" * 60_000], id="endless"),
        pytest.param([",".join(["10.9.9.9"] * 40)], id="more proxies than anybody has"),
        pytest.param([CLIENT + "," * 10_000], id="many commas"),
    ],
)
def test_a_header_that_cannot_be_read_leaves_the_peer(lines):
    assert client_address("10.1.2.3", forwarded(*lines), PROXIES) == "10.1.2.3"


@pytest.mark.parametrize("peer", ["203.0.113.200", "11.0.0.1", "2001:db8:fffe::1", "::ffff:11.0.0.1", "192.0.2.8"])
@pytest.mark.parametrize("trusted", [PROXIES, ()], ids=["other proxies", "no proxies"])
def test_nobody_else_is_believed(peer, trusted):
    headers = [
        *forwarded("10.1.2.3"),
        (b"forwarded", b"for=10.1.2.3"),
        (b"x-real-ip", b"10.1.2.3"),
        (b"x-client-ip", b"10.1.2.3"),
        (b"cf-connecting-ip", b"10.1.2.3"),
    ]
    assert client_address(peer, headers, trusted) == peer.removeprefix("::ffff:")


def test_other_headers_of_a_trusted_proxy_mean_nothing():
    headers = [(b"forwarded", b"for=1.1.1.1"), (b"x-real-ip", b"1.1.1.1")]
    assert client_address("10.1.2.3", headers, PROXIES) == "10.1.2.3"


@pytest.mark.parametrize("peer", [None, "", "/run/gateway.sock", "testclient", "1" * 100])
def test_a_peer_without_an_ip_address_has_none(peer):
    assert client_address(peer, forwarded(CLIENT), trusted_networks("0.0.0.0/0,::/0")) == ""


@given(st.binary(max_size=300))
def test_no_header_breaks_it_and_the_answer_is_an_address(value):
    address = client_address("10.1.2.3", [(b"x-forwarded-for", value)], PROXIES)
    assert client_address(address, [], ()) == address != ""


def test_the_settings_list_is_read_once_and_may_be_empty():
    assert [str(network) for network in PROXIES] == ["10.0.0.0/8", "192.0.2.7/32", "2001:db8:ffff::/48"]
    assert trusted_networks("") == trusted_networks("  ") == ()
    assert [str(network) for network in trusted_networks("::ffff:10.0.0.0/104")] == ["10.0.0.0/8"]


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "proxy.internal", "10.0.0.0/8,", "*", "10.0.0.0/8;::/0"])
def test_a_wrong_list_stops_the_start_and_names_the_setting(text):
    with pytest.raises(ConfigError, match=r"^GATEWAY_TRUSTED_PROXIES has "):
        trusted_networks(text)
