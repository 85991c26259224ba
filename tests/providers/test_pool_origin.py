"""Which base URLs name an origin, and which are refused."""

import pytest

from gateway.providers.origin import Origin


@pytest.mark.parametrize(
    ("base_url", "origin", "host_header"),
    [
        ("https://api.openai.com/v1", ("https", "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("https://api.openai.com/v1/", ("https", "api.openai.com", 443, "/v1"), "api.openai.com"),
        ("http://127.0.0.1:11434", ("http", "127.0.0.1", 11434, ""), "127.0.0.1:11434"),
        ("http://host/", ("http", "host", 80, ""), "host"),
        ("HTTPS://EXAMPLE.com:443/a/b", ("https", "example.com", 443, "/a/b"), "example.com"),
        ("http://example.com:443", ("http", "example.com", 443, ""), "example.com:443"),
        ("http://[::1]:8080/v1", ("http", "::1", 8080, "/v1"), "[::1]:8080"),
        ("http://my_service:8000/v1beta/openai", ("http", "my_service", 8000, "/v1beta/openai"), "my_service:8000"),
        ("https://h/a@b/%20/c:d", ("https", "h", 443, "/a@b/%20/c:d"), "h"),
    ],
)
def test_a_good_base_url_is_taken_apart(base_url: str, origin: tuple[str, str, int, str], host_header: str) -> None:
    parsed = Origin.parse(base_url)
    assert tuple(parsed) == origin
    assert parsed.host_header == host_header


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "example.com",
        "//example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "http://",
        "http:///v1",
        "http://user@example.com",
        "http://user:secret@example.com/v1",
        "http://example.com?x=1",
        "http://example.com/v1?api-version=secret",
        "http://example.com/v1#secret",
        "http://example.com#@evil.com",
        "http://example.com\\@evil.com",
        "http://example.com/v1\r\nx-evil: 1",
        "http://example.com/v1\n",
        "http://exa mple.com",
        "http://example.com/a b",
        "http://example.com/\x00",
        "http://bücher.example",
        "http://example.com/ü",
        "http://example.com:0",
        "http://example.com:65536",
        "http://example.com:99999999",
        "http://example.com:+80",
        "http://example.com:",
        "http://.example.com",
        "http://example..com",
        "http://example.com.",
        "http://[::1",
        "http://[::zz]",
        "http://[127.0.0.1]",
        "http://2130706433",
        "http://127.1",
        "http://0x7f.1",
        "http://0x7f000001",
        "http://127.0.0.256",
        "http://example.com//v1",
        "http://example.com/../v1",
        "http://example.com/v1/./x",
        "http://" + "a" * 64 + ".com",
        "http://" + "a." * 127 + "com",
    ],
)
def test_anything_else_is_refused_without_repeating_it(base_url: str) -> None:
    with pytest.raises(ValueError, match="base URL") as caught:
        Origin.parse(base_url)
    assert "secret" not in str(caught.value)
