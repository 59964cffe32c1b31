"""Private and shared memory of 1, 4, 16 workers of the Django example: pyserve and gunicorn, with and without preload.

Every worker has served the same number of pages when it is looked at (see django_pages.py). Private memory (USS) is
what a process alone holds, and what its end would free; PSS divides each shared page among those that share it, so that
the sum over all processes is what the server takes.

    python benchmarks/memory.py [--workers 1,4,16] [--pages 50]
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import environment
import processes
from measure import await_start

HOST = "127.0.0.1"
SETTLED = 1.0  # seconds after the last page
PATIENCE = 300.0  # seconds until every worker has served its pages
APP = "django_pages:application"
EXAMPLE = environment.ROOT / "examples" / "django_project"
# As in django_pages.py, which imports Django and is not for this process.
PAGES, PROJECT = "BENCHMARK_PAGES", "BENCHMARK_PROJECT"
WORKER = "X-Worker"
FILL = """
from guestbook.models import Entry
Entry.objects.bulk_create(Entry(name=f"Visitor {n}", message="One, two\\nthree") for n in range(100))
"""


SERVERS = {  # its name in the table: the command, to which address and number of workers are added
    "pyserve": ["pyserve", APP],
    "pyserve --no-preload": ["pyserve", APP, "--no-preload"],
    "gunicorn --preload": ["gunicorn", APP, "--preload"],
    "gunicorn": ["gunicorn", APP],
}


class Memory(NamedTuple):
    """Of one process, in KiB."""

    rss: int
    pss: int
    private: int


class Sizes(NamedTuple):
    """Of a server, in MiB: medians over its workers, and sums over its other processes and over all."""

    private: float
    shared: float
    others: float
    total: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--workers", default="1,4,16")
    parser.add_argument("--pages", type=int, default=50, help="that each worker serves")
    parser.add_argument("--as-installed", action="store_true", help="install nothing")
    options = parser.parse_args()
    if not options.as_installed:
        environment.prepare()
    versions = ", ".join(f"{name} {environment.version(name)}" for name in ("pyserve", "gunicorn", "django"))
    print(f"{versions}; sync workers of the Django example, {options.pages} pages each; MiB\n")
    print("| workers | server               | private, a worker | shared, a worker | other processes | all (PSS) |")
    print("|--------:|----------------------|------------------:|-----------------:|----------------:|----------:|")
    with tempfile.TemporaryDirectory(prefix="pyserve-bench-") as name:
        folder = Path(name)
        os.environ |= {PROJECT: str(folder / "project"), PAGES: str(options.pages)}
        set_up(folder / "project")
        for workers in map(int, options.workers.split(",")):
            for server, command in SERVERS.items():
                port = processes.free_port()
                where = ["--bind", f"{HOST}:{port}", "--workers", str(workers)]
                sizes = measure([*command, *where], port, workers, folder / "output")
                print(
                    f"| {workers:>7} | {server:<20} | {sizes.private:>17.1f} | {sizes.shared:>16.1f} "
                    f"| {sizes.others:>15.1f} | {sizes.total:>9.1f} |",
                    flush=True,
                )


def set_up(project: Path) -> None:
    """A copy of the example, with a database and something in it."""
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("*.sqlite3*"))
    for arguments in (["migrate", "--verbosity=0"], ["shell", "--no-imports", "-c", FILL]):
        subprocess.run([environment.BIN / "python", "manage.py", *arguments], cwd=project, check=True)


def measure(command: list[str], port: int, workers: int, output: Path) -> Sizes:
    process = processes.start([str(environment.BIN / command[0]), *command[1:]], environment.HERE, output)
    try:
        await_start(process, port, output)
        pids = ask_all(port, workers)
        time.sleep(SETTLED)
        of_workers = [memory(pid) for pid in pids]
        of_others = [memory(pid) for pid in processes.tree(process.pid) if pid not in pids]
        return sizes_of(of_workers, of_others)
    finally:
        processes.end(process)


def ask_all(port: int, workers: int) -> set[int]:
    """Ask until every worker has served its pages; their pids."""
    done: set[int] = set()
    until = time.monotonic() + PATIENCE

    def ask() -> None:
        while len(done) < workers and time.monotonic() < until:
            connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
            connection.request("GET", "/", headers={"Connection": "close"})
            answer = connection.getresponse()
            answer.read()
            connection.close()
            if answer.headers[WORKER]:  # it has served its pages
                done.add(int(answer.headers[WORKER]))

    clients = [threading.Thread(target=ask) for _ in range(workers + 1)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if len(done) < workers:
        raise SystemExit(f"only {len(done)} of {workers} workers have served their pages in {PATIENCE:g} s")
    return done


def sizes_of(of_workers: list[Memory], of_others: list[Memory]) -> Sizes:
    return Sizes(
        statistics.median(each.private for each in of_workers) / 1024,
        statistics.median(each.rss - each.private for each in of_workers) / 1024,
        sum(each.private for each in of_others) / 1024,
        sum(each.pss for each in [*of_workers, *of_others]) / 1024,
    )


def memory(pid: int) -> Memory:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    return Memory(kib["Rss"], kib["Pss"], kib["Private_Clean"] + kib["Private_Dirty"])


if __name__ == "__main__":
    main()
