"""An app's exception as text for the log."""

from __future__ import annotations

import traceback

OURS = "pyserve_workers"


def describe(error: BaseException) -> str:
    """The traceback as Python prints it, without the server's own frames."""
    report = traceback.TracebackException.from_exception(error)
    strip(report, set())
    return "".join(report.format()).rstrip("\n")


def strip(report: traceback.TracebackException | None, seen: set[int]) -> None:
    if report is None or id(report) in seen:
        return
    seen.add(id(report))
    frames = [frame for frame in report.stack if not is_ours(frame.filename)]
    report.stack = traceback.StackSummary.from_list(frames)
    strip(report.__cause__, seen)
    strip(report.__context__, seen)


def is_ours(filename: str) -> bool:
    return filename.endswith(".pyx") and OURS in filename
