"""The gate: how long it takes until a request is alone, and what a request pays while nobody asks for that.

For every class of workers, four of them and idle: the time in the app from asking to being alone (``pyserve.exclusive``
on a WSGI callable), median and p95. Then the server's CPU time for a request of the hello app, with and without a
request that is named in ``exclusive``, interleaved. What the check costs while the gate is open (one load of a word in
shared memory) is in both; to see it, compare the hello row of ``make bench`` with that of an earlier version.

    python benchmarks/gate.py [--asks 200] [--requests 20000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import http.client
import socket
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import environment
from processes import end, free_port, start, usage

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = {"sync": ["-k", "sync"], "threads": ["--threads", "8"], "gevent": ["-k", "gevent"]}
PATIENCE = 30.0  # seconds
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
APART = 0.01  # seconds between two asks, so that the workers are idle


@contextmanager
def served(app: str, workers: int, *options: str) -> Iterator[tuple[int, int]]:
    """(pid, port) of a pyserve that answers."""
    port = free_port()
    command = [str(environment.BIN / "pyserve"), app, "--bind", f"127.0.0.1:{port}", "--workers", str(workers)]
    with tempfile.TemporaryDirectory() as folder:
        process = start([*command, *options], environment.HERE, Path(folder, "log"))
        try:
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                try:
                    get(port, "/")
                    break
                except OSError:
                    time.sleep(0.01)
            else:
                sys.exit(f"pyserve did not answer: {Path(folder, 'log').read_text()}")
            yield process.pid, port
        finally:
            end(process)


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def asking(options: list[str], asks: int) -> list[float]:
    """Milliseconds from asking to being alone."""
    with served("apps:alone", 4, *options) as (_, port):
        times = []
        for _ in range(asks):
            time.sleep(APART)
            times.append(int(get(port, "/")) / 1e6)
        return times


def cost(options: list[str], requests: int) -> float:
    """Microseconds of the server's CPU time for a request on a kept connection."""
    with served("apps:hello", 1, *options) as (pid, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(REQUEST)
        size = len(client.recv(65536))
        before = usage(pid).seconds
        for _ in range(requests):
            client.sendall(REQUEST)
            received = 0
            while received < size:
                received += len(client.recv(65536))
        return (usage(pid).seconds - before) / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--asks", type=int, default=200)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    environment.prepare(["gevent"])
    print(f"from asking to being alone, 4 idle workers, {options.asks} times\n")
    print("| workers | median, ms | p95, ms |\n|---------|-----------:|--------:|")
    for name, chosen in CLASSES.items():
        times = sorted(asking(chosen, options.asks))
        print(f"| {name:<7} | {statistics.median(times):>10.2f} | {times[int(len(times) * 0.95)]:>7.2f} |")
    print(f"\nserver CPU for a hello request, µs, medians of {options.rounds} rounds of {options.requests:,}\n")
    print("| workers | nothing named | a request named in `exclusive` |")
    print("|---------|--------------:|-------------------------------:|")
    for name, chosen in CLASSES.items():
        ways = {"nothing": chosen, "named": [*chosen, "--exclusive", "PUT /api/sync"]}
        spent: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.rounds):
            for way, words in ways.items():
                spent[way].append(cost(words, options.requests))
        medians = {way: statistics.median(each) for way, each in spent.items()}
        print(f"| {name:<7} | {medians['nothing']:>13.2f} | {medians['named']:>30.2f} |")


if __name__ == "__main__":
    main()
