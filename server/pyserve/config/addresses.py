"""Addresses to listen on, as people write them. Knows the spelling only: no name is looked up and nothing is opened."""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class _Address(NamedTuple):
        kind: str
        host: str
        port: int
        path: str
        fd: int
else:
    _Address = namedtuple("_Address", "kind host port path fd", defaults=("", 0, "", -1))

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
EXPECTED = "expected HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH, unix:@NAME or fd://NUMBER"


class Address(_Address):
    """Where to listen. ``kind`` says which of the others mean something.

    "tcp": host (a name or an address, IPv6 without brackets) and port (0: any free one); "unix": path, or, with an @
    before it, a name that is in no folder; "fd": fd, a listening socket that the process was started with. ``str()`` is
    the canonical spelling, which ``parse`` reads.
    """

    __slots__ = ()

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd://{self.fd}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def tcp(host: str, port: int) -> Address:
    return Address("tcp", host, port, "", -1)


def unix(path: str) -> Address:
    return Address("unix", "", 0, path, -1)


def descriptor(fd: int) -> Address:
    return Address("fd", "", 0, "", fd)


def is_abstract(path: str) -> bool:
    """Is a unix socket's path one of the kernel's names, which no folder has and anybody on the machine can reach?"""
    return path.startswith("@")


def shown(path: str) -> str:
    """The path of a bound unix socket, as it is written here."""
    return "@" + path[1:] if path.startswith("\0") else path


def parse(text: str) -> Address:
    """The address of "host:port", "host", "[::1]:port", ":port" (every IPv4 address), "unix:/path", "unix:@name" or
    "fd://3".

    A port alone ("8000") is not taken, since it does not say whether the world or only this machine is meant.
    Raises ValueError with what was expected.
    """
    text = text.strip()
    for prefix in ("http://", "tcp://"):
        text = text.removeprefix(prefix)
    if text.startswith("unix:"):
        return unix(_path(text.removeprefix("unix:")))
    if text.startswith("fd://"):
        return descriptor(_number(text.removeprefix("fd://"), 1 << 20))
    if text.isdigit():
        raise ValueError(f"write {DEFAULT_HOST}:{text} (this machine only) or 0.0.0.0:{text} (all interfaces)")
    if text.startswith("["):
        return _ipv6(text)
    if text.count(":") > 1 or "/" in text or "," in text or any(part.isspace() for part in text):
        raise ValueError(EXPECTED)
    host, colon, port = text.partition(":")
    if not colon:
        return tcp(_host(host), DEFAULT_PORT)
    return tcp(host or "0.0.0.0", _number(port, 65535))  # as in gunicorn


def _ipv6(text: str) -> Address:
    host, bracket, rest = text[1:].partition("]")
    if not bracket or ":" not in host or (rest and not rest.startswith(":")):
        raise ValueError(EXPECTED)
    return tcp(host, _number(rest[1:], 65535) if rest else DEFAULT_PORT)


def _host(host: str) -> str:
    if not host:
        raise ValueError(EXPECTED)
    return host


def _path(path: str) -> str:
    if path.startswith("//"):
        path = path[2:]  # unix:///run/x.sock, a common spelling of unix:/run/x.sock
    if path in ("", "@") or "\0" in path:
        raise ValueError(EXPECTED)
    if len(path.encode("utf-8", "surrogateescape")) > 107:
        raise ValueError("the path of a unix socket can have 107 bytes at most")
    return path


def _number(text: str, high: int) -> int:
    if not text.isascii() or not text.isdigit():
        raise ValueError(EXPECTED)
    if int(text) > high:
        raise ValueError(f"must be 0 to {high}: {text}")
    return int(text)
