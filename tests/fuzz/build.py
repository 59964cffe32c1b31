"""A plan for each seed: a few sound requests, what comes behind them, and the pace at which the client sends it all."""

from __future__ import annotations

from typing import NamedTuple

from fuzz import plan as steps
from fuzz.faults import FAULTS
from fuzz.grammar import ENDING, KINDS, Maker, Request, understood
from fuzz.model import Reading, read
from fuzz.plan import ANY, CLOSES, CUT, OPEN, REFUSED, Ask, Plan, Step

SHAPES = {"sound": 30, "refused": 30, "cut": 8, "late": 0.2, "abort": 6, "mutated": 25}
PACES = {"at once": 45, "pieces": 30, "by turns": 20, "byte by byte": 5}
# Without those that end the connection: it is not known which request a mutation makes of another.
KEEPING = {kind: weight for kind, weight in KINDS.items() if kind not in ENDING}
MOST_BY_BYTES = 1500
SPICE = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"%", b"\x80", b"\r\n\r\n", b"0\r\n\r\n", b"GET / HTTP/1.1\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Host: y\r\n",
    b"Expect: 100-continue\r\n", b"HTTP/1.0", b"HEAD", b"5\r\nhello\r\n", b"\r\n ", b"x: y\r\n", b"chunked", b"7fffffffffffffff",
]  # fmt: skip


class Part(NamedTuple):
    data: bytes
    before: tuple[Step, ...] = ()  # what the client waits for


def make(seed: int) -> Plan:
    builder = Builder(seed)
    shape = builder.random.choices(list(SHAPES), list(SHAPES.values()))[0]
    plan: Plan = getattr(builder, shape)()
    return plan


