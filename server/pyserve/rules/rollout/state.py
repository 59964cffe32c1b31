"""What the rollout knows: its phases, the generations and the workers. Plain records, and questions about them."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyserve.records import NamedTuple

STARTING = "starting"
STABLE = "stable"
PREPARING = "preparing"
CANARY = "canary"
ROLLING = "rolling"
SOAKING = "soaking"
STOPPING = "stopping"

# What each phase may become. Anything else is a bug.
TRANSITIONS = {
    STARTING: {STABLE, STOPPING},
    STABLE: {PREPARING, CANARY, STOPPING},  # CANARY: back to the previous generation, which is loaded
    PREPARING: {CANARY, STABLE, STOPPING},
    CANARY: {ROLLING, STABLE, STOPPING},
    ROLLING: {SOAKING, STABLE, STOPPING},
    SOAKING: {STABLE, STOPPING},
    STOPPING: set(),
}

# Of a worker.
BOOTING = "booting"
WAITING = "waiting"  # ready, and will be checked as soon as nobody runs alone
CHECKING = "checking"  # has to answer a check request before it may serve
SERVING = "serving"
DRAINING = "draining"

# Of a zygote.
LOADING = "loading"
READY = "ready"
FAILED = "failed"  # it died, or could not be started again; another is started at its generation's retry_at


class Plan(NamedTuple):
    """How many workers a generation has and how it takes over, from its configuration."""

    target: int = 1
    max_surge: str = "1"  # workers above the target while they are replaced: a number, or a percentage of the target
    max_unavailable: str = "0"  # serving ones that may be missing from the target for the sake of it; the same
    check: bool = False  # does its first worker have to answer a check request?
    soak: float = 5.0  # seconds for which it is watched before it is committed
    keep: float = 300.0  # seconds for which the generation before it stays loaded


class Worker(NamedTuple):
    id: int
    number: int  # 0 … target - 1, as in its title; a replacement takes over the number
    generation: int
    state: str = BOOTING
    worn: str = ""  # the limit that it has reached: a fresh one is to take its place
    took: float = 0.0  # seconds, to boot


class Generation(NamedTuple):
    """One load of the app's code, as long as its zygote is wanted."""

    number: int
    plan: Plan
    zygote: str = LOADING
    boot_failures: tuple[float, ...] = ()  # when something of it ended before it was of use, in the last crash_window
    retry_at: float = 0.0  # nothing of it is started again before


class State(NamedTuple):
    """All there is to know. Times are monotonic seconds."""

    plan: Plan = Plan()  # the one in force: the serving generation's, from ROLLING on the next one's
    phase: str = STARTING
    good: int = 0  # the committed generation; 0: none yet
    next: int = 0  # the one that is being rolled out, newer than good; older: it is on its way back. 0: none
    previous: int = 0  # the one before good, kept loaded until previous_until; 0: none is
    last: int = 0  # the highest number given to a generation
    generations: tuple[Generation, ...] = ()
    workers: tuple[Worker, ...] = ()
    queued: Plan | None = None  # of a reload that was asked for while one is under way
    failures: int = 0  # crashes of the next generation since its ROLLING began
    soak_until: float = 0.0  # 0: SOAKING has not begun, or begins anew
    previous_until: float = 0.0
    crashes: tuple[float, ...] = ()  # when workers crashed, in the last crash_window seconds
    crash_window: float = 60.0
    max_crashes: int = 5
    degraded: bool = False
    debt: float = 0.0  # seconds that boots for workers that crashed have taken, less what they may since; at debt_at
    debt_at: float = 0.0
    debt_share: float = 0.5  # seconds that they may take in each second, on average
    repair_at: float = 0.0  # such workers are not replaced before
    chance: float = 0.0  # from 0 to 1, another one with each event: the only thing here that is left to it
    last_id: int = 0  # of workers
    gated: bool = False  # a request is alone in the app, or about to be: see reconcile.WHILE_GATED
    now: float = 0.0  # the latest time that an event has told


