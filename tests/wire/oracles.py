"""One request as three parsers read it: pyserve's, h11, and llhttp (Node's, by way of httptools)."""

from __future__ import annotations

from typing import Any, NamedTuple

import h11
import httptools

from pyserve_workers.http1.parser import Head
from wire.parser_ways import chunked, head

Fields = list[tuple[bytes, bytes]]


class Reading(NamedTuple):
    """What a parser makes of the first request in some bytes, if it does not refuse it."""

    method: bytes
    target: bytes
    fields: Fields  # names in lower case
    body: bytes  # as far as it is there
    done: bool  # the body is complete


Answer = Reading | str | None  # a str says why it was refused; None: not even the head is complete


def ours(data: bytes) -> Answer:
    found = head(data)
    if not isinstance(found, Head):
        return found
    fields = [(field.name.lower(), field.value) for field in found.fields]
    body, done = data[found.length :], True
    if found.chunked:
        decoded = chunked(body)
        if isinstance(decoded, str):
            return decoded
        body, done = decoded.data, decoded.done
    else:
        length = found.content_length or 0
        body, done = body[:length], len(body) >= length
    return Reading(found.method, found.target, plain(fields), body, done)


def by_h11(data: bytes) -> Answer:
    reader = h11.Connection(h11.SERVER)
    request, body = None, b""
    try:
        reader.receive_data(data)
        while not isinstance(event := reader.next_event(), h11.EndOfMessage | h11.PAUSED | h11.NEED_DATA):
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
    except h11.RemoteProtocolError as error:
        return str(error)
    if request is None:
        return None
    return Reading(
        request.method, request.target, plain(list(request.headers)), body, isinstance(event, h11.EndOfMessage)
    )


def plain(fields: Fields) -> Fields:
    """h11 gives the name of a coding in lower case."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in fields]


class Recorder:
    """The callbacks of httptools, for the first request."""

    def __init__(self) -> None:
        self.target, self.body, self.fields = b"", b"", list[tuple[bytes, bytes]]()
        self.has_head = self.done = False

    def on_url(self, part: bytes) -> None:
        if not self.done:
            self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # trailers come here too
            self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, part: bytes) -> None:
        if not self.done:
            self.body += part

    def on_message_complete(self) -> None:
        self.done = True


def by_llhttp(data: bytes) -> Answer:
    seen = Recorder()
    parser: Any = httptools.HttpRequestParser(seen)
    try:
        # What stands behind the request is not the question; with less than all of it, it is refused or unfinished.
        for at in range(len(data)):
            parser.feed_data(data[at : at + 1])
            if seen.done:
                break
    except httptools.HttpParserUpgrade:
        seen.done = False  # it has not looked at the body: that is another protocol from there on
    except httptools.HttpParserError as error:
        return str(error)
    if not seen.has_head:
        return None
    return Reading(parser.get_method(), seen.target, plain(seen.fields), seen.body, seen.done)
