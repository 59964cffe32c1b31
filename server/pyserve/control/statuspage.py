"""``pyservectl status`` for people: a few lines on the server, then a table of its workers. Pure."""

from __future__ import annotations

from typing import Any

from pyserve.words import count

CLASSES = ("2xx", "3xx", "4xx", "5xx")
HEAD = ("WORKER", "GEN", "STATE", "PID", "RSS", "SPOOLED", "CONNS", "REQUESTS", *map(str.upper, CLASSES), "DOING")
LEFT = {"STATE", "DOING"}  # columns of words; the others are numbers


def page(status: dict[str, Any]) -> str:
    return "\n".join([*headlines(status), "", *table([HEAD, *map(row, status["workers"])])])


def headlines(status: dict[str, Any]) -> list[str]:
    lines = [
        f"pyserve {status['pyserve']} [{status['name']}], pid {status['pid']}, up {duration(status['uptime'])}",
        f"{'degraded, ' if status['degraded'] else ''}{status['phase']}, {workers_of(status)}",
        *([status["gate"]["text"]] if status["gate"]["gate"] != "open" else []),
        *(generation(each) for each in status["generations"]),
        *(f"listening on {url}" for url in status["listeners"]),
    ]
    sums = status["totals"]
    lines.append(
        f"{count(sums['requests'], 'request')} answered by these workers, {sums['active']} in the app now, "
        f"{count(sums['connections'], 'connection')}, {size(sums['rss'])} of memory (shared pages counted each time)"
    )
    return lines


def workers_of(status: dict[str, Any]) -> str:
    serving = sum(worker["state"] == "serving" for worker in status["workers"])
    meanwhile = "; clients are answered with 503" if status["responding"] else ""
    return f"{serving} of {status['target']} workers serve{meanwhile}"


def generation(each: dict[str, Any]) -> str:
    zygote = f"zygote {each['zygote']}, pid {each['zygote_pid']}, {size(each['zygote_rss'])}"
    return (
        f"generation {each['generation']} ({each['role']}): {count(each['workers'], 'worker')}; "
        f"{zygote if each['zygote_pid'] else 'no zygote'}"
    )


def row(worker: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(worker["worker"]),
        str(worker["generation"]),
        worker["state"],
        str(worker["pid"] or "-"),
        size(worker["rss"]),
        size(worker["spooled"]),
        str(worker["connections"]),
        str(worker["requests"]),
        *(str(worker["status"][name]) for name in CLASSES),
        doing(worker),
    )


def doing(worker: dict[str, Any]) -> str:
    if worker["request"] is not None:
        line = worker["request"].replace("\n", r"\x0a")  # no client's, but a worker may write anything
        return f"{line} for {duration(worker['request_seconds'])}"
    return count(worker["active"], "request") if worker["active"] else ""


def table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(cell, rows[0], each, widths)).rstrip() for each in rows]


def cell(head: str, text: str, width: int) -> str:
    return text.ljust(width) if head in LEFT else text.rjust(width)


def duration(seconds: float) -> str:
    """``1.2 s``, ``3 min``, ``5 h 7 min``, ``9 d 2 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def size(number: int) -> str:
    return f"{number / (1 << 20):.1f} MiB"
