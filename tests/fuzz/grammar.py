"""Sound requests, as clients may write them, and what the app must see of each. All of it follows from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from fuzz.plan import Ask

# The limits of the server, which sound requests keep within. See campaign.py.
LINE, FIELD, FIELDS, HEAD, BODY = 2000, 2000, 40, 9000, 60_000

# Ways of answering (app.py), and how often each is asked for.
KINDS = {
    "echo": 30,
    "unread": 5,
    "half": 4,
    "lines": 3,
    "slow": 2,
    "item": 8,
    "list": 5,
    "generator": 6,
    "counted": 4,
    "written": 4,
    "file": 5,
    "buffer": 3,
    "raise": 1,
    "restart": 1,
    "late": 1,
    "close": 2,
    "short": 1,
    "long": 2,
    "empty": 3,
    "unchanged": 3,
}
ENDING = {"late", "close", "short"}  # the connection
UNCOUNTED = {"generator", "written", "buffer", "late"}  # the length of the answer is not known when it begins
SIZES = [10, 100, 100, 1000, 5000, 17_000, 40_000, 120_000, 320_000]  # of answers
SIZE_WEIGHTS = [20, 20, 20, 15, 10, 6, 4, 3, 2]

METHODS = {"GET": 50, "POST": 25, "HEAD": 8, "PUT": 5, "DELETE": 3, "PATCH": 2, "OPTIONS": 2, "M-SEARCH": 1, "x!#~": 1}
NAMES = [
    b"Accept", b"User-Agent", b"Cookie", b"Referer", b"X-Forwarded-For", b"X-Forwarded-Proto", b"If-None-Match", b"Range",
    b"Priority", b"Cache-Control", b"Authorization", b"X_Under_Score", b"Via", b"TE", b"Sec-Fetch-Mode", b"Origin", b"x!#$",
]  # fmt: skip
EXTENSIONS = [b";a", b";a=b", b'; a = "b;\\"c"', b";a=b;c=d"]
# What may be behind a target, also what only browsers and users write.
QUERIES = [
    "",
    "",
    "",
    "",
    "&",
    "&a=%20b",
    "&x=%2f%C3",
    "&~!$'()*+,;:@/?",
    "&[]|",
    "&q=100%",
    "&%u2713%zz",
    '&"<>^`{|}\\',
]
TRAILERS = [b"Vary: x\r\n", b"X-Sum: 1\r\n", b"Server-Timing:\t a;dur=1\r\n", b"x-empty:\r\n"]
VERSIONS = {"HTTP/1.1": 84, "HTTP/1.0": 12, "HTTP/1.2": 2}


def understood(version: str) -> str:
    """A higher minor version is processed as the highest that is known (RFC 9110, 2.5)."""
    return "HTTP/1.0" if version == "HTTP/1.0" else "HTTP/1.1"


class Request(NamedTuple):
    ask: Ask
    head: bytes
    body: bytes  # as it is framed
    last: bool  # the client says that it is

    @property
    def data(self) -> bytes:
        return self.head + self.body


class Maker:
    """Requests of one connection; each has a token of its own."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.count = 0

    def chance(self, percent: float) -> bool:
        return self.random.random() * 100 < percent

    def pick(self, weights: dict[str, int]) -> str:
        return self.random.choices(list(weights), list(weights.values()))[0]

    def token(self) -> str:
        self.count += 1
        return f"{self.seed}.{self.count}"

    # Rows of requests that nobody asks for

    def row(self, size: int) -> bytes:
        """As many as fit, from any byte on: whoever reads on anywhere finds the beginning of one soon."""
        token = self.token().encode()
        evil = b"DELETE /evil/%b HTTP/1.1\r\nHost: x\r\nX-Token: %b\r\nX: \r\n\r\n" % (token, token)
        evil = evil.replace(b"X: ", b"X: " + b"." * (128 - len(evil)))
        return b"x" * self.random.randrange(0, 128, 8) + evil * (size // 128 + 1)

    def noise(self, size: int) -> bytes:
        """Bytes of all kinds, and what framing is made of."""
        return self.random.choice([self.random.randbytes(size), b"0\r\n\r\n" * (size // 5), self.row(size)[:size]])

    # Requests

    def request(self, *, kinds: dict[str, int] = KINDS, most: int = 400_000) -> Request:
        token = self.token()
        version = self.pick(VERSIONS)
        method = self.pick(METHODS)
        kind = self.pick({kind: weight for kind, weight in kinds.items() if method != "HEAD" or kind not in ENDING})
        size = min(most, self.random.choices(SIZES, SIZE_WEIGHTS)[0] + self.random.randrange(10))
        target = self.target(kind, token, size)
        fields = [*self.hosts(version), b"X-Token: " + token.encode(), *self.noise_fields()]
        options, last = self.options(version)
        framing, expects, body, framed = self.body(method, version)
        fields += options + framing
        self.random.shuffle(fields)
        head = f"{method} {target} {version}\r\n".encode() + b"".join(line + b"\r\n" for line in fields) + b"\r\n"
        closes = last or kind in ENDING or (version == "HTTP/1.0" and kind in UNCOUNTED and method != "HEAD")
        ask = Ask(method, target, understood(version), token, body, kind, size, closes=closes, expects=expects)
        return Request(ask, (b"\r\n" if self.chance(8) else b"") + head, framed, last)

    def target(self, kind: str, token: str, size: int) -> str:
        path = kind if self.chance(90) else "".join(f"%{ord(letter):02x}" for letter in kind)
        query = self.random.choice(QUERIES)
        before = self.random.choice(["", "", "", "", "http://x", "HTTPS://[::1]:80", "http://x.example:8000"])
        return f"{before}/{path}/{token}?size={size}{query}"

    def hosts(self, version: str) -> list[bytes]:
        if version == "HTTP/1.0" and self.chance(50):
            return []
        return [self.field(b"Host", self.random.choice([b"x", b"x.example:80", b"[::1]:8000", b"127.0.0.1"]))]

    def field(self, name: bytes, value: bytes) -> bytes:
        if self.chance(20):
            name = bytes(self.random.choice([byte, byte ^ 32]) if chr(byte).isalpha() else byte for byte in name)
        before, after = (
            self.random.choice([b"", b" ", b" ", b" ", b"\t", b"  \t"]),
            self.random.choice([b"", b"", b"", b" \t"]),
        )
        return name + b":" + before + value + after

    def noise_fields(self) -> list[bytes]:
        count = 30 if self.chance(3) else self.random.randrange(5)
        return [self.field(self.random.choice(NAMES), self.value(count)) for _ in range(count)]

    def value(self, count: int) -> bytes:
        most = 200 if count > 5 else 1500 if self.chance(5) else 40
        allowed: Sequence[int] = range(0x21, 0x7F)
        if self.chance(10):
            allowed = [*range(0x80, 0x100), 9, 32]
        return bytes(self.random.choices(allowed, k=self.random.randrange(most))).strip(b" \t")

    def options(self, version: str) -> tuple[list[bytes], bool]:
        """Of the connection: fields, and whether it ends with this request."""
        if version == "HTTP/1.0":
            keeps = self.chance(60)
            return [self.field(b"Connection", self.random.choice([b"keep-alive", b"Keep-Alive, x"]))] * keeps, not keeps
        if self.chance(5):
            return [self.field(b"Connection", self.random.choice([b"close", b"x, CLOSE", b"keep-alive,close"]))], True
        if self.chance(2):
            return [self.field(b"Connection", b"Upgrade"), self.field(b"Upgrade", b"websocket")], False
        return [self.field(b"Connection", b"keep-alive")] * self.chance(20), False

    def body(self, method: str, version: str) -> tuple[list[bytes], bool, bytes, bytes]:
        """Fields, whether 100 Continue is expected, the body, and how it is sent."""
        if not self.chance(10 if method in ("GET", "HEAD", "OPTIONS") else 80):
            return [], False, b"", b""
        size = self.random.choices(
            [self.random.randrange(50), self.random.randrange(3000), self.random.randrange(50_000)], [60, 30, 10]
        )[0]
        body = self.noise(size)
        fields = []
        expects = bool(size) and self.chance(15)
        if expects:
            fields.append(self.field(b"Expect", self.random.choice([b"100-continue", b"100-Continue"])))
        expects &= version != "HTTP/1.0"
        if self.chance(50) and version != "HTTP/1.0":
            return (
                [*fields, self.field(b"Transfer-Encoding", self.random.choice([b"chunked", b"Chunked"]))],
                expects,
                body,
                self.chunks(body),
            )
        zeros = b"00" * self.chance(5)
        return [*fields, self.field(b"Content-Length", zeros + b"%d" % len(body))], expects, body, body

    def chunks(self, body: bytes) -> bytes:
        framed, at = b"", 0
        while at < len(body):
            size = self.random.choice([1, 7, 100, 5000, 60_000])
            part = body[at : at + size]
            number = self.random.choice(["%x", "%X", "%04x"]) % len(part)
            framed += number.encode() + self.extension() + b"\r\n" + part + b"\r\n"
            at += len(part)
            if len(framed) > 2 * len(body) + 100:  # enough small ones
                rest = body[at:]
                framed += b"%x\r\n%b\r\n" % (len(rest), rest) if rest else b""
                break
        trailers = b"".join(self.random.choices(TRAILERS, k=self.random.randrange(3))) if self.chance(20) else b""
        return framed + self.random.choice([b"0", b"0", b"000"]) + self.extension() + b"\r\n" + trailers + b"\r\n"

    def extension(self) -> bytes:
        return self.random.choice(EXTENSIONS) if self.chance(5) else b""
