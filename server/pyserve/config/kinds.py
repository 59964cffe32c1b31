"""The kinds of value that a setting can have: how each is read from text and from TOML, and how it is shown.

A kind raises ValueError with what it expected ("expected a whole number"); who gave the value, and where, is added by
the caller. What ``show`` returns is what ``from_text`` reads.
"""

from __future__ import annotations

from pyserve.config import addresses, checkurl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

SIZE_UNITS = {
    "": 1, "b": 1,
    "k": 1 << 10, "kib": 1 << 10,
    "m": 1 << 20, "mib": 1 << 20,
    "g": 1 << 30, "gib": 1 << 30,
    "t": 1 << 40, "tib": 1 << 40,
}  # fmt: skip
TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
NOTHING = "none"  # how the absence of a value is shown; an empty text is how it is given


def quoted(value: object) -> str:
    """A value as error messages show it: on one line, texts in double quotes, and short."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    escaped = ascii(value) if not value.isprintable() else f"'{value}'"
    text = escaped[1:-1]
    return f'"{text[:60]}..."' if len(text) > 64 else f'"{text}"'


def number(text: str) -> float | None:
    """The value of plain decimal digits with at most one point; None for all else ("1e3", "nan", "1_000", "-1")."""
    whole, point, fraction = text.partition(".")
    if not (whole + fraction).isdigit() or not text.isascii() or (point and not fraction):
        return None
    return float(text)


def split_unit(text: str) -> tuple[str, str]:
    """The number and the unit: ("64", "mib") of "64 MiB"."""
    text = text.strip()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return digits.rstrip(), text[len(digits) :].lower()


class Kind:
    """A kind of value. This one is any text that is not empty."""

    metavar = "TEXT"
    expected = "some text"
    many = False  # the option may be repeated, and the value is a list
    switch: tuple[str, str] | None = None  # the option takes no value: the texts that it and its --no- stand for

    def from_text(self, text: str) -> Any:
        """The value of a text from the command line or the environment."""
        if not text.strip():
            raise ValueError(f"expected {self.expected}")
        return text

    def from_toml(self, value: Any) -> Any:
        """The value of what TOML holds."""
        if not isinstance(value, str):
            raise ValueError(f"expected {self.expected}, in quotes")
        return self.from_text(value)

    def show(self, value: Any) -> str:
        """The value as a person would write it."""
        return NOTHING if value is None else str(value)


class Optional(Kind):
    """Another kind, or nothing: given as an empty text, which also turns off what a weaker source turned on."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.metavar = kind.metavar

    def from_text(self, text: str) -> Any:
        return self.kind.from_text(text) if text else None

    def from_toml(self, value: Any) -> Any:
        return None if value == "" else self.kind.from_toml(value)

    def show(self, value: Any) -> str:
        return NOTHING if value is None else self.kind.show(value)


class Path(Kind):
    """A path of the file system. Relative ones start at the working directory (``chdir``)."""

    metavar = "PATH"
    expected = "a path"

    def from_text(self, text: str) -> str:
        if "\0" in text:
            raise ValueError(f"expected {self.expected}")
        return str(super().from_text(text))


class SocketFile(Path):
    """The path of a unix socket, which has a mode; a name in no folder (``@name``) has none."""

    def from_text(self, text: str) -> str:
        if addresses.is_abstract(text):
            raise ValueError("expected a path: who may connect to a name that is in no folder cannot be limited")
        return super().from_text(text)


class LogFile(Path):
    """A path, or "-" for the standard stream."""

    metavar = "FILE"
    expected = 'a path, or "-"'


class Whole(Kind):
    """A whole number within a range."""

    metavar = "N"
    expected = "a whole number"

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    def from_text(self, text: str) -> int:
        digits = text.strip()
        if not digits.isascii() or not digits.removeprefix("-").isdigit():
            raise ValueError(f"expected {self.expected}")
        return self.within(int(digits))

    def from_toml(self, value: Any) -> int:
        if type(value) is not int:
            unquote = ", without quotes" if isinstance(value, str) else ""
            raise ValueError(f"expected {self.expected}{unquote}")
        return self.within(value)

    def within(self, value: int) -> int:
        if not self.low <= value <= self.high:
            raise ValueError(f"must be {self.low} to {self.high}")
        return value


class Share(Kind):
    """A number of workers, or a percentage of them: ``"2"``, ``"25%"``."""

    metavar = "N|N%"
    expected = 'a whole number or a percentage such as "25%"'

    def __init__(self, most: int) -> None:
        self.most = most

    def from_text(self, text: str) -> str:
        digits, percent, rest = text.strip().partition("%")
        if rest or not digits.isascii() or not digits.isdigit():
            raise ValueError(f"expected {self.expected}")
        most = 100 if percent else self.most
        if len(digits) > 9 or int(digits) > most:
            raise ValueError(f"must be 0 to {most}{percent}")
        return f"{int(digits)}{percent}"

    def from_toml(self, value: Any) -> str:
        return self.from_text(str(value) if type(value) is int else super().from_toml(value))


