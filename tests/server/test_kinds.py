"""How values are read, shown and refused."""

from __future__ import annotations

from typing import Any

import pytest

from pyserve.config.kinds import (
    Account,
    Bind,
    CheckURL,
    Choice,
    Kind,
    LogFile,
    Many,
    Mode,
    Networks,
    Optional,
    Path,
    Seconds,
    Share,
    Size,
    Switch,
    Variables,
    Whole,
    quoted,
)

CHECK_URL = (
    'expected a path such as "/healthz", or "http://HOST/PATH" (or https) where the app must be asked by its name'
)
SHARE = 'expected a whole number or a percentage such as "25%"'
TIME = "expected seconds, or a number with ms, s, m, h or d"
SIZE = "expected bytes, or a number with K, M, G or T (also KiB ...)"
NETWORKS = 'expected addresses or networks such as 10.0.0.0/8, with commas between, or "*"'
ADDRESS = "expected HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH, unix:@NAME or fd://NUMBER"
PRELOAD = Choice(("auto", "always", "never"), yes="always", no="never")


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind(), "sync", "sync"),
        (Path(), "run/x", "run/x"),
        (LogFile(), "-", "-"),
        (Optional(Path()), "", None),
        (Optional(Path()), "/x", "/x"),
        (Whole(1, 9), "4", 4),
        (Share(9), "4", "4"),
        (CheckURL(), "/healthz?deep=1", "/healthz?deep=1"),
        (CheckURL(), "https://shop.example:8443/", "https://shop.example:8443/"),
        (Share(9), " 025% ", "25%"),
        (Share(9), "0", "0"),
        (Whole(1, 9), " 4 ", 4),
        (Whole(-9, 9), "-4", -4),
        (Seconds(), "30", 30.0),
        (Seconds(), "1.5", 1.5),
        (Seconds(), ".5", 0.5),
        (Seconds(), "500ms", 0.5),
        (Seconds(), "30s", 30.0),
        (Seconds(), "2m", 120.0),
        (Seconds(), "2 min", 120.0),
        (Seconds(), "1h", 3600.0),
        (Seconds(), "7d", 604800.0),
        (Seconds(zero=True), "0", 0.0),
        (Size(0), "0", 0),
        (Size(0), "8190", 8190),
        (Size(0), "100b", 100),
        (Size(0), "64MiB", 64 << 20),
        (Size(0), "64m", 64 << 20),
        (Size(0), "1G", 1 << 30),
        (Size(0), "1.5 KiB", 1536),
        (Size(0), "2T", 2 << 40),
        (Mode(), "022", 0o022),
        (Mode(), "22", 0o022),
        (Mode(), "0o660", 0o660),
        (Mode(), "0", 0),
        (PRELOAD, "auto", "auto"),
        (PRELOAD, "ALWAYS", "always"),
        (PRELOAD, "true", "always"),
        (PRELOAD, "0", "never"),
        (Switch(), "true", True),
        (Switch(), " Yes", True),
        (Switch(), "0", False),
        (Account("user"), "root", "root"),
        (Account("user"), "1234", "1234"),
        (Account("group"), "root", "root"),
        (Many(Bind()), "localhost, :80", ["localhost:8000", "0.0.0.0:80"]),
        (Many(Path(), empty=True), "", []),
        (Variables(), "A=1,2", ["A=1,2"]),
        (Variables(), "A=", ["A="]),
        (Networks(), "10.0.0.0/8, ::1", "10.0.0.0/8,::1"),
        (Networks(), "*", "*"),
        (Networks(), "", ""),
    ],
)
def test_text_is_read(kind: Kind, text: str, value: Any) -> None:
    assert kind.from_text(text) == value
    assert type(kind.from_text(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (Kind(), "sync", "sync"),
        (Optional(Mode()), "", None),
        (Whole(1, 9), 4, 4),
        (Share(9), 4, "4"),
        (Share(9), "100%", "100%"),
        (Seconds(), 30, 30.0),
        (Seconds(), 1.5, 1.5),
        (Seconds(), "500ms", 0.5),
        (Size(0), 8190, 8190),
        (Size(0), "64MiB", 64 << 20),
        (Mode(), "022", 0o022),
        (PRELOAD, True, "always"),
        (PRELOAD, False, "never"),
        (PRELOAD, "auto", "auto"),
        (Switch(), True, True),
        (Switch(), False, False),
        (Account("user"), 1234, "1234"),
        (Many(Bind()), "a:1,b:2", ["a:1", "b:2"]),
        (Many(Bind()), ["a:1", "b:2"], ["a:1", "b:2"]),
        (Variables(), ["A=1"], ["A=1"]),
        (Variables(), {"A": "1", "B": "x,y"}, ["A=1", "B=x,y"]),
        (Networks(), ["::1", "10.0.0.0/8"], "::1,10.0.0.0/8"),
        (Networks(), "::1", "::1"),
    ],
)
def test_toml_is_read(kind: Kind, raw: Any, value: Any) -> None:
    assert kind.from_toml(raw) == value
    assert type(kind.from_toml(raw)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Kind(), "", "expected some text"),
        (Kind(), "  ", "expected some text"),
        (Path(), "", "expected a path"),
        (Path(), "a\0b", "expected a path"),
        (LogFile(), "", 'expected a path, or "-"'),
        (Whole(1, 9), "", "expected a whole number"),
        (Whole(1, 9), "four", "expected a whole number"),
        (Whole(1, 9), "4.0", "expected a whole number"),
        (Whole(1, 9), "1_0", "expected a whole number"),
        (Whole(1, 9), "٤", "expected a whole number"),
        (Whole(1, 9), "0", "must be 1 to 9"),
        (Whole(1, 9), "-1", "must be 1 to 9"),
        (CheckURL(), "healthz", CHECK_URL),
        (CheckURL(), "https://shop.example", CHECK_URL),
        (Share(9), "", SHARE),
        (Share(9), "a few", SHARE),
        (Share(9), "-1", SHARE),
        (Share(9), "2.5%", SHARE),
        (Share(9), "%", SHARE),
        (Share(9), "5%%", SHARE),
        (Share(9), "10", "must be 0 to 9"),
        (Share(9), "101%", "must be 0 to 100%"),
        (Seconds(), "", TIME),
        (Seconds(), "soon", TIME),
        (Seconds(), "nan", TIME),
        (Seconds(), "inf", TIME),
        (Seconds(), "1e3", TIME),
        (Seconds(), "1.", TIME),
        (Seconds(), "30 weeks", TIME),
        (Seconds(), "0", "must be more than 0"),
        (Seconds(), "-1", "must be more than 0, at most 7d"),
        (Seconds(zero=True), "-1", "must be 0 to 7d"),
        (Seconds(), "8d", "must be more than 0, at most 7d"),
        (Size(0), "", SIZE),
        (Size(0), "big", SIZE),
        (Size(0), "-1", SIZE),
        (Size(0), "64MB", SIZE),
        (Size(64, 1 << 20), "63", "must be 64 to 1MiB"),
        (Size(64, 1 << 20), "2M", "must be 64 to 1MiB"),
        (Mode(), "", 'expected an octal mode such as "022"'),
        (Mode(), "8", 'expected an octal mode such as "022"'),
        (Mode(), "u+x", 'expected an octal mode such as "022"'),
        (Mode(), "1777", "must be 0 to 777"),
        (PRELOAD, "sometimes", "expected auto, always or never"),
        (Switch(), "", "expected true or false"),
        (Switch(), "perhaps", "expected true or false"),
        (Account("user"), "nobody-has-this-name", "no such user on this machine"),
        (Account("group"), "nobody-has-this-name", "no such group on this machine"),
        (Account("user"), "", "expected a user's name or number"),
        (Many(Bind()), ",", "expected an address to listen on"),
        (Many(Bind()), "a:1,b:x", ADDRESS),
        (Variables(), "A", "expected NAME=VALUE"),
        (Variables(), "=1", "expected NAME=VALUE"),
        (Networks(), "proxy.example", NETWORKS),
        (Networks(), "*,::1", NETWORKS),
        (Networks(), "10.0.0.1/8", 'the network "10.0.0.1/8" has bits set after its prefix'),
    ],
)
def test_bad_text_is_refused(kind: Kind, text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind.from_text(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "raw", "message"),
    [
        (Kind(), 3, "expected some text, in quotes"),
        (Whole(1, 9), "4", "expected a whole number, without quotes"),
        (Share(9), 2.5, f"{SHARE}, in quotes"),
        (Share(9), True, f"{SHARE}, in quotes"),
        (Whole(1, 9), 4.0, "expected a whole number"),
        (Whole(1, 9), True, "expected a whole number"),
        (Seconds(), True, TIME),
        (Seconds(), [1], TIME),
        (Seconds(), float("nan"), "must be more than 0, at most 7d"),
        (Size(0), 1.5, SIZE),
        (Size(0), False, SIZE),
        (Size(0), -1, "must be 0 to 1024TiB"),
        (Mode(), 18, 'expected an octal mode such as "022", in quotes'),
        (PRELOAD, 1, "expected auto, always or never, in quotes"),
        (Switch(), "true", "expected true or false, without quotes"),
        (Switch(), 1, "expected true or false"),
        (Account("user"), True, "expected a user's name or number, in quotes"),
        (Many(Bind()), 8000, "expected an address to listen on, or a list of them"),
        (Many(Bind()), [8000], "expected an address to listen on, in quotes"),
        (Many(Bind()), [], "expected an address to listen on"),
        (Variables(), {"A": 1}, "expected texts, in quotes, as the values of the variables"),
        (Networks(), [1], NETWORKS + ", in quotes"),
    ],
)
def test_bad_toml_is_refused(kind: Kind, raw: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        kind.from_toml(raw)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (Kind(), None, "none"),
        (Optional(Mode()), None, "none"),
        (Optional(Mode()), 0o022, "022"),
        (Whole(1, 9), 4, "4"),
        (Seconds(), 30.0, "30s"),
        (Seconds(), 0.5, "0.5s"),
        (Size(0), 0, "0"),
        (Size(0), 8190, "8190"),
        (Size(0), 65536, "64KiB"),
        (Size(0), 3 << 30, "3GiB"),
        (Mode(), 0o660, "660"),
        (Switch(), True, "true"),
        (Switch(), False, "false"),
        (Many(Bind()), ["a:1", "b:2"], "a:1,b:2"),
        (Variables(), [], "none"),
        (Networks(), "", "none"),
    ],
)
def test_values_are_shown(kind: Kind, value: Any, text: str) -> None:
    assert kind.show(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("four", '"four"'),
        ("it's", '"it\'s"'),
        ("a\nb\x1b", r'"a\nb\x1b"'),
        ("x" * 99, f'"{"x" * 60}..."'),
        (True, "true"),
        (4, "4"),
        ([1, "a"], "[1, 'a']"),
    ],
)
def test_quoted_is_one_short_line(value: object, text: str) -> None:
    assert quoted(value) == text
