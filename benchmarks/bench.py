"""What a request costs: pyserve's sync worker beside other servers, one process on one core.

    python benchmarks/bench.py [--cases hello,close] [--servers pyserve,granian] [--rounds 5] [--seconds 3]

README.md tells the method.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import environment
import measure
import report
from cases import CASES
from servers import SERVERS, AbsentError, versions

RESULTS = environment.HERE / "results"


def main() -> None:
    options = arguments()
    cores = measure.Cores(*two_cores())
    environment.need_packages()
    if options.as_installed:
        uninstalled: dict[str, str] = {}
    else:
        print("installing pyserve from this checkout, and the servers", flush=True)
        uninstalled = environment.prepare()
    environment.build_limit()
    record: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "cores": cores._asdict(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "versions": versions(options.servers),
        "absent": {key: f"not installed: {why}" for key, why in uninstalled.items()},
        "cases": {},
    }
    print(introduction(record))
    for key in options.cases:
        runs, absent = rounds(key, options.servers, options.rounds, options.seconds, cores)
        record["cases"][key] = runs
        record["absent"].update({f"{server}, {key}": why for server, why in absent.items()})
        print(report.table(key, runs), flush=True)
    for what, why in record["absent"].items():
        print(f"absent: {what}: {why}")
    print("raw data and plot:", *(path.relative_to(environment.ROOT) for path in save(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=chosen(CASES), default=list(CASES), help=f"of: {', '.join(CASES)}")
    parser.add_argument("--servers", type=chosen(SERVERS), default=list(SERVERS), help=f"of: {', '.join(SERVERS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load, for each server in each round")
    parser.add_argument("--as-installed", action="store_true", help="measure what benchmarks/.venv holds already")
    return parser.parse_args()


def chosen(known: Collection[str]) -> Callable[[str], list[str]]:
    """A converter for argparse: some of the keys that are known."""

    def convert(text: str) -> list[str]:
        keys = text.replace(",", " ").split()
        for key in keys:
            if key not in known:
                raise argparse.ArgumentTypeError(f"no {key!r}; there are: {', '.join(known)}")
        return keys

    return convert


def two_cores() -> list[int]:
    """One for the server, one for wrk."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("two cores are needed: one for the server, one for wrk")
    return cores[:2]


def rounds(
    case: str, servers: list[str], count: int, seconds: int, cores: measure.Cores
) -> tuple[report.Runs, dict[str, str]]:
    """Interleaved: each round asks every server once. What is absent once is not tried again."""
    runs: report.Runs = {key: [] for key in servers if case in SERVERS[key].cases}
    absent: dict[str, str] = {}
    for _ in range(count):
        for key in [key for key in runs if key not in absent]:
            try:
                runs[key].append(measure.run(SERVERS[key], CASES[case], seconds, cores))
            except (AbsentError, OSError, subprocess.SubprocessError) as error:
                absent[key] = f"{error}" or type(error).__name__
    return {key: found for key, found in runs.items() if key not in absent}, absent


def machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = f"{len(names)} × {names[0]}" if names else platform.machine()
    return {"cpu": cpu, "kernel": platform.release(), "load": " ".join(f"{each:.2f}" for each in os.getloadavg())}


def introduction(record: dict[str, Any]) -> str:
    host, cores = record["machine"], record["cores"]
    lines = [
        ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        f"{host['cpu']}, Linux {host['kernel']}, load average before {host['load']}",
        f"server on core {cores['server']}, wrk on core {cores['load']}",
        f"medians of {record['rounds']} interleaved rounds of {record['seconds']} s",
    ]
    return "\n".join(lines) + "\n"


def save(record: dict[str, Any]) -> list[Path]:
    """The raw data, and a plot beside it."""
    RESULTS.mkdir(exist_ok=True)
    name = RESULTS / time.strftime("%Y%m%d-%H%M%S")
    data, picture = name.with_suffix(".json"), name.with_suffix(".svg")
    data.write_text(json.dumps(record, indent=1) + "\n")
    picture.write_text(report.plot(record["cases"]))
    return [data, picture]


if __name__ == "__main__":
    main()
