"""Who waits for whom: short and long requests mixed, on connections that clients keep, four workers.

    python benchmarks/fair.py [--servers pyserve,granian] [--rounds 3] [--seconds 10]

README.md tells the method.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import environment
import measure
import processes
from bench import chosen, machine
from clients import ANSWERED, Client
from servers import HOST, AbsentError, program, versions

WORKERS = 4
CLIENTS = 64
SHORT, LONG = 0.005, 0.5  # seconds in the app
LONG_ONES = 0.02  # of all requests
THINKING = 1.0  # seconds on average between two requests of a client: a quarter of the workers is busy then
APP = "app:wsgi"
CODE = """
import os, time

def wsgi(environ, start_response):
    time.sleep(float(environ["PATH_INFO"][1:]))
    body = b"1 %d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
Run = dict[str, Any]


class Contestant(NamedTuple):
    title: str
    command: Callable[[int], list[str]]
    distribution: str


def pyserve(*more: str, port: int) -> list[str]:
    return [program("pyserve"), APP, "--bind", f"{HOST}:{port}", "--workers", str(WORKERS), *more]


def gunicorn(threads: int, port: int) -> list[str]:
    command = [program("gunicorn"), APP, "--bind", f"{HOST}:{port}", "--workers", str(WORKERS), "--no-control-socket"]
    return [*command, "--worker-class", "gthread", "--threads", str(threads), "--keep-alive", "75"]


def granian(port: int) -> list[str]:
    where = ["--interface", "wsgi", "--host", HOST, "--port", str(port)]
    return [program("granian"), *where, "--workers", str(WORKERS), "--blocking-threads", "1", "--no-access-log", APP]


def uwsgi(port: int) -> list[str]:
    """Its HTTP router is a process in front, which keeps the connections; without it a worker serves one of them."""
    where = ["--http", f"{HOST}:{port}", "--http-keepalive=75", "--http-auto-chunked", "--need-app"]
    what = ["--module", "app", "--callable", "wsgi", "--master", "--processes", str(WORKERS), "--listen", "1024"]
    return [program("uwsgi"), *where, *what, "--disable-logging"]


CONTESTANTS = {
    "pyserve": Contestant("pyserve sync", lambda port: pyserve(port=port), "pyserve"),
    "pyserve-alone": Contestant(
        "pyserve sync, handoff_timeout = 0", lambda port: pyserve("--handoff-timeout", "0", port=port), "pyserve"
    ),
    "gunicorn": Contestant("gunicorn gthread, 1 thread", partial(gunicorn, 1), "gunicorn"),
    "granian": Contestant("granian, 1 blocking thread", granian, "granian"),
    "uwsgi": Contestant("uWSGI, its router in front", uwsgi, "uwsgi"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--servers", type=chosen(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20, help="of load, for each server in each round")
    parser.add_argument("--as-installed", action="store_true", help="measure what benchmarks/.venv holds already")
    options = parser.parse_args()
    if not options.as_installed:
        print("installing pyserve from this checkout, and the servers", flush=True)
        environment.prepare()
    runs: dict[str, list[Run]] = {key: [] for key in options.servers}
    absent: dict[str, str] = {}
    for number in range(options.rounds):
        for key in [key for key in runs if key not in absent]:
            try:
                runs[key].append(run(CONTESTANTS[key], options.seconds, seed=number))
            except (AbsentError, OSError, subprocess.SubprocessError) as error:
                absent[key] = f"{error}" or type(error).__name__
    host = machine()
    print(f"{host['cpu']}, Linux {host['kernel']}; {options.rounds} interleaved rounds of {options.seconds} s")
    print(f"{CLIENTS} clients, {WORKERS} workers; {LONG_ONES:.0%} of the requests take {LONG:g} s, others {SHORT:g} s")
    print(table({key: found for key, found in runs.items() if found}), flush=True)
    for key, why in absent.items():
        print(f"absent: {CONTESTANTS[key].title}: {why}")
    print("raw data:", save(options.servers, runs))


def run(contestant: Contestant, seconds: int, seed: int) -> Run:
    with tempfile.TemporaryDirectory(prefix="pyserve-fair-") as folder:
        scratch = Path(folder)
        (scratch / "app.py").write_text(CODE)
        port = processes.free_port()
        process = processes.start(contestant.command(port), scratch, scratch / "output")
        try:
            measure.await_start(process, port, scratch / "output")
            return asyncio.run(load(port, seconds, random.Random(seed)))
        finally:
            processes.end(process)


async def load(port: int, seconds: int, dice: random.Random) -> Run:
    """All clients connect and ask once; then they think and ask. The same dice for each server in a round."""
    clients = [Client(port) for _ in range(CLIENTS)]
    first = [await client.ask(f"/{SHORT}") for client in clients]
    if any(fate.outcome != ANSWERED for fate in first):
        raise AbsentError(f"answers {Counter(fate.outcome for fate in first)}")
    until = time.monotonic() + seconds
    plans = [random.Random(dice.random()) for _ in clients]
    stories = await asyncio.gather(*(ask(client, until, plan) for client, plan in zip(clients, plans, strict=True)))
    for client in clients:
        client.leave()
    asked = [each for story in stories for each in story]
    short = sorted(fate.seconds for target, fate in asked if target == f"/{SHORT}" and fate.outcome == ANSWERED)
    return {
        "short": short,
        "failed": sum(fate.outcome != ANSWERED for _, fate in asked),
        "again": sum(not fate.kept for _, fate in asked),
        "requests": Counter(fate.pid for _, fate in asked if fate.pid),
        "connections": Counter(fate.pid for fate in first),
    }


async def ask(client: Client, until: float, dice: random.Random) -> list[tuple[str, Any]]:
    story = []
    while time.monotonic() < until:
        await asyncio.sleep(dice.expovariate(1 / THINKING))
        target = f"/{LONG if dice.random() < LONG_ONES else SHORT}"
        story.append((target, await client.ask(target)))
    return story


def table(runs: dict[str, list[Run]]) -> str:
    head = ["server", "p50 ms", "p99 ms", "slowest ms", "connections", "requests", "lost", "opened again"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for key, rounds in runs.items():
        times = [[1000 * percentile(each["short"], part) for each in rounds] for part in (0.5, 0.99, 1.0)]
        row = [CONTESTANTS[key].title, *(f"{statistics.median(each):.1f}" for each in times)]
        row += [spread([each[what] for each in rounds]) for what in ("connections", "requests")]
        row += [str(sum(each[what] for each in rounds)) for what in ("failed", "again")]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def percentile(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))]


def spread(counts: list[Counter[int]]) -> str:
    """Of the round in the middle: each worker's part, the least first."""
    parts = [sorted(each.values()) for each in counts]
    middle = sorted(parts, key=lambda each: each[-1] - each[0])[len(parts) // 2]
    return " ".join(str(part) for part in [0] * (WORKERS - len(middle)) + middle)


def save(servers: list[str], runs: dict[str, list[Run]]) -> Path:
    folder = environment.HERE / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"fair-{time.strftime('%Y%m%d-%H%M%S')}.json"
    distributions = [CONTESTANTS[key].distribution for key in servers]
    named = {key: value for key, value in versions([]).items() if key in ("Python", "checkout")}
    found = {name: environment.version(name) for name in dict.fromkeys(distributions)}
    path.write_text(json.dumps({"machine": machine(), "versions": {**named, **found}, "runs": runs}) + "\n")
    return path.relative_to(environment.ROOT)


if __name__ == "__main__":
    main()
