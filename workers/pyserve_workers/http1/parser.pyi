from collections.abc import Iterable
from typing import NamedTuple

MAX_FIELDS: int
MAX_METHOD: int
MAX_CHUNK_EXTENSIONS: int
MAX_TRAILER_BYTES: int
MAX_TRAILERS: int
TARGET_FORMS: tuple[str, ...]

class Field(NamedTuple):
    name: bytes
    value: bytes
    known: str | None
    underscore: bool

class Head(NamedTuple):
    length: int
    method: bytes
    target: bytes
    path: bytes
    query: bytes | None
    host: bytes
    form: str
    https: bool
    minor_version: int
    keep_alive: bool
    chunked: bool
    content_length: int | None
    expect_continue: bool
    upgrade: bool
    fields: list[Field]

class Body(NamedTuple):
    data: bytes
    consumed: int
    done: bool

class ParseError(Exception):
    code: int
    name: str
    status: int
    reason: str

def errors() -> dict[str, tuple[int, int, str]]: ...
def status(code: int) -> int: ...
def reason(code: int) -> str: ...
def known_fields() -> list[tuple[str, str, bool]]: ...
def known_index(name: bytes) -> int | None: ...
def parse_head(
    data: bytes,
    splits: Iterable[int] = (),
    *,
    line: int = 8190,
    fields: int = 100,
    field_size: int = 8190,
    head: int = 65536,
    raw_target: int = 0,
) -> Head | None: ...

class Memory:
    def __init__(
        self,
        *,
        line: int = 8190,
        fields: int = 100,
        field_size: int = 8190,
        head: int = 65536,
        raw_target: int = 0,
    ) -> None: ...
    def parse(self, data: bytes, splits: Iterable[int] = ()) -> tuple[Head | None, int]: ...

def decode_chunked(data: bytes, splits: Iterable[int] = ()) -> Body: ...
