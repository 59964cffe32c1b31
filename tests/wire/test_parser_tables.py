"""The tables of the parser against their plain twins: errors, known field names, byte classes, generated files."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyserve_workers.http1 import parser

ROOT = Path(__file__).parent.parent.parent

# Every error with its number, which is never reused, and the status it is answered with.
ERRORS = {
    "METHOD": (-1, 400),
    "TARGET": (-2, 400),
    "VERSION": (-3, 400),
    "LINE_TOO_LONG": (-4, 414),
    "BARE_LF": (-5, 400),
    "BARE_CR": (-6, 400),
    "METHOD_TOO_LONG": (-7, 400),
    "CONNECT": (-8, 501),
    "PERCENT_NUL": (-10, 400),
    "USERINFO": (-11, 400),
    "UNSUPPORTED_VERSION": (-12, 505),
    "FIELD_NAME": (-13, 400),
    "FIELD_COLON": (-14, 400),
    "FIELD_SPACE": (-15, 400),
    "FIELD_FOLD": (-16, 400),
    "FIELD_VALUE": (-17, 400),
    "FIELD_TOO_LONG": (-18, 431),
    "TOO_MANY_FIELDS": (-19, 431),
    "HEAD_TOO_LARGE": (-20, 431),
    "FIELD_UNDERSCORE": (-21, 400),
    "FIELD_REPEATED": (-22, 400),
    "HOST_MISSING": (-23, 400),
    "HOST": (-24, 400),
    "CONTENT_LENGTH": (-25, 400),
    "CONTENT_LENGTH_HUGE": (-26, 400),
    "TRANSFER_ENCODING": (-27, 400),
    "TRANSFER_CODING": (-28, 501),
    "TRANSFER_VERSION": (-29, 400),
    "LENGTH_CONFLICT": (-30, 400),
    "EXPECT": (-31, 417),
    "CHUNK_SIZE": (-32, 400),
    "CHUNK_HUGE": (-33, 400),
    "CHUNK_EXTENSION": (-34, 400),
    "CHUNK_EXTENSIONS_TOO_LARGE": (-35, 400),
    "CHUNK_END": (-36, 400),
    "TRAILER_FORBIDDEN": (-37, 400),
    "TRAILERS_TOO_LARGE": (-38, 431),
    "TARGET_RAW": (-39, 400),
}


def test_errors() -> None:
    assert {name: (code, status) for name, (code, status, _) in parser.errors().items()} == ERRORS


def test_reasons_tell_errors_apart() -> None:
    reasons = [reason for _, _, reason in parser.errors().values()]
    assert len(set(reasons)) == len(reasons)
    assert [reason for reason in reasons if not re.fullmatch(r"[A-Za-z][\x20-\x7e]{5,90}[^. ]", reason)] == []


@pytest.mark.parametrize("code", [0, 1, 400, -9, -40, -1000, -(2**31), 2**31 - 1])
def test_numbers_that_are_no_error(code: int) -> None:
    assert parser.status(code) == 500
    assert parser.reason(code) == "an unknown parser error"


def test_an_error_knows_its_answer() -> None:
    with pytest.raises(parser.ParseError, match="BARE_LF: a line ends in LF") as caught:
        parser.parse_head(b"GET / HTTP/1.1\n")
    assert (caught.value.name, caught.value.code, caught.value.status) == ("BARE_LF", -5, 400)


def test_known_fields() -> None:
    fields = parser.known_fields()
    assert len({name for name, _, _ in fields}) == len(fields) >= 60
    for index, (name, key, _) in enumerate(fields):
        cgi = name.upper().replace("-", "_")
        assert key == (cgi if name in ("content-type", "content-length") else "HTTP_" + cgi)
        for spelling in (name, name.upper(), name.title()):
            assert parser.known_index(spelling.encode()) == index


def test_names_that_are_nearly_known() -> None:
    """The perfect hash leads to a slot for every name; the comparison there must be exact."""
    known = {name for name, _, _ in parser.known_fields()}
    tchar = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    chance = random.Random(1)
    for name in known:
        changed = {name[:place] + byte + name[place + 1 :] for place in range(len(name)) for byte in tchar}
        changed |= {name + "x", "x" + name, name[1:], name[:-1], name + "-", name * 2}
        changed |= {"".join(chance.choices(tchar, k=len(name))) for _ in range(100)}
        for other in changed:
            found = parser.known_index(other.encode())
            assert (found is not None) == (other.lower() in known), other
    assert parser.known_index(b"") is None


def test_generated_files_are_up_to_date() -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "h1_tables.py", "--check"], check=True)


# The classes as RFC 9110 and RFC 3986 write them, once more and in another notation.
CLASSES = {
    "H1_TCHAR": rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]",
    "H1_PATH": rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/\[\]|^`{}\\\"<>]",
    "H1_QUERY": rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/?\[\]|^`{}\\\"<>%]",
    "H1_VALUE": rb"[\t\x20-\x7e\x80-\xff]",
    "H1_REG_NAME": rb"[A-Za-z0-9\-._~!$&'()*+;=]",
    "H1_AUTHORITY": rb"[A-Za-z0-9\-._~!$&'()*+,;=%:\[\]]",
    "H1_HEX": rb"[0-9A-Fa-f]",
    "H1_UNDERSCORE": rb"_",
}


def test_byte_classes() -> None:
    source = (ROOT / "workers" / "pyserve_workers" / "http1" / "h1_tables.h").read_text()
    bits = {name: int(bit) for name, bit in re.findall(r"(H1_\w+) = (\d+),", source)}
    table = [int(entry) for entry in re.findall(r"\d+", source.split("h1_class[256] = {")[1].split("}")[0])]
    assert bits.keys() == CLASSES.keys()
    assert len(table) == 256
    for name, pattern in CLASSES.items():
        members = {byte for byte in range(256) if table[byte] & bits[name]}
        assert members == {byte for byte in range(256) if re.fullmatch(pattern, bytes([byte]))}, name
