"""Addresses as people write them."""

from __future__ import annotations

import pytest

from pyserve.config.addresses import Address, descriptor, parse, tcp, unix

EXPECTED = "expected HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH, unix:@NAME or fd://NUMBER"


@pytest.mark.parametrize(
    ("text", "address", "canonical"),
    [
        ("127.0.0.1:8000", tcp("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("localhost", tcp("localhost", 8000), "localhost:8000"),
        (":80", tcp("0.0.0.0", 80), "0.0.0.0:80"),
        ("example.org:0", tcp("example.org", 0), "example.org:0"),
        (" http://127.0.0.1:65535 ", tcp("127.0.0.1", 65535), "127.0.0.1:65535"),
        ("[::1]:8000", tcp("::1", 8000), "[::1]:8000"),
        ("[::]", tcp("::", 8000), "[::]:8000"),
        ("unix:/run/x.sock", unix("/run/x.sock"), "unix:/run/x.sock"),
        ("unix:///run/x.sock", unix("/run/x.sock"), "unix:/run/x.sock"),
        ("unix:x.sock", unix("x.sock"), "unix:x.sock"),
        ("unix:@name", unix("@name"), "unix:@name"),
        ("unix://@name", unix("@name"), "unix:@name"),
        ("fd://3", descriptor(3), "fd://3"),
    ],
)
def test_good_addresses(text: str, address: Address, canonical: str) -> None:
    assert parse(text) == address
    assert str(address) == canonical
    assert parse(canonical) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", EXPECTED),
        ("8000", "write 127.0.0.1:8000 (this machine only) or 0.0.0.0:8000 (all interfaces)"),
        ("localhost:", EXPECTED),
        ("localhost:http", EXPECTED),
        ("localhost:-1", EXPECTED),
        ("localhost:٨", EXPECTED),
        ("localhost:65536", "must be 0 to 65535: 65536"),
        ("::1:8000", EXPECTED),
        ("[::1", EXPECTED),
        ("[localhost]:80", EXPECTED),
        ("[::1]80", EXPECTED),
        ("https://localhost:80", EXPECTED),
        ("a b:80", EXPECTED),
        ("unix:", EXPECTED),
        ("unix:@", EXPECTED),
        ("unix:" + "x" * 108, "the path of a unix socket can have 107 bytes at most"),
        ("unix:" + "é" * 54, "the path of a unix socket can have 107 bytes at most"),
        ("fd://", EXPECTED),
        ("fd://x", EXPECTED),
    ],
)
def test_bad_addresses(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value) == message
