"""Runs as tables, as marks reached or missed, and as a plot."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from cases import CASES, Mark
from servers import SERVERS

Runs = dict[str, list[dict[str, Any]]]  # by server, one a round


class Line(NamedTuple):
    """A row: medians, and the least and the most CPU time per request."""

    server: str
    rps: float
    p50: float
    p99: float
    cpu: float
    low: float
    high: float
    ratio: float | None
    busy: float
    notes: str


REFERENCE = "pyserve"
HEADER = ["server", "req/s", "p50 ms", "p99 ms", "CPU µs/request", "least–most", "× pyserve", "core used", "noticed"]


def lines(runs: Runs) -> list[Line]:
    """Medians by server, the cheapest first."""
    found = [line(key, rounds, runs.get(REFERENCE, [])) for key, rounds in runs.items() if rounds]
    return sorted(found, key=lambda each: each.cpu)


def line(key: str, rounds: list[dict[str, Any]], reference: list[dict[str, Any]]) -> Line:
    def median(name: str) -> float:
        return float(statistics.median(run[name] for run in rounds))

    costs = [run["cpu_us"] for run in rounds]
    notes = dict.fromkeys(note for run in rounds for note in run["notes"])
    return Line(
        SERVERS[key].title,
        median("requests_per_second"),
        median("p50_ms"),
        median("p99_ms"),
        median("cpu_us"),
        min(costs),
        max(costs),
        ratio(rounds, reference),
        median("busy"),
        ", ".join(notes),
    )


def ratio(rounds: list[dict[str, Any]], reference: list[dict[str, Any]]) -> float | None:
    """The median of the ratios within a round: neighbours in time share the machine's mood."""
    pairs = zip(rounds, reference, strict=False)
    ratios = [mine["cpu_us"] / theirs["cpu_us"] for mine, theirs in pairs]
    return statistics.median(ratios) if ratios else None


def table(key: str, runs: Runs) -> str:
    rows = [HEADER, ["---"] + ["---:"] * 7 + ["---"]]
    for each in lines(runs):
        factor = "" if each.ratio is None else f"{each.ratio:.2f}"
        cost = [f"{each.cpu:.2f}", f"{each.low:.2f}–{each.high:.2f}", factor, f"{each.busy:.0%}"]
        rows.append([each.server, f"{each.rps:,.0f}", f"{each.p50:.2f}", f"{each.p99:.2f}", *cost, each.notes])
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"### {CASES[key].title}\n\n{body}\n\n{mark(key, runs)}\n"


def mark(key: str, runs: Runs) -> str:
    """Whether the costs of pyserve's workers are what they are to be beside the best of the servers named."""
    case = CASES[key]
    return "\n".join(one_mark(each, runs) for each in (case.mark, *case.more_marks))


def one_mark(mark: Mark, runs: Runs) -> str:
    factor, names, subject = mark
    goal = f"{SERVERS[subject].title} at most {factor:.2f} × {' or '.join(names)}"
    ratios = [found for name in names if (found := ratio(runs.get(subject, []), runs.get(name, []))) is not None]
    if not ratios:
        return f"Mark: {goal}; not measured in this run."
    worst = max(ratios)  # beside the cheapest of them
    return f"Mark: {goal}; it is {worst:.2f} ×: {'reached' if worst <= factor else 'missed'}."


WIDTH, BAR, GAP, TITLE, LABEL = 760, 16, 4, 34, 190
COLOUR, OWN = "#8a9bb0", "#2f6f4f"


def plot(results: dict[str, Runs]) -> str:
    """An SVG of CPU time per request, one block a case, each with a scale of its own."""
    parts: list[str] = []
    top = 10
    for key, runs in results.items():
        found = lines(runs)
        if not found:
            continue
        title = f"{escape(CASES[key].title)}: CPU µs per request"
        parts.append(f'<text x="10" y="{top + 18}" font-weight="bold">{title}</text>')
        top += TITLE
        scale = (WIDTH - LABEL - 80) / max(each.cpu for each in found)
        for each in found:
            colour = OWN if each.server.startswith("pyserve") else COLOUR
            width = each.cpu * scale
            parts.append(f'<text x="{LABEL - 8}" y="{top + 12}" text-anchor="end">{escape(each.server)}</text>')
            parts.append(f'<rect x="{LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>')
            parts.append(f'<text x="{LABEL + width + 6:.1f}" y="{top + 12}">{each.cpu:.1f}</text>')
            top += BAR + GAP
        top += 10
    size = f'width="{WIDTH}" height="{top}"'
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([frame, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])
