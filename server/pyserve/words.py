"""Words of messages."""

from __future__ import annotations


def count(number: int, noun: str, one: str = "", many: str = "") -> str:
    """``"1 worker"``, ``"4 workers"``; with a verb, ``"1 request was"``, ``"4 requests were"``."""
    words = (noun, one) if number == 1 else (f"{noun}s", many)
    return " ".join((str(number), *filter(None, words)))
