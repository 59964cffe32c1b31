"""The commands of the control socket that close the gate: maintenance, and running a command alone."""

from __future__ import annotations

import json
import time

from pyserve.control.conversation import answer
from pyserve.ipc.channel import MESSAGE_LIMIT
from pyserve.master.exclusion import Notice, Party
from pyserve.rules import gate
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.control.conversation import Conversation
    from pyserve.master.exclusion import Exclusion
    from pyserve.master.master import Master

ACTIONS = ("on", "off", "status")
TICK = 0.05  # seconds between looks at requests that still run
DRAIN_SHOWN = 30.0  # seconds for which ``maintenance on`` waits for them
NOTICE_LIMIT = MESSAGE_LIMIT - 20_000  # bytes: what else PAUSE says, as a reload_check that is allowed, has room, too


class InvalidError(Exception):
    """An argument cannot be right; the text says which."""


def notice_of(hold: float, retry_after: int, page: str, allow: list[str]) -> Notice:
    for path in allow:
        if not path.startswith("/"):
            raise InvalidError("allow is a list of paths, each of which begins with /")
        if not path.isascii() or not path.isprintable() or set(path) & set(" ?#"):
            raise InvalidError(f"allow: {path[:40]} is no path as clients send it, percent-encoded and without query")
    size = len(json.dumps([page, allow]))
    if size > NOTICE_LIMIT:
        raise InvalidError(f"page and allow are {size} bytes of JSON, and {NOTICE_LIMIT} is the limit")
    return Notice(hold, retry_after, page=page, allow=tuple(allow))


# maintenance


def maintenance(
    master: Master, action: str, hold: float, retry_after: int, page: str, allow: list[str]
) -> Conversation:
    exclusion = master.exclusion
    if action not in ACTIONS:
        return answer(False, f"maintenance: {', '.join(ACTIONS)} are the actions")
    if action == "on":
        try:
            notice = notice_of(hold, retry_after, page, allow)
        except InvalidError as error:
            return answer(False, f"maintenance: {error}")
        if master.situation.stopping:
            return answer(False, "the server stops")
        exclusion.maintain(notice)
        until = time.monotonic() + DRAIN_SHOWN
        while exclusion.maintained and time.monotonic() < until and not exclusion.alone:
            yield TICK
    elif action == "off":
        if not exclusion.maintained:
            return answer(True, "maintenance was not on", **told(exclusion))
        exclusion.end_maintenance()
    return answer(action != "on" or exclusion.alone, described(exclusion), **told(exclusion))


def told(exclusion: Exclusion) -> dict[str, Any]:
    """What programs are told of the gate."""
    owner = exclusion.owner
    return {
        "maintenance": exclusion.maintained,
        "gate": exclusion.state.phase,
        "epoch": exclusion.state.epoch,
        "owner": owner.name if owner else None,
        "waiting": len(exclusion.state.waiting),
        "active": exclusion.active,
        "notice": owner.notice._asdict() if owner else None,
    }


def described(exclusion: Exclusion) -> str:
    owner = exclusion.owner
    if owner is None:
        return "maintenance is off; everything is served"
    if not exclusion.maintained:
        return f"maintenance is off; {owner.name} runs alone, or is about to"
    if not exclusion.owned_by_operator:
        return f"maintenance is next; {owner.name} runs alone, or is about to"
    if exclusion.state.phase == gate.HELD and owner.notice.allow:
        return f"maintenance is on; no other request is in the app, but those for {' '.join(owner.notice.allow)}"
    if exclusion.state.phase == gate.HELD:
        return "maintenance is on; no other request is in the app"
    return f"maintenance is on; {count(exclusion.active, 'request', 'is', 'are')} in the app still"


# exclusive


def run_alone(
    master: Master, name: str, hold: float, retry_after: int, drain_timeout: float, wait: bool
) -> Conversation:
    """The client is told ``granted``, with a ticket; the gate is its until it releases that, or hangs up."""
    exclusion = master.exclusion
    if exclusion.maintained:
        simply = "the command can simply be started, without pyservectl exclusive"
        return answer(False, f"{described(exclusion)}{f': {simply}' if exclusion.alone else ''}")
    heard: list[str | None] = []
    ticket = exclusion.ask(
        Party(f"pyservectl exclusive: {name[:80]}", Notice(hold, retry_after), heard.append),
        gate.Ticket(0, waits=wait, drain_timeout=drain_timeout),
    )
    try:
        while not heard:
            yield 1.0
        if heard[0] is not None:
            return answer(False, heard[0])
        yield "granted", {"ticket": ticket}
        while ticket in exclusion.parties:
            yield 1.0
        return answer(True, "")
    finally:
        exclusion.give_back(ticket)


def release(master: Master, ticket: int) -> dict[str, Any]:
    exclusion = master.exclusion
    if ticket not in exclusion.parties or exclusion.parties[ticket].socket is not None:
        return answer(False, f"there is no ticket {ticket}")
    exclusion.give_back(ticket)
    return answer(True, "")
