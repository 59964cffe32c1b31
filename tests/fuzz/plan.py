"""One connection: what its client does, step by step, and what may come of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

# What a client does. The words that follow are numbers or bytes.
SEND = "send"  # DATA
PAUSE = "pause"  # SECONDS
ANSWERS = "answers"  # N: until there are so many, 100 Continue not counted
CONTINUE = "continue"  # N: until there are so many of that, or an answer instead
DEAF = "deaf"  # it does not read any more
LISTEN = "listen"  # it reads again
SHUT = "shut"  # half-closes: it has said all
RESET = "reset"  # it goes away, whatever is under way

Step = tuple[str, Any]

# What a connection comes to behind the last request.
OPEN = "open"  # both sides may go on
CLOSES = "closes"  # the last answer was the last
REFUSED = "refused"  # an error and a close
CUT = "cut"  # the client has said no more in the middle of a request; whether that gets an answer does not matter
ANY = "any"  # nobody knows: nothing, a refusal, or a part of a request


class Ask(NamedTuple):
    """A request as the app must see it."""

    method: str
    target: str
    version: str
    token: str  # empty: not known
    body: bytes
    kind: str  # how the app answers; empty: not known
    size: int  # of what it answers with
    closes: bool  # the client, the app or the framing of the answer ends the connection
    expects: bool  # 100 Continue


@dataclass
class Plan:
    seed: int
    name: str  # what is special about it
    steps: list[Step]
    asks: list[Ask]  # what may run, in this order
    certain: int  # how many of them must
    end: str
    statuses: tuple[int, ...] = ()  # of the refusal
    refusal_expects: bool = False  # the request that is refused may have got 100 Continue
    aborts: bool = False
    rude: bool = False  # the client sends more behind a request of which it has said that it is its last
    window: int = 0  # bytes that the client's kernel takes; 0: as usual

    def sent(self) -> bytes:
        return b"".join(argument for word, argument in self.steps if word == SEND)

    def dump(self) -> str:
        return json.dumps(vars(self), indent=1, default=lambda data: data.decode("latin-1"))


def load(text: str) -> Plan:
    given = json.loads(text)
    given["steps"] = [(word, said.encode("latin-1") if word == SEND else said) for word, said in given["steps"]]
    given["asks"] = [Ask(*ask)._replace(body=ask[4].encode("latin-1")) for ask in given["asks"]]
    given["statuses"] = tuple(given["statuses"])
    return Plan(**given)


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
