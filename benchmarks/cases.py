"""What is asked of the servers, and the marks that pyserve is to reach."""

from __future__ import annotations

from typing import NamedTuple

import apps


class Mark(NamedTuple):
    """The CPU time per request of ``subject`` is to be at most ``factor`` times that of the best of ``servers``."""

    factor: float
    servers: list[str]
    subject: str = "pyserve"


class Case(NamedTuple):
    """What wrk asks an app for, and the body that must come back."""

    title: str
    app: str
    path: str
    body: bytes
    mark: Mark
    headers: tuple[str, ...] = ()
    script: str = "done.lua"
    connections: int = 64
    more_marks: tuple[Mark, ...] = ()
    threads: int = 0  # for the app, where a server has such; 0: as servers.py says


GEVENT_MARKS = (Mark(1.25, ["pyserve"], "pyserve-gevent"), Mark(0.10, ["gunicorn-gevent"], "pyserve-gevent"))
THREADS_MARKS = (Mark(1.00, ["granian"], "pyserve-threads"), Mark(0.15, ["gunicorn-gthread"], "pyserve-threads"))
NO_CONVOY = Mark(1.10, ["pyserve"], "pyserve-threads")
HANDED_OUT = Mark(0.40, ["gunicorn-gthread"], "pyserve-threads")
HELLO = "apps:hello"
GREETING = b"Hello, world!"
LETTER = b"x" * 1024  # what post.lua sends
MESSAGE = b'{"message":"Hello, world!"}\n'
CLOSING = ("Connection: close",)

# What Chrome sends for a page, beside Host.
BROWSER = (
    "Connection: keep-alive",
    'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"',
    "sec-ch-ua-mobile: ?0",
    'sec-ch-ua-platform: "Linux"',
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Dest: document",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
)

CASES = {
    "hello": Case(
        "hello, wrk's own headers",
        HELLO,
        "/",
        GREETING,
        Mark(0.95, ["freastal"]),
        more_marks=(*GEVENT_MARKS, *THREADS_MARKS),
    ),
    "browser": Case("hello, twelve browser headers", HELLO, "/", GREETING, Mark(0.90, ["freastal"]), BROWSER),
    "fresh": Case("the same, values always new", HELLO, "/", GREETING, Mark(0.95, ["freastal"]), BROWSER, "fresh.lua"),
    "close": Case("a new connection per request", HELLO, "/", GREETING, Mark(1.00, ["bjoern", "freastal"]), CLOSING),
    "10k": Case("10 KB body", "apps:ten_kb", "/", apps.TEN_KB, Mark(1.00, ["fastwsgi"])),
    "1m": Case("1 MB body", "apps:one_mb", "/", apps.ONE_MB, Mark(1.00, ["fastpysgi"]), connections=16),
    "post": Case("1 KB POST, echoed", "apps:echo", "/", LETTER, Mark(1.00, ["freastal"]), script="post.lua"),
    "flask": Case("Flask, a JSON route", "flask_json:app", "/json", MESSAGE, Mark(1.00, ["bjoern"])),
    "io": Case(
        "the app sleeps for 10 ms",
        "apps:ten_ms",
        "/",
        GREETING,
        Mark(0.5, ["gunicorn-gevent"], "pyserve-gevent"),
        more_marks=(HANDED_OUT,),
        threads=64,
    ),
    "short_io": Case("the app sleeps for 0.3 ms, 8 threads", "apps:io_300us", "/", GREETING, HANDED_OUT, threads=8),
    "cpu": Case("the app computes for 50 µs", "apps:cpu_50us", "/", GREETING, NO_CONVOY, threads=8),
    "log": Case("hello, combined access log to a file", HELLO, "/", GREETING, Mark(1.10, ["pyserve-no-log"])),
}


def request(case: Case, port: int) -> bytes:
    """A request as wrk sends it in this case."""
    posts = case.script == "post.lua"
    method, body = ("POST", LETTER) if posts else ("GET", b"")
    lines = [f"{method} {case.path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *case.headers]
    if posts:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
