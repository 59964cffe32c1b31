"""The apps that the benchmarks serve."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

TEN_KB = b"x" * 10_240
ONE_MB = b"x" * 1_048_576


def hello(_environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]


def alone(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the nanoseconds that it took to be alone."""
    import pyserve  # not in the environment of the other servers

    began = time.monotonic_ns()

    def answer(_environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        took = time.monotonic_ns() - began
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(took).encode()]

    answered: Iterable[bytes] = pyserve.exclusive(answer)(environ, start_response)
    return answered


def cpu_50us(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    until = time.perf_counter() + 50e-6
    while time.perf_counter() < until:
        pass
    return hello(environ, start_response)


def io_300us(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    time.sleep(0.0003)
    return hello(environ, start_response)


def ten_ms(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    time.sleep(0.01)
    return hello(environ, start_response)


def ten_kb(_environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10240")])
    return [TEN_KB]


def one_mb(_environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1048576")])
    return [ONE_MB]


def echo(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]
