"""What is done to a server, and when: a pure function of a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from chaos.deploys import VERSIONS


class Event(NamedTuple):
    at: float  # seconds after the beginning
    name: str  # of a method of Battle, with spaces
    argument: str = ""


class Schedule(NamedTuple):
    events: list[Event]
    finale: str  # how the server is ended; a method of Battle, too

    def __str__(self) -> str:
        lines = [f"{event.at:6.2f} s  {event.name} {event.argument}".rstrip() for event in self.events]
        return "\n".join([*lines, f"   end    {self.finale}"])


Choice = Callable[[random.Random], str]


def nothing(_random: random.Random) -> str:
    return ""


def one(random: random.Random) -> str:
    """Which of several processes."""
    return str(random.randrange(100))


def pause(random: random.Random) -> str:
    """Which of several processes, and for how many seconds."""
    return f"{random.randrange(100)} {random.uniform(0.2, 2.0):.2f}"


def group(random: random.Random) -> str:
    """A signal to all processes, as systemd, supervisord and terminals send it."""
    return f"{random.choice(('SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGWINCH'))} {random.choice(ORDERS)}"


def poison(random: random.Random) -> str:
    """A signal of which a worker dies in a request, and how often the request comes."""
    return f"{random.choice(('SIGSEGV', 'SIGKILL'))} {random.randrange(1, 6)}"


def version(random: random.Random) -> str:
    good, *bad = VERSIONS
    return random.choice([good] * len(bad) + bad)


def point(random: random.Random) -> str:
    return f"{random.choice(POINTS)} {random.choice(('kill', 'stop'))}"


ORDERS = ("youngest-first", "oldest-first", "at-once")  # in which a signal reaches all processes

# States and transitions at which zygotes and workers are killed or stopped; the master is only stopped at its own.
POINTS = [
    "zygote.loading",
    "zygote.loaded",
    "zygote.forking",
    "worker.booting",
    "worker.ready",
    "worker.serving",
    "worker.draining",
    "worker.exited",
]
MASTER_POINTS = [
    "master.StartZygote",
    "master.Spawn",
    "master.Go",
    "master.Drain",
    "master.Rolled",
    "master.StopZygote",
    "master.Committed",
]

UPGRADE_POINTS = [
    ("upgrade.prove", "kill"),
    ("upgrade.prove", "stop"),
    ("upgrade.exec", "raise"),
    ("upgrade.exec", "stop"),
]

EVENTS: dict[str, tuple[int, Choice]] = {  # weight, argument
    "deploy": (8, version),
    "deploy with failpoint": (6, point),
    "stop master at": (2, lambda random: random.choice(MASTER_POINTS)),
    "storm": (2, nothing),  # of HUPs
    "roll back": (2, nothing),
    "upgrade": (3, nothing),  # of pyserve itself, in place
    "upgrade with failpoint": (2, lambda random: " ".join(random.choice(UPGRADE_POINTS))),
    "kill worker": (3, one),
    "term worker": (3, one),
    "pause worker": (3, pause),
    "kill zygote": (2, nothing),
    "pause zygote": (2, pause),
    "pause master": (2, pause),
    "more": (2, nothing),
    "fewer": (2, nothing),
    "reopen logs": (1, nothing),
    "signal all": (3, group),
    "poison": (3, poison),
}
FINALES = [
    "term",
    *(f"term all: {order}" for order in ORDERS),
    *(f"reload and term all: {order}" for order in ORDERS),
    "reload and term",
    "broken deploy and term",
    "kill master",
    "kill master at: master.Go",
    "interrupt",
]


def schedule(seed: int, seconds: float) -> Schedule:
    """Events in a random order at random times, about three in two seconds."""
    dice = random.Random(seed)
    names = list(EVENTS)
    weights = [EVENTS[name][0] for name in names]
    at, events = 0.3, []
    while at < seconds:
        (name,) = dice.choices(names, weights)
        events.append(Event(at, name, EVENTS[name][1](dice)))
        at += dice.uniform(0.05, 1.3)
    return Schedule(events, dice.choice(FINALES))
