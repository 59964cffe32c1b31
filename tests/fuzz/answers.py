"""A strict reader of what a server sends: answers one behind the other, each as its framing says, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\t\x20-\x7e]*")
FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([\t\x20-\x7e\x80-\xff]*)")
BODILESS = (204, 304)


@dataclass
class Answer:
    status: int
    fields: dict[bytes, bytes]  # names in lower case
    body: bytes = b""
    framing: str = ""  # "length", "chunks", "end", or "none"
    whole: bool = False

    @property
    def closes(self) -> bool:
        return self.fields.get(b"connection", b"").lower() == b"close"

    def is_refusal(self) -> bool:
        return self.status >= 400 and self.closes and b"x-token" not in self.fields


class Malformed(Exception):  # noqa: N818
    pass


class Reader:
    """``feed()`` what comes, b"" at the end. The methods are those of the requests, in order. A refusal runs to the end of
    the connection: it has a body even if HEAD was asked, when that could not be understood."""

    def __init__(self, methods: list[str]) -> None:
        self.methods = methods
        self.answers: list[Answer] = []  # those that are whole
        self.partial: Answer | None = None  # whose head has come
        self.continues: list[int] = []  # before which answers 100 Continue has come
        self.fault = ""
        self.data = bytearray()
        self.ended = False
        self.work = self.read()
        next(self.work)

    def feed(self, data: bytes) -> None:
        self.data += data
        self.ended = self.ended or not data
        if not self.fault:
            try:
                next(self.work)
            except StopIteration:
                if self.data:
                    self.fault = f"behind the last answer: {bytes(self.data[:200])!r}"
            except Malformed as error:
                self.fault = str(error)

    # Each of these yields when it needs more.

    def read(self) -> Iterator[None]:
        while True:
            while not self.data:
                if self.ended:
                    return
                yield
            yield from self.answer()

    def line(self) -> Generator[None, None, bytes]:
        while (end := self.data.find(b"\r\n")) < 0:
            yield from self.more()
        found = bytes(self.data[:end])
        del self.data[: end + 2]
        return found

    def take(self, size: int) -> Generator[None, None, bytes]:
        while len(self.data) < size:
            yield from self.more()
        found = bytes(self.data[:size])
        del self.data[:size]
        return found

    def more(self) -> Iterator[None]:
        if self.ended:
            self.cut()
        yield

    def cut(self) -> None:
        """The end came in the middle. What has come of a body stays with its answer."""
        if self.partial is None:
            raise Malformed(f"the end in the middle of a head: {bytes(self.data[:200])!r}")
        self.partial.body += bytes(self.data)
        self.data.clear()
        raise Malformed("")

    def answer(self) -> Iterator[None]:
        line = yield from self.line()
        first = STATUS_LINE.fullmatch(line)
        if not first:
            raise Malformed(f"no status line: {line[:200]!r}")
        fields: dict[bytes, bytes] = {}
        while line := (yield from self.line()):
            found = FIELD.fullmatch(line)
            if not found or found[1].lower() in fields:
                raise Malformed(f"no field, or repeated: {line[:200]!r}")
            fields[found[1].lower()] = found[2]
        if first[1] == b"100":
            if fields:
                raise Malformed("100 Continue with fields")
            self.continues.append(len(self.answers))
            return
        self.partial = Answer(int(first[1]), fields)
        yield from self.body(self.partial)
        self.partial.whole = True
        self.answers.append(self.partial)
        self.partial = None

    def body(self, answer: Answer) -> Iterator[None]:
        number = len(self.answers)
        length, coding = answer.fields.get(b"content-length"), answer.fields.get(b"transfer-encoding")
        if (length is not None and coding is not None) or coding not in (None, b"chunked"):
            raise Malformed(f"framing: {answer.fields}")
        if number >= len(self.methods) or answer.is_refusal():
            answer.framing = "end"
        elif self.methods[number] == "HEAD" or answer.status in BODILESS:
            answer.framing = "none"
        elif coding:
            answer.framing = "chunks"
            yield from self.chunks(answer)
        elif length is not None:
            answer.framing = "length"
            answer.body = yield from self.take(int(length))
        else:
            answer.framing = "end"
        if answer.framing == "end":
            while not self.ended:
                yield
            answer.body = bytes(self.data)
            self.data.clear()

    def chunks(self, answer: Answer) -> Iterator[None]:
        while True:
            line = yield from self.line()
            if not re.fullmatch(rb"[0-9a-f]{1,8}", line):
                raise Malformed(f"no chunk size: {line[:200]!r}")
            size = int(line, 16)
            answer.body += yield from self.take(size)
            if (yield from self.take(2)) != b"\r\n":
                raise Malformed("no CRLF behind a chunk")
            if not size:
                return
