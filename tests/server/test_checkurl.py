"""The page that a reload's canary must answer: how it is named, asked for and judged."""

from __future__ import annotations

import pytest

from pyserve.config.checkurl import CheckURL, is_good, parse, request, status


@pytest.mark.parametrize(
    "text, expected",
    [
        ("/healthz", CheckURL("http", "localhost", "/healthz")),
        ("/", CheckURL("http", "localhost", "/")),
        ("/a?b=http://c/", CheckURL("http", "localhost", "/a?b=http://c/")),
        ("http://shop.example/x", CheckURL("http", "shop.example", "/x")),
        ("https://[::1]:8443/x/y?z", CheckURL("https", "[::1]:8443", "/x/y?z")),
    ],
)
def test_what_names_a_page(text: str, expected: CheckURL) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "healthz",
        "http://shop.example",
        "http:///x",
        "ftp://a/b",
        "//a/b c",
        "/a\r\nX: y",
        "/é",
        "http://a@b/",
        "http://a?b/",
    ],
)
def test_what_names_none(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


def test_the_request() -> None:
    lines = request(parse("https://shop.example/x")).decode().split("\r\n")
    assert lines[0] == "GET /x HTTP/1.1"
    assert {"Host: shop.example", "X-Forwarded-Proto: https", "Connection: close"} < set(lines)
    assert lines[-2:] == ["", ""]


@pytest.mark.parametrize(
    "answer, expected, good",
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 200, True),
        (b"HTTP/1.1 204 No Content\r\n", 204, True),
        (b"HTTP/1.1 302 Found", 302, True),
        (b"HTTP/1.1 404 Not Found", 404, False),
        (b"HTTP/1.1 503 Service Unavailable", 503, False),
        (b"", 0, False),
        (b"HTTP/1.1 2", 0, False),
        (b"hello", 0, False),
    ],
)
def test_the_answer(answer: bytes, expected: int, good: bool) -> None:
    assert status(answer) == expected
    assert is_good(expected) is good