class Seconds(Kind):
    """A time span, in seconds if it has no unit."""

    metavar = "SECONDS"
    expected = "seconds, or a number with ms, s, m, h or d"
    high = 7 * 86400.0

    def __init__(self, zero: bool = False) -> None:
        self.zero = zero  # may it be 0? (a meaning that the setting's help gives)

    def from_text(self, text: str) -> float:
        digits, unit = split_unit(text)
        value = number(digits.removeprefix("-"))
        if value is None or unit not in TIME_UNITS:
            raise ValueError(f"expected {self.expected}")
        return self.within(-value if digits.startswith("-") else value * TIME_UNITS[unit])

    def from_toml(self, value: Any) -> float:
        if isinstance(value, str):
            return self.from_text(value)
        if type(value) not in (int, float):
            raise ValueError(f"expected {self.expected}")
        return self.within(value)

    def within(self, value: float) -> float:
        if not 0 <= value <= self.high:  # also false for NaN
            raise ValueError("must be 0 to 7d" if self.zero else "must be more than 0, at most 7d")
        if not value and not self.zero:
            raise ValueError("must be more than 0")
        return float(value)

    def show(self, value: float) -> str:
        return f"{value:.9f}".rstrip("0").rstrip(".") + "s"


class Size(Kind):
    """A number of bytes; K, M, G and T (or KiB ...) are powers of 1024."""

    metavar = "SIZE"
    expected = "bytes, or a number with K, M, G or T (also KiB ...)"

    def __init__(self, low: int, high: int = 1 << 50) -> None:
        self.low = low
        self.high = high

    def from_text(self, text: str) -> int:
        digits, unit = split_unit(text)
        value = number(digits)
        if value is None or unit not in SIZE_UNITS:
            raise ValueError(f"expected {self.expected}")
        return self.within(int(value * SIZE_UNITS[unit]))

    def from_toml(self, value: Any) -> int:
        if isinstance(value, str):
            return self.from_text(value)
        if type(value) is not int:
            raise ValueError(f"expected {self.expected}")
        return self.within(value)

    def within(self, value: int) -> int:
        if not self.low <= value <= self.high:
            raise ValueError(f"must be {self.show(self.low)} to {self.show(self.high)}")
        return value

    def show(self, value: int) -> str:
        for unit, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value and value % unit == 0:
                return f"{value // unit}{name}"
        return str(value)


class Mode(Kind):
    """Permission bits, always octal."""

    metavar = "MODE"
    expected = 'an octal mode such as "022"'

    def from_text(self, text: str) -> int:
        digits = text.strip().lower().removeprefix("0o")
        if not digits or digits.strip("01234567"):
            raise ValueError(f"expected {self.expected}")
        if int(digits, 8) > 0o777:
            raise ValueError("must be 0 to 777")
        return int(digits, 8)

    def from_toml(self, value: Any) -> int:
        # A bare 22 would be decimal in TOML, which is never what was meant, and 0o22 cannot be told from 18 any more.
        if not isinstance(value, str):
            raise ValueError(f"expected {self.expected}, in quotes")
        return self.from_text(value)

    def show(self, value: int) -> str:
        return f"{value:03o}"


YES = ("true", "yes", "on", "1")
NO = ("false", "no", "off", "0")


class Switch(Kind):
    """True or false."""

    metavar = "true|false"
    expected = "true or false"
    switch = ("true", "false")

    def from_text(self, text: str) -> bool:
        word = text.strip().lower()
        if word not in YES + NO:
            raise ValueError(f"expected {self.expected}")
        return word in YES

    def from_toml(self, value: Any) -> bool:
        if not isinstance(value, bool):
            unquote = ", without quotes" if isinstance(value, str) else ""
            raise ValueError(f"expected {self.expected}{unquote}")
        return value

    def show(self, value: bool) -> str:
        return "true" if value else "false"


class Choice(Kind):
    """One of a few words; ``yes`` and ``no`` are those which true and false stand for."""

    def __init__(self, words: Sequence[str], yes: str | None = None, no: str | None = None) -> None:
        self.words = words
        self.yes = yes
        self.no = no
        self.switch = (yes, no) if yes and no else None
        self.metavar = "|".join(words)
        self.expected = ", ".join(words[:-1]) + " or " + words[-1]

    def from_text(self, text: str) -> str:
        word = text.strip().lower()
        if self.yes and word in YES:
            return self.yes
        if self.no and word in NO:
            return self.no
        if word not in self.words:
            raise ValueError(f"expected {self.expected}")
        return word

    def from_toml(self, value: Any) -> str:
        return self.from_text(str(value) if isinstance(value, bool) else super().from_toml(value))


