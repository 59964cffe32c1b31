"""The cases of a public file (docs/conformance.md says which), run against a pyserve of their own."""

from __future__ import annotations

import base64
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from conformance.exchange import Outcome, exchange
from conformance.expectation import Verdict, read, words_of
from support.server import serve

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCUMENT = ROOT / "docs" / "conformance.md"
LEVELS = ("Must", "Should", "OughtTo", "May", "NotApplicable")
AT_ONCE = 16  # connections; what takes time is waiting for the server's timeouts


class Case(NamedTuple):
    id: str
    level: str
    words: str  # the expected outcome; expectation.py reads them
    steps: tuple[bytes, ...]


class Result(NamedTuple):
    case: Case
    got: str  # statuses, and whether the connection stayed open
    verdict: Verdict


def case_file() -> Path:
    """Where the file is, or would be: CASES, or beside the repository."""
    return Path(os.environ.get("CASES") or ROOT.parent / "shared" / "conformance" / "http11probe.json")


def load(path: Path) -> list[Case]:
    """ValueError for a case whose level or expected outcome is not understood."""
    cases = [
        Case(
            each["id"],
            each["level"],
            words_of(each["status"], each["close_ok"], each["expect"]),
            tuple(base64.b64decode(step) for step in each["send"]),
        )
        for each in json.loads(path.read_text())
    ]
    for case in cases:
        if case.level not in LEVELS:
            raise ValueError(f"{case.id}: no such level: {case.level}")
    return cases


def judge(case: Case, outcome: Outcome) -> Result:
    return Result(case, str(outcome), read(case.words)(outcome))


def attempt(case: Case, address: tuple[str, int]) -> Result:
    """What is no sequence of whole responses, or none within the client's patience, fails the case and not the run."""
    try:
        return judge(case, exchange(address, case.steps))
    except (AssertionError, OSError) as error:
        return Result(case, f"{type(error).__name__}: {error}".partition("\n")[0], "fail")


def run(cases: list[Case]) -> list[Result]:
    """Every case over a connection of its own."""
    # Short timeouts: they answer the cases that leave a request unfinished.
    options = ("--workers", "1", "--header-timeout", "3", "--body-timeout", "3")
    with serve("target:app", *options, cwd=HERE) as server, ThreadPoolExecutor(AT_ONCE) as pool:
        address = ("127.0.0.1", server.port)
        return list(pool.map(lambda case: attempt(case, address), cases))


def deviations() -> dict[str, str]:
    """The cases that docs/conformance.md lists under "Deviations", with the reason."""
    section = DOCUMENT.read_text().partition("\n## Deviations\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \|.*\| ([^|]+) \|$", section, re.MULTILINE))