def share(text: str, whole: int, *, up: bool) -> int:
    """``"3"`` → 3; ``"25%"`` of a whole, rounded ``up`` or down."""
    number = text.removesuffix("%")
    if number == text:
        return int(number)
    hundredths = int(number) * whole
    return -(-hundredths // 100) if up else hundredths // 100


def surge(plan: Plan) -> int:
    """Workers above the target that there may be."""
    return share(plan.max_surge, plan.target, up=True)


def unavailable(plan: Plan) -> int:
    """Serving workers that may be missing. One, at least, if there may be none above the target: else nothing moved."""
    few = min(plan.target, share(plan.max_unavailable, plan.target, up=False))
    return few if surge(plan) else max(1, few)


def fewest(state: State) -> int:
    """A worker that serves is told to leave only if at least so many go on serving."""
    return state.plan.target - unavailable(state.plan)


def goal(state: State) -> int:
    """The generation of which there should be ``target`` workers."""
    return state.next if state.phase in (STARTING, ROLLING, SOAKING) else state.good


def going_back(state: State) -> bool:
    """Is the next generation an older one, that somebody wants back?"""
    return 0 < state.next < state.good


def way_back(state: State) -> int:
    """The generation that a roll-back now leads to; 0: there is none."""
    if state.phase in (STARTING, STOPPING):
        return 0
    if going_back(state):
        return state.next
    return state.good if state.next else state.previous


def due(state: State) -> float:
    """When a Tick will next change something; infinity if nothing waits for time."""
    times = [state.repair_at, state.soak_until, state.previous_until if state.previous else 0.0]
    times += [generation.retry_at for generation in state.generations]
    return min((time for time in times if time > state.now), default=float("inf"))


def retry_at(state: State) -> float:
    """Before that, nothing that is missing of the generation that serves is started again."""
    number = goal(state)
    return max([state.repair_at, *(each.retry_at for each in state.generations if each.number == number)])


def living(state: State) -> list[Worker]:
    return [worker for worker in state.workers if worker.state != DRAINING]


def outgoing(state: State) -> Worker | None:
    """The worn worker whose place a fresh one takes now: one at a time, and none while a reload wants the same room."""
    if state.phase in (CANARY, ROLLING):
        return None
    worn = (w for w in state.workers if w.worn and w.state == SERVING and w.generation == goal(state))
    return next(worn, None)


def wanted(state: State) -> list[Worker]:
    """Those of the workers that count for the target."""
    out = outgoing(state)
    return [worker for worker in living(state) if worker.generation == goal(state) and worker != out]


def serving(state: State) -> int:
    return sum(worker.state == SERVING for worker in state.workers)


def settled(state: State) -> bool:
    """Are exactly the workers there that there should be, and do they serve?"""
    there = living(state)
    return len(there) == state.plan.target and all(
        worker.state == SERVING and worker.generation == goal(state) for worker in there
    )


def zygote(state: State, number: int) -> str | None:
    """The state of a generation's zygote; None if the generation is not known (any more)."""
    return next((generation.zygote for generation in state.generations if generation.number == number), None)


def plan_of(state: State, number: int) -> Plan:
    return next(generation.plan for generation in state.generations if generation.number == number)


def find(state: State, worker_id: int) -> Worker | None:
    return next((worker for worker in state.workers if worker.id == worker_id), None)


def with_worker(state: State, worker: Worker) -> State:
    return state._replace(workers=tuple(worker if w.id == worker.id else w for w in state.workers))


def with_zygote(state: State, number: int, what: str) -> State:
    return state._replace(
        generations=tuple(g._replace(zygote=what) if g.number == number else g for g in state.generations)
    )


def with_boot_failures(state: State, number: int, times: tuple[float, ...], retry_at: float) -> State:
    return state._replace(
        generations=tuple(
            g._replace(boot_failures=times, retry_at=retry_at) if g.number == number else g for g in state.generations
        )
    )


def without_generation(state: State, number: int) -> State:
    return state._replace(generations=tuple(g for g in state.generations if g.number != number))


def takers(state: State) -> set[int]:
    """The ids of the workers that take connections over.

    Once the first worker of a new generation serves, the others do not take any more: else a connection would go from
    one to the next and be handed over again. When a reload is rolled back it is the other way round.
    """
    serving = [worker for worker in state.workers if worker.state == SERVING]
    if state.gated:  # nothing goes on until a request that is alone has ended, and all may say so for it
        return {worker.id for worker in serving}
    wanted = {worker.id for worker in serving if worker.generation == goal(state)}
    return wanted or {worker.id for worker in serving}