class Account(Kind):
    """A user or a group of this machine, by name or number."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.metavar = what.upper()
        self.expected = f"a {what}'s name or number"

    def from_text(self, text: str) -> str:
        name = str(super().from_text(text))
        from pyserve.system import accounts

        try:
            accounts.user_id(name) if self.what == "user" else accounts.group_id(name)
        except KeyError:
            raise ValueError(f"no such {self.what} on this machine") from None
        return name

    def from_toml(self, value: Any) -> str:
        return self.from_text(str(value) if type(value) is int else super().from_toml(value))


class Request(Kind):
    """A method and a path, as in "PUT /api/sync"."""

    metavar = "REQUEST"
    expected = 'a method and a path, as in "PUT /api/sync"'

    def from_text(self, text: str) -> str:
        method, _, path = text.strip().partition(" ")
        path = path.strip()
        if not (method.isascii() and method.isalpha() and method.isupper() and path.startswith("/")):
            raise ValueError(f"expected {self.expected}")
        if "?" in path or "#" in path or " " in path:
            raise ValueError(f"expected {self.expected}; a path without query, not percent-encoded")
        return f"{method} {path}"


class Many(Kind):
    """A list of another kind: a repeated option, an array, or a text with commas between."""

    many = True

    def __init__(self, item: Kind, empty: bool = False) -> None:
        self.item = item
        self.empty = empty  # may the list be empty?
        self.metavar = item.metavar
        self.expected = item.expected

    def from_text(self, text: str) -> list[Any]:
        return self.checked([self.item.from_text(part.strip()) for part in text.split(",") if part.strip()])

    def from_toml(self, value: Any) -> list[Any]:
        if isinstance(value, str):
            return self.from_text(value)
        if not isinstance(value, list):
            raise ValueError(f"expected {self.expected}, or a list of them")
        return self.checked([self.item.from_toml(part) for part in value])

    def checked(self, values: list[Any]) -> list[Any]:
        if not values and not self.empty:
            raise ValueError(f"expected {self.expected}")
        return values

    def show(self, value: list[Any]) -> str:
        return ",".join(self.item.show(part) for part in value) or NOTHING


class Bind(Kind):
    """An address to listen on, in its one canonical spelling."""

    metavar = "ADDRESS"
    expected = "an address to listen on"

    def from_text(self, text: str) -> str:
        return str(addresses.parse(text))


class CheckURL(Kind):
    """A page of the app itself, as ``checkurl`` reads it."""

    metavar = "URL"
    expected = 'a path such as "/healthz", or "http://HOST/PATH" (or https) where the app must be asked by its name'

    def from_text(self, text: str) -> str:
        try:
            checkurl.parse(text)
        except ValueError:
            raise ValueError(f"expected {self.expected}") from None
        return text


class Function(Kind):
    """A function of a module that can be imported."""

    metavar = "MODULE:FUNCTION"
    expected = 'MODULE:FUNCTION, as in "myapp.hooks:close"'

    def from_text(self, text: str) -> str:
        module, _, name = text.strip().partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
            raise ValueError(f"expected {self.expected}")
        return text.strip()


class Variable(Kind):
    """An assignment to a variable of the environment, NAME=VALUE."""

    metavar = "NAME=VALUE"
    expected = "NAME=VALUE"

    def from_text(self, text: str) -> str:
        name, equals, _ = text.partition("=")
        if not name.strip() or not equals or "\0" in text:
            raise ValueError(f"expected {self.expected}")
        return text


class Variables(Many):
    """A list of assignments, or a table of TOML. Commas are part of a value."""

    def __init__(self) -> None:
        super().__init__(Variable(), empty=True)

    def from_text(self, text: str) -> list[Any]:
        return [self.item.from_text(text)]

    def from_toml(self, value: Any) -> list[Any]:
        if not isinstance(value, dict):
            return super().from_toml(value)
        if not all(isinstance(part, str) for part in value.values()):
            raise ValueError("expected texts, in quotes, as the values of the variables")
        return [self.item.from_text(f"{name}={part}") for name, part in value.items()]


class Networks(Kind):
    """Addresses and networks (CIDR) with commas between; "*" alone stands for all."""

    metavar = "ADDRESSES"
    expected = 'addresses or networks such as 10.0.0.0/8, with commas between, or "*"'

    def from_text(self, text: str) -> str:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if parts != ["*"]:
            for part in parts:
                self.check(part)
        return ",".join(parts)

    def from_toml(self, value: Any) -> str:
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return self.from_text(",".join(value))
        return str(super().from_toml(value))

    def check(self, part: str) -> None:
        import ipaddress

        try:
            ipaddress.ip_network(part)
        except ValueError as error:
            if "host bits" in str(error):
                raise ValueError(f"the network {quoted(part)} has bits set after its prefix") from None
            raise ValueError(f"expected {self.expected}") from None

    def show(self, value: str) -> str:
        return value or NOTHING