class Builder(Maker):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.pace = self.random.choices(list(PACES), list(PACES.values()))[0]
        self.asks: list[Ask] = []
        self.last = False  # the client has said that it has no more
        self.parts: list[Part] = []

    # Shapes

    def sound(self) -> Plan:
        """Everything is answered, up to the first answer that ends the connection."""
        self.add_requests(self.random.choice([1, 1, 2, 3, 5, 12]))
        if self.ended():
            return self.plan_behind_the_last()
        if self.chance(10):
            self.parts.append(Part(b"\r\n"))  # old clients end a body so
        if self.chance(30):
            return self.plan("sound, then half-closed", OPEN, last=[(steps.SHUT, None)])
        return self.plan("sound", OPEN)

    def refused(self) -> Plan:
        self.add_requests(self.random.choice([0, 0, 1, 2, 4]))
        if self.ended():
            return self.plan_behind_the_last()
        name = self.random.choice(list(FAULTS))
        fault = FAULTS[name]
        self.add(fault.make(self), self.waits_for_turn())
        self.add_behind()
        last = [(steps.SHUT, None)] if self.chance(20) else []
        plan = self.plan(f"refused: {name}", REFUSED, last=last)
        plan.statuses, plan.refusal_expects = fault.statuses, fault.expects
        return plan

    def plan_behind_the_last(self) -> Plan:
        """The answer says close, or the client has said so itself."""
        before = len(self.parts)
        self.add_behind()
        plan = self.plan("sound", CLOSES)
        plan.rude = self.last and len(self.parts) > before
        return plan

    def cut(self) -> Plan:
        """The client half-closes in the middle of a request."""
        self.add_requests(self.random.choice([0, 0, 1, 3]))
        if self.ended():
            return self.plan("sound", CLOSES)
        data = self.request().data
        self.add(data[: self.random.randrange(1, len(data))], self.waits_for_turn())
        plan = self.plan("cut", CUT, last=[(steps.PAUSE, 0.01)] * self.chance(50) + [(steps.SHUT, None)])
        plan.refusal_expects = True
        return plan

    def late(self) -> Plan:
        """The client says no more in the middle of a request, is given up, and then goes on."""
        self.add_requests(self.random.choice([0, 1, 3]))
        if self.ended():
            return self.plan("sound", CLOSES)
        data = self.request().data.removeprefix(b"\r\n")
        self.add(data[: self.random.randrange(1, len(data))], self.waits_for_turn())
        behind = Part(self.row(self.random.choice([1000, 200_000])), ((steps.ANSWERS, len(self.asks) + 1),))
        self.parts.append(behind)
        plan = self.plan("late", REFUSED)
        plan.statuses, plan.refusal_expects = (408,), True
        return plan

    def abort(self) -> Plan:
        """The client goes away at any moment."""
        plan = self.refused() if self.chance(30) else self.sound()
        plan.steps = plan.steps[: self.random.randrange(1, len(plan.steps) + 1)]
        plan.steps += [(steps.PAUSE, self.random.choice([0, 0.001, 0.02])), (steps.RESET, None)]
        plan.name, plan.aborts, plan.certain = f"abort of {plan.name}", True, 0
        return plan

    def mutated(self) -> Plan:
        """What a strict reader sees in it may run, and nothing else; what came before the first change must."""
        requests = [self.request(kinds=KEEPING, most=40_000) for _ in range(self.random.choice([1, 1, 2, 3]))]
        if self.chance(50):
            requests[-1:] = [self.smuggler()]
        data, first = self.mutate(b"".join(request.data for request in requests))
        reading = read(data)
        self.asks = [ask_of(reading, number) for number in range(len(reading.requests))]
        self.add(data)
        plan = self.plan("mutated", ANY, last=[(steps.PAUSE, 0.01)] * self.chance(30) + [(steps.SHUT, None)])
        plan.certain = certain(requests, first)
        plan.rude = reading.end == "closed"
        plan.refusal_expects = True
        return plan

    def smuggler(self) -> Request:
        """A body of requests: what is wrong with its framing makes them requests of the connection."""
        request = self.request(kinds=KEEPING, most=1000)
        row = self.row(1000)[:1000]
        token = request.ask.token.encode()
        head = b"POST /echo/%b HTTP/1.1\r\nHost: x\r\nX-Token: %b\r\n" % (token, token)
        if self.chance(50):
            framed = b"Content-Length: %d\r\n\r\n" % len(row), row
        else:
            framed = b"Transfer-Encoding: chunked\r\n\r\n", self.chunks(row)
        ask = request.ask._replace(method="POST", version="HTTP/1.1", closes=False)
        return Request(ask, head + framed[0], framed[1], last=False)

    def mutate(self, data: bytes) -> tuple[bytes, int]:
        """A few changes, and where the first of them is."""
        first = len(data)
        for _ in range(self.random.choice([1, 1, 2, 4])):
            at = self.random.randrange(len(data))
            end = min(len(data), at + self.random.choice([0, 1, 1, 2, 10, 50]))
            spice = self.random.choice([*SPICE, b"", self.random.randbytes(1), data[at:end] * 2])
            data = data[:at] + spice + data[end:]
            first = min(first, at)
        return data, first

    # Parts

    def ended(self) -> bool:
        return bool(self.asks) and self.asks[-1].closes

    def waits_for_turn(self) -> tuple[Step, ...]:
        return ((steps.ANSWERS, len(self.asks)),) if self.pace == "by turns" else ()

    def add(self, data: bytes, before: tuple[Step, ...] = ()) -> None:
        self.parts.append(Part(data, before))

    def add_requests(self, count: int) -> None:
        for _ in range(count):
            request = self.request()
            before = self.waits_for_turn()
            number = len(self.asks)
            self.asks.append(request.ask)
            self.last = request.last
            if request.ask.expects and self.chance(60):
                self.add(request.head, before)
                self.add(request.body, ((steps.CONTINUE, number),))
            else:
                self.add(request.data, before)
            if self.ended():
                return

    def add_behind(self) -> None:
        """What must not be understood any more."""
        size = self.random.choices([0, 300, 3000, 30_000, 200_000, 512_000], [10, 25, 25, 10, 10, 20])[0]
        if size:
            before = ((steps.ANSWERS, len(self.asks)),) if self.pace == "by turns" and self.chance(30) else ()
            self.add(self.noise(size) if self.chance(20) else self.row(size), before)

    # Paces

    def plan(self, name: str, end: str, last: list[Step] | None = None) -> Plan:
        said: list[Step] = []
        for part in self.parts:
            said += [*part.before, *self.paced(part.data)]
        said = self.joined(said)
        deaf = self.chance(10) and all(word in (steps.SEND, steps.PAUSE) for word, _ in said)
        if deaf:
            said = [(steps.DEAF, None), *said, (steps.PAUSE, 0.02), (steps.LISTEN, None)]
        window = 4096 if self.chance(10) else 0
        return Plan(self.seed, name, said + (last or []), self.asks, len(self.asks), end, window=window)

    def paced(self, data: bytes) -> list[Step]:
        if self.pace == "byte by byte" and len(data) < MOST_BY_BYTES:
            return [(steps.SEND, data[at : at + 1]) for at in range(len(data))]
        if self.pace != "pieces":
            return [(steps.SEND, data)]
        cuts = sorted(self.random.randrange(len(data) + 1) for _ in range(self.random.randrange(1, 5)))
        found: list[Step] = []
        for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            if start < end:
                found += [(steps.SEND, data[start:end]), (steps.PAUSE, self.random.choice([0, 0, 0.001, 0.003]))]
        return found

    def joined(self, said: list[Step]) -> list[Step]:
        """What is sent without a wait between goes out at once."""
        if self.pace in ("pieces", "byte by byte"):
            return said
        found: list[Step] = []
        for step in said:
            if found and step[0] == found[-1][0] == steps.SEND:
                found[-1] = (steps.SEND, found[-1][1] + step[1])
            else:
                found.append(step)
        return found


def ask_of(reading: Reading, number: int) -> Ask:
    seen = reading.requests[number]
    tokens = seen.values(b"x-token")
    token = tokens[0].decode("latin-1") if len(tokens) == 1 else ""
    method, target, version = (text.decode("latin-1") for text in (seen.method, seen.target, seen.version))
    return Ask(method, target, understood(version), token, seen.body, "", 0, closes=seen.closes, expects=seen.expects)


def certain(requests: list[Request], first: int) -> int:
    """How many of them end before the first change, and behind none that ends the connection."""
    count = end = 0
    for request in requests:
        end += len(request.data)
        if end > first:
            break
        count += 1
        if request.ask.closes:
            break
    return count
