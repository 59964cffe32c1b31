"""Feed the parser the same bytes in every way and insist that the way does not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pyserve_workers.http1.parser import Body, Head, Memory, ParseError, decode_chunked, parse_head

T = TypeVar("T")

# What may stand behind a finished head or body: the next request, or anything at all.
BEHIND = (
    b"G",
    b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b":",
    b"\0",
    b"\xff\xfe",
)

# With longer data only so many cuts are tried, the same number from each part of it.
MOST_CUTS = 2000


# What every head that the tests parse has left, for all that come after it with the same limits.
memories: dict[tuple[tuple[str, int], ...], Memory] = {}


def head(data: bytes, splits: Iterable[int] = (), /, **limits: int) -> Head | str | None:
    """The head, None if it is incomplete, or the name of the error."""
    splits = list(splits)
    outcome = attempt(lambda: parse_head(data, splits, **limits))
    memory = memories.setdefault(tuple(sorted(limits.items())), Memory(**limits))
    for time in ("first", "second", "third"):
        assert attempt(lambda: memory.parse(data, splits)[0]) == outcome, f"the {time} time, with a memory"
    return outcome


def attempt(parse: Callable[[], Head | None]) -> Head | str | None:
    try:
        return parse()
    except ParseError as error:
        return error.name


def chunked(data: bytes, splits: Iterable[int] = (), /) -> Body | str:
    """What was decoded, or the name of the error."""
    try:
        return decode_chunked(data, splits)
    except ParseError as error:
        return error.name


def in_every_way(read: Callable[..., T], data: bytes, **limits: Any) -> T:
    """The outcome of ``read`` for the data, which has to be the same whole, byte by byte and cut in two anywhere."""
    whole = read(data, **limits)
    step = 1 + len(data) // MOST_CUTS
    assert read(data, range(0, len(data), step), **limits) == whole, "byte by byte"
    for cut in range(0, len(data), step):
        assert read(data, [cut], **limits) == whole, f"cut at {cut}"
    return whole


def head_in_every_way(data: bytes, **limits: int) -> Head | str | None:
    """As in_every_way; and what follows a head or an error changes nothing about it."""
    whole = in_every_way(head, data, **limits)
    for behind in BEHIND if whole is not None else ():
        assert head(data + behind, **limits) == whole, f"followed by {behind!r}"
    return whole


def chunked_in_every_way(data: bytes) -> Body | str:
    """As in_every_way; and what follows the end of a body or an error changes nothing about it."""
    whole = in_every_way(chunked, data)
    for behind in BEHIND if isinstance(whole, str) or whole.done else ():
        assert chunked(data + behind) == whole, f"followed by {behind!r}"
    return whole
