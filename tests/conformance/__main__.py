"""Print every case and what became of it: ``make conformance``. Exit code 1 if a Must fails or there is no case file."""

from __future__ import annotations

import sys

from conformance.cases import LEVELS, Result, case_file, load, run
from conformance.expectation import VERDICTS


def table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def summary(results: list[Result]) -> list[tuple[str, ...]]:
    """Cases by level and verdict."""
    rows: list[tuple[str, ...]] = [("level", "cases", *VERDICTS.values())]
    for level in LEVELS:
        verdicts = [result.verdict for result in results if result.case.level == level]
        rows.append((level, str(len(verdicts)), *(str(verdicts.count(verdict)) for verdict in VERDICTS.values())))
    return rows


def main() -> int:
    path = case_file()
    if not path.is_file():
        print(f"conformance: there is no case file {path}; name one: make conformance CASES=FILE", file=sys.stderr)
        return 1
    results = run(load(path))
    lines = [(each.case.id, each.case.level, each.case.words, each.got, each.verdict) for each in results]
    print(table([("id", "level", "expected", "got", "verdict"), *lines]))
    print()
    print(table(summary(results)))
    return int(any(each.case.level == "Must" and each.verdict != "pass" for each in results))


if __name__ == "__main__":
    sys.exit(main())
