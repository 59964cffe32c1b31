"""How many sleeps of 10 ms can 64 threads, or 64 greenlets, do in a second on one core, when they do nothing else?

    python benchmarks/sleepers.py [--number 64] [--milliseconds 10] [--seconds 3]

It is the bound for the case "io" of bench.py, whose app sleeps so long: a server adds the work of a request to each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
import time
from collections.abc import Callable

import environment

KINDS = {"threads": "threads, time.sleep()", "greenlets": "greenlets, gevent.sleep()"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--number", type=int, default=64)
    parser.add_argument("--milliseconds", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--run", choices=KINDS, help=argparse.SUPPRESS)  # in the process that does it
    options = parser.parse_args()
    if options.run:
        run(options.run, options.number, options.milliseconds / 1000, options.seconds)
        return
    most = options.number * 1000 / options.milliseconds
    print(f"{options.number} times {options.milliseconds:g} ms, on one core; {most:,.0f} a second would be all")
    for kind, title in KINDS.items():
        command = [environment.BIN / "python", __file__, "--run", kind, "--number", str(options.number)]
        command += ["--milliseconds", str(options.milliseconds), "--seconds", str(options.seconds)]
        result = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        print(f"{title:26} {float(result[0]):7,.0f} a second, {float(result[1]):5.1f} µs of CPU time each")


def run(kind: str, number: int, pause: float, seconds: float) -> None:
    """Prints how many sleeps a second there were, and the CPU time of each in microseconds."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    counts = [0] * number
    until = time.monotonic() + seconds
    before = time.process_time()
    if kind == "greenlets":
        import gevent

        gevent.joinall([gevent.spawn(sleep_on, counts, i, gevent.sleep, pause, until) for i in range(number)])
    else:
        each = [threading.Thread(target=sleep_on, args=(counts, i, time.sleep, pause, until)) for i in range(number)]
        for thread in each:
            thread.start()
        for thread in each:
            thread.join()
    done = sum(counts)
    print(done / seconds, (time.process_time() - before) / done * 1e6)


def sleep_on(counts: list[int], own: int, sleep: Callable[[float], None], pause: float, until: float) -> None:
    while time.monotonic() < until:
        sleep(pause)
        counts[own] += 1


if __name__ == "__main__":
    main()
