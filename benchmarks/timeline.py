"""A plot of what clients noticed around a reload: each request a dot at the moment of its answer, each that was
lost or refused a red cross; all reloads of a run lie over one another, with the signal at 0."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

from clients import ANSWERED
from fleet import FLEET
from scenes import ROWS

BEFORE, AFTER = 1.0, 5.0  # seconds around the signal
LEAST, MOST = 10.0, 10_000.0  # milliseconds, the ends of the logarithmic scale
WIDTH, HEIGHT, LEFT, GAP, TOP = 640, 90, 150, 26, 40
MOST_DOTS = 1500  # a panel
OWN, OTHER, OLD, LOST = "#2f6f4f", "#57708c", "#c9a227", "#c22"
PICTURED = ("direct", "nginx", "haproxy", "slow", "broken", "worker")


def plot(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    parts: list[str] = []
    top = 10
    for key, results in rows.items():
        if key not in PICTURED:
            continue
        parts.append(f'<text x="10" y="{top + 14}" font-weight="bold">{escape(ROWS[key].title)}</text>')
        parts.append(
            f'<text x="10" y="{top + 29}" fill="#666">a dot: a request, at its time of answer (s after the signal), '
            f"as high as it took, 10 ms to 10 s; yellow: old code; a red cross: unanswered</text>"
        )
        top += TOP
        for server, result in results.items():
            if "absent" not in result:
                parts += panel(FLEET[server].title, result, top)
                top += HEIGHT + GAP
    size = f'width="{LEFT + WIDTH + 20}" height="{top}"'
    frame = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    return "\n".join([frame, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


def panel(title: str, result: dict[str, Any], top: int) -> list[str]:
    points = around(result)
    dots = [point for point in points if point[2] == ANSWERED]
    dots = dots[:: max(1, len(dots) // MOST_DOTS)]
    lost = [point for point in points if point[2] != ANSWERED]
    colour = OWN if title.startswith("pyserve") else OTHER
    verdict = f'text-anchor="end" font-weight="bold" fill="{LOST if lost else OWN}"'
    parts = [
        f'<text x="{LEFT - 8}" y="{top + 40}" text-anchor="end">{escape(title)}</text>',
        f'<text x="{LEFT - 8}" y="{top + 56}" {verdict}>{len(lost)} unanswered</text>',
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="#f6f7f9"/>',
        f'<path d="M{across(0):.0f} {top}v{HEIGHT}" stroke="#999"/>',
    ]
    for second in range(-int(BEFORE), int(AFTER) + 1):
        parts.append(f'<text x="{across(second):.0f}" y="{top + HEIGHT + 13}" text-anchor="middle">{second}</text>')
    for old, shade in ((False, colour), (True, OLD)):
        path = "".join(f"M{across(x):.1f} {top + down(y):.1f}h0" for x, y, _, is_old in dots if is_old == old)
        parts.append(f'<path d="{path}" stroke="{shade}" stroke-width="2.5" stroke-linecap="round" opacity=".6"/>')
    crosses = "".join(f"M{across(x) - 4:.1f} {top + down(y) - 4:.1f}l8 8m-8 0l8 -8" for x, y, _, _ in lost)
    parts.append(f'<path d="{crosses}" stroke="{LOST}" stroke-width="1.5" fill="none"/>')
    return parts


def around(result: dict[str, Any]) -> list[tuple[float, float, str, bool]]:
    """(Seconds after the signal, milliseconds, outcome, answered by the code before it) of the requests around each
    window; what comes after the next one has begun belongs to that."""
    found = []
    windows = result["windows"]
    for number, window in enumerate(windows, 1):
        last = windows[number].began - window.began if number < len(windows) else AFTER
        for fate in result["fates"]:
            after = fate.ended - window.began
            if -BEFORE <= after <= min(last, AFTER):
                found.append((after, fate.seconds * 1000, fate.outcome, 0 < fate.version <= number))
    return found


def across(seconds: float) -> float:
    return LEFT + (seconds + BEFORE) / (BEFORE + AFTER) * WIDTH


def down(milliseconds: float) -> float:
    share = math.log(min(max(milliseconds, LEAST), MOST) / LEAST) / math.log(MOST / LEAST)
    return (1 - share) * (HEIGHT - 8) + 4
