"""Descriptors that travel by name: a message says whose they are, so that one more or fewer shifts nobody's."""

from __future__ import annotations

from itertools import islice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.ipc.channel import Channel, Message

    Named = dict[str, list[int]]


def send(channel: Channel, kind: str, named: Named, **fields: Any) -> None:
    """Send a message that has the field ``named``: how many descriptors each name has, in their order."""
    fds = [fd for each in named.values() for fd in each]
    channel.send(kind, fds=fds, named={name: len(each) for name, each in named.items()}, **fields)


def of(message: Message) -> Named:
    """The descriptors that came with such a message."""
    rest = iter(message.fds)
    return {name: list(islice(rest, number)) for name, number in message["named"].items()}
