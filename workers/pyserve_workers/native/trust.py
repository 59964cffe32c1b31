"""Peers whose X-Forwarded-Proto is believed.

The setting is a list of addresses, networks ("10.0.0.0/8") or "*" for everyone. An IPv4 address that arrives mapped
into IPv6 (::ffff:10.0.0.1) is the IPv4 address. Answers are remembered, for a proxy opens many connections.
"""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

REMEMBERED = 1024
MAPPED = bytes(10) + b"\xff\xff"


def packed(address: str) -> bytes | None:
    """The address as 4 or 16 bytes; None if it is no address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            data = socket.inet_pton(family, address.partition("%")[0])
        except (OSError, ValueError):
            continue
        return data[12:] if data.startswith(MAPPED) else data
    return None


def network(text: str) -> tuple[int, int, int]:
    """(size of the address, bits to ignore at its end, the rest as a number) of "10.0.0.0/8" or "10.1.2.3"."""
    address, slash, prefix = text.partition("/")
    data = packed(address)
    if data is None:
        raise ValueError(f"{text!r} is not an IP address, a network or *")
    bits = len(data) * 8
    length = bits
    if slash:
        if not prefix.isdecimal() or int(prefix) > bits:
            raise ValueError(f"{text!r} has a network length that is not 0 to {bits}")
        length = int(prefix)
    return len(data), bits - length, int.from_bytes(data, "big") >> (bits - length)


class TrustedPeers:
    """``host in TrustedPeers("127.0.0.1,10.0.0.0/8")``; a comma separated text or an iterable of such."""

    def __init__(self, allowed: str | Iterable[str]) -> None:
        names = allowed.split(",") if isinstance(allowed, str) else list(allowed)
        names = [name.strip() for name in names if name.strip()]
        self.everyone = "*" in names
        self.networks = [network(name) for name in names if name != "*"]
        self.known: dict[str, bool] = {}

    def __contains__(self, host: str) -> bool:
        if self.everyone:
            return True
        answer = self.known.get(host)
        if answer is None:
            if len(self.known) >= REMEMBERED:
                self.known.clear()
            answer = self.known[host] = self.match(host)
        return answer

    def match(self, host: str) -> bool:
        data = packed(host)
        if data is None:
            return False
        number = int.from_bytes(data, "big")
        return any(size == len(data) and number >> ignored == rest for size, ignored, rest in self.networks)
