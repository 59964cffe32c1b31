"""States and what each may become: tables, and the one check of them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Set


def become(what: str, transitions: Mapping[str, Set[str]], before: str, after: str) -> str:
    """The state after; a transition that is not in the table is a bug."""
    if after not in transitions[before]:
        raise AssertionError(f"BUG: {what}: {before} → {after}")
    return after
