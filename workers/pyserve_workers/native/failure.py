"""An app's exception as text for the log. It never fails, and runs none of the app's code but the exception's own text.

Python's report would also guess what was meant by a wrong name, for which it asks the objects around and, of an import
that failed, imports the package once more.
"""

from __future__ import annotations

import traceback
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

OURS = "pyserve_workers"
# The names that Python would guess by: as descriptors, which a class of the app's cannot override.
GUESSED_BY = [
    (kind, getattr(kind, name))
    for kind in (AttributeError, NameError, ImportError)
    for name in ("name", "name_from")
    if hasattr(kind, name)
]


def describe(error: BaseException) -> str:
    """The traceback as Python prints it, without the server's own frames."""
    return report(error, error.__traceback__, without_ours=True)


def report(error: BaseException, frames: TracebackType | None, *, without_ours: bool = False) -> str:
    """The traceback as Python prints it, of the error itself from these frames on."""
    try:
        with no_guessing(error):
            found = traceback.TracebackException(type(error), error, frames)
        if without_ours:
            strip(found, set())
        return "".join(found.format()).rstrip("\n")
    except BaseException as failure:  # noqa: BLE001  (what a class of the app's may do instead of giving its text)
        why = f"{type(error).__qualname__}, whose text cannot be had ({type(failure).__qualname__})"
        return "".join(["Traceback (most recent call last):\n", *traceback.format_tb(frames), why])


def rehearse() -> None:
    """Have what telling errors needs imported, which traceback does when it is in the middle of it: by then it may be
    gone from the disk."""
    try:
        assert 1 + int("a rehearsal")
    except ValueError as error:
        describe(error)


@contextmanager
def no_guessing(error: BaseException) -> Iterator[None]:
    taken: list[tuple[Any, BaseException, object]] = []
    for each in chain(error, set()):
        for kind, name in GUESSED_BY:
            if isinstance(each, kind):
                taken.append((name, each, name.__get__(each)))
                name.__set__(each, None)
    try:
        yield
    finally:
        for name, each, value in taken:
            name.__set__(each, value)


def chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """The error and all that its report is about."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    members = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for other in (error.__cause__, error.__context__, *members):
        yield from chain(other, seen)


def strip(found: traceback.TracebackException | None, seen: set[int]) -> None:
    if found is None or id(found) in seen:
        return
    seen.add(id(found))
    frames = [frame for frame in found.stack if not is_ours(frame.filename)]
    found.stack = traceback.StackSummary.from_list(frames)
    strip(found.__cause__, seen)
    strip(found.__context__, seen)


def is_ours(filename: str) -> bool:
    return OURS in filename and filename.endswith((".pyx", "filewrapper.py"))
