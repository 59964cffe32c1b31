"""What the setting reload_check names: a page of the app, and under which name and scheme it is asked for."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyserve.records import NamedTuple

SCHEMES = ("http", "https")
HOST = "localhost"


class CheckURL(NamedTuple):
    scheme: str
    host: str
    target: str


def parse(text: str) -> CheckURL:
    """``"/healthz"``, or ``"https://shop.example/healthz"``. ValueError if it is neither."""
    if any(not "!" <= letter <= "~" for letter in text):
        raise ValueError("not a URL")
    if text.startswith("/"):
        return CheckURL("http", HOST, text)
    scheme, separator, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    if scheme not in SCHEMES or not separator or not host or not slash or set(host) & set("@?#"):
        raise ValueError("not a URL")
    return CheckURL(scheme, host, slash + path)


def request(url: CheckURL) -> bytes:
    """The request for it. Its X-Forwarded-Proto is believed, as from every client of a unix socket."""
    return (
        f"GET {url.target} HTTP/1.1\r\n"
        f"Host: {url.host}\r\n"
        f"X-Forwarded-Proto: {url.scheme}\r\n"
        "User-Agent: pyserve-reload-check\r\n"
        "Accept: */*\r\n"
        "Connection: close\r\n"
        "\r\n"
    ).encode("ascii")


def status(answer: bytes) -> int:
    """The status of an answer; 0 if it has none."""
    version, _, rest = answer.partition(b" ")
    digits = rest[:3]
    return int(digits) if version.startswith(b"HTTP/") and len(digits) == 3 and digits.isdigit() else 0


def is_good(status: int) -> bool:
    return 200 <= status < 400
