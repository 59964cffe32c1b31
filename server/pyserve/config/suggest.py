"""The nearest known name to one that was mistyped."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name most like this one, or an empty text when none is much like it."""
    import difflib

    plain = {_plain(candidate): candidate for candidate in known}
    matches = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.6)
    return plain[matches[0]] if matches else ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: a question, or nothing."""
    match = nearest(name, known)
    return f', did you mean "{match}"?' if match else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
