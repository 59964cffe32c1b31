"""What clients notice of reloads, shutdowns and crashes: pyserve beside other servers, four workers each.

    python benchmarks/reload.py [--servers pyserve,granian] [--rows direct,nginx] [--reloads 20]

README.md tells the method.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import environment
import timeline
from bench import RESULTS, chosen, machine
from fleet import FLEET, WORKERS
from proxies import PROXIES
from scenes import ROWS
from servers import AbsentError, nginx_path, output

PACKAGES = {"/usr/sbin/nginx": "nginx-light", "/usr/sbin/haproxy": "haproxy"}
HEADER = ["server", "sent", "lost", "refused", "slowest ms", "p99 at rest", "p99 during", "×"]
HEADER += ["first new answer s", "only new s", "memory MiB", "noticed"]
TWICE = 2.0  # what p99 during a reload may be, in p99 at rest
Result = dict[str, Any]


def main() -> None:
    options = arguments()
    fronts = [row for row in options.rows if row in PROXIES]
    environment.need_packages({path: name for path, name in PACKAGES.items() if fronts and not Path(path).exists()})
    if not options.as_installed:
        print("installing pyserve from this checkout, and the servers", flush=True)
        distributions = {FLEET[key].distribution for key in options.servers}
        for requirement, why in environment.prepare(distributions | {"gunicorn"}).items():
            print(f"absent: {requirement}: {why}")
    record: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "reloads": options.reloads,
        "versions": versions(options.servers, fronts),
        "rows": {},
    }
    print(introduction(record), flush=True)
    for key in options.rows:
        results = {server: play(key, server, options.reloads) for server in options.servers}
        record["rows"][key] = results
        print(table(key, results), flush=True)
    print("raw data and plot:", *(path.relative_to(environment.ROOT) for path in save(record)))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--servers", type=chosen(FLEET), default=list(FLEET), help=f"of: {', '.join(FLEET)}")
    parser.add_argument("--rows", type=chosen(ROWS), default=list(ROWS), help=f"of: {', '.join(ROWS)}")
    parser.add_argument("--reloads", type=int, default=20, help="in each of the rows direct, nginx, haproxy")
    parser.add_argument("--as-installed", action="store_true", help="measure what benchmarks/.venv holds already")
    return parser.parse_args()


def play(row: str, server: str, count: int) -> Result:
    """One row with one server; what went wrong with the benchmark itself, under "absent"."""
    try:
        return asyncio.run(ROWS[row].play(FLEET[server], count))
    except (AbsentError, OSError, subprocess.SubprocessError) as error:
        return {"absent": f"{error}" or type(error).__name__}


def versions(servers: list[str], fronts: list[str]) -> dict[str, str]:
    found = {"Python": output([str(environment.BIN / "python"), "--version"]).split()[-1]}
    for name in dict.fromkeys([FLEET[key].distribution for key in servers] + ["gevent"]):
        try:
            found[name] = environment.version(name)
        except subprocess.CalledProcessError:
            found[name] = "not installed"
    if "nginx" in fronts:
        found["nginx"] = output([nginx_path(), "-v"]).rpartition("/")[2]
    if "haproxy" in fronts:
        found["haproxy"] = output(["haproxy", "-v"]).split()[2]
    return found


def introduction(record: dict[str, Any]) -> str:
    host = record["machine"]
    return "\n".join(
        [
            ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
            f"{host['cpu']}, Linux {host['kernel']}, load average before {host['load']}",
            f"{WORKERS} workers; an app with 20 ms of work; {record['reloads']} reloads in a row of reloads",
            "",
        ]
    )


def table(key: str, results: dict[str, Result]) -> str:
    rows = [HEADER, ["---"] + ["---:"] * 10 + ["---"]]
    for server, result in results.items():
        rows.append([FLEET[server].title, *cells(result)])
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    marks = [mark(key, server, result) for server, result in results.items() if FLEET[server].distribution == "pyserve"]
    return f"### {ROWS[key].title}\n\n{body}\n\n{chr(10).join(filter(None, marks))}\n"


def cells(result: Result) -> list[str]:
    if "absent" in result:
        return ["–"] * 10 + [f"absent: {result['absent']}"]
    rest, during = result["p99_rest_ms"], result["p99_during_ms"]
    ratio = f"{during / rest:.1f}" if rest and during else "–"
    memory = f"{result['mib']:.0f} → {result['peak_mib']:.0f}" if "mib" in result else f"{result['peak_mib']:.0f}"
    return [
        f"{result['sent']}",
        f"**{result['lost']}**" if result["lost"] else "0",
        f"{result['refused']}",
        f"{result['slowest_ms']:.0f}",
        f"{rest:.0f}" if rest else "–",
        f"{during:.0f}" if during else "–",
        ratio,
        seconds(result["first_s"]),
        seconds(result["only_s"]),
        memory,
        ", ".join(noticed(result)),
    ]


def seconds(value: float) -> str:
    return f"{value:.2f}" if value else "–"


def noticed(result: Result) -> list[str]:
    notes = [result["note"]] if "note" in result else []
    how = {outcome: number for outcome, number in result["outcomes"].items() if outcome not in ("answered", "refused")}
    notes += [f"{number} × {outcome}" for outcome, number in sorted(how.items())]
    if result.get("closed_idle"):
        notes.append(f"{result['closed_idle']} idle connections closed")
    return notes


def mark(key: str, server: str, result: Result) -> str:
    """Whether pyserve has kept what it promises."""
    if "absent" in result or not ROWS[key].nothing_lost:
        return ""
    refused = 0 if key == "backlog" else result["refused"]
    parts = [f"{result['lost'] + refused} lost: {'missed' if result['lost'] + refused else 'reached'}"]
    rest, during = result["p99_rest_ms"], result["p99_during_ms"]
    if key in ("direct", "nginx", "haproxy") and rest and during:
        kept = during <= TWICE * rest
        parts.append(f"p99 {during / rest:.1f} × that at rest, at most {TWICE:.0f}: {'reached' if kept else 'missed'}")
    return f"Mark: {FLEET[server].title}: {'; '.join(parts)}."


def save(record: dict[str, Any]) -> list[Path]:
    """The raw data, each request in it, and a plot beside it."""
    RESULTS.mkdir(exist_ok=True)
    name = RESULTS / time.strftime("reload-%Y%m%d-%H%M%S")
    data, picture = name.with_suffix(".json"), name.with_suffix(".svg")
    data.write_text(json.dumps(record) + "\n")
    picture.write_text(timeline.plot(record["rows"]))
    return [data, picture]


if __name__ == "__main__":
    main()
