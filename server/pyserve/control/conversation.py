"""What a command of the control socket is.

A command is a function of the master and its arguments. It returns the fields of the last line: ``ok``, ``text``, and
more. One that takes longer is a conversation, a generator that the control lets go on in each turn of the master's
loop. It yields a pair (event, fields) to say something, or seconds to wait: it goes on in the next turn, at the latest
after so long. When its client has gone it is closed: what must be undone then belongs into a ``finally``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Any, NamedTuple

    Conversation = Generator[tuple[str, dict[str, Any]] | float, None, dict[str, Any]]
else:
    from pyserve.records import NamedTuple


VERSION = 1  # of the protocol


class Command(NamedTuple):
    run: Callable[..., Conversation | dict[str, Any]]
    arguments: dict[str, Any]  # name → default; what is given has the same type
    overhears: bool = False  # is what the master logs meanwhile a part of the answer?


def answer(ok: bool, text: str, **more: Any) -> dict[str, Any]:
    return {"ok": ok, "text": text, **more}
