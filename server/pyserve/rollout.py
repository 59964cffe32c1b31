"""The rollout: which workers of which generation there should be, as a pure function (state, event) → (state, actions).

It knows no process, socket or clock; the master tells it what happened and does what it answers. A *generation* is one
load of the app's code. In the order of a reload:

    STARTING   the first generation loads and boots; its failure ends the server
    STABLE     one committed generation serves
    PREPARING  the next generation's zygote imports the app; nothing old is touched
    CANARY     its first worker boots; nothing old is touched
    ROLLING    workers are replaced one at a time, each new one serving before an old one drains
    STOPPING   everything drains; nothing is started any more

A failure in PREPARING or CANARY aborts. In ROLLING, FAILURES_TO_ROLL_BACK of them turn the roll round: the previous
generation's zygote is still there, and the new workers are replaced as the old ones were. The number of workers that
the next generation's configuration wants holds from its ROLLING on.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NamedTuple
else:
    from pyserve.records import NamedTuple

STARTING = "starting"
STABLE = "stable"
PREPARING = "preparing"
CANARY = "canary"
ROLLING = "rolling"
STOPPING = "stopping"

# What each phase may become. Anything else is a bug.
TRANSITIONS = {
    STARTING: {STABLE, STOPPING},
    STABLE: {PREPARING, STOPPING},
    PREPARING: {CANARY, STABLE, STOPPING},
    CANARY: {ROLLING, STABLE, STOPPING},
    ROLLING: {STABLE, STOPPING},
    STOPPING: set(),
}

BOOTING = "booting"
SERVING = "serving"
DRAINING = "draining"

LOADING = "loading"
READY = "ready"
FAILED = "failed"  # a zygote that died, or could not be started again; another is started at retry_at

MAX_SURGE = 1  # workers above the target while rolling
FAILURES_TO_ROLL_BACK = 2
BACKOFF_FIRST = 0.5  # seconds; the first crash in a quiet time is repaired at once
BACKOFF_FACTOR = 1.5
BACKOFF_LIMIT = 15.0


class Worker(NamedTuple):
    id: int
    number: int  # 0 … target - 1, as in its title; a replacement takes over the number
    generation: int
    state: str = BOOTING


class State(NamedTuple):
    phase: str = STARTING
    target: int = 1  # how many workers there should be
    good: int = 0  # the committed generation; 0: none yet
    next: int = 0  # the one that is being rolled out; 0: none
    last: int = 0  # the highest number given to a generation
    workers: tuple[Worker, ...] = ()
    zygotes: tuple[tuple[int, str], ...] = ()  # (generation, LOADING | READY | FAILED)
    next_target: int = 0  # what target becomes when the next generation rolls
    good_target: int = 0  # what target was before, for a roll back
    reload_again: int = 0  # the target of a reload that was asked for while one is under way; 0: none was
    failures: int = 0  # of the next generation while it rolls
    crashes: tuple[float, ...] = ()  # when workers crashed, in the last crash_window seconds
    crash_window: float = 60.0
    max_crashes: int = 5
    degraded: bool = False
    retry_at: float = 0.0  # nothing crashed is started again before
    last_id: int = 0


# Events. ``now`` is monotonic seconds wherever it matters.


class Start(NamedTuple):
    """Begin with the first generation."""


class Reload(NamedTuple):
    """SIGHUP, with a configuration that was found valid; ``target`` is its number of workers."""

    target: int


class Loaded(NamedTuple):
    """A generation's zygote has imported the app."""

    generation: int


class LoadFailed(NamedTuple):
    """A generation's zygote cannot load the app, hangs in it, or has died while loading it."""

    generation: int
    reason: str
    now: float


class ZygoteGone(NamedTuple):
    """A zygote that had loaded is dead."""

    generation: int
    now: float


class WorkerReady(NamedTuple):
    id: int


class WorkerLeaving(NamedTuple):
    """A worker stops accepting by itself: somebody sent it a TERM."""

    id: int


class WorkerGone(NamedTuple):
    """A worker's process has ended. ``reason`` is how; it matters only if nobody asked it to."""

    id: int
    reason: str
    now: float


class Scale(NamedTuple):
    by: int


class Stop(NamedTuple):
    """Drain everything."""


class Tick(NamedTuple):
    now: float


Event = (
    Start | Reload | Loaded | LoadFailed | ZygoteGone | WorkerReady | WorkerLeaving | WorkerGone | Scale | Stop | Tick
)  # fmt: skip


# Actions.


class StartZygote(NamedTuple):
    generation: int


class StopZygote(NamedTuple):
    generation: int


class Spawn(NamedTuple):
    worker: Worker


class Go(NamedTuple):
    id: int


class Drain(NamedTuple):
    id: int
    cause: str


class Committed(NamedTuple):
    """Every worker is of this generation now."""

    generation: int
    first: bool


class Aborted(NamedTuple):
    """The generation is given up; ``rolled_back`` says that some of its workers had served already."""

    generation: int
    good: int
    reason: str
    rolled_back: bool


class Coalesced(NamedTuple):
    """The reload that was asked for follows when the one under way has ended."""


class Degraded(NamedTuple):
    crashes: int
    retry_in: float


class Recovered(NamedTuple):
    pass


class GiveUp(NamedTuple):
    """The first generation failed: the server ends."""

    reason: str


Action = (
    StartZygote | StopZygote | Spawn | Go | Drain | Committed | Aborted | Coalesced | Degraded | Recovered | GiveUp
)  # fmt: skip


def step(state: State, event: Event) -> tuple[State, list[Action]]:
    """What the state becomes, and what to do, in order."""
    before = state.phase
    state, actions = _HANDLERS[type(event)](state, event)
    now = getattr(event, "now", 0.0)
    while True:
        after, more = _reconcile(state, now)
        actions += more
        if after == state:
            break
        state = after
    if state.phase != before and not _reachable(before, state.phase):
        raise AssertionError(f"BUG: {before} → {state.phase} on {event}")
    return state, actions


def _reachable(before: str, after: str) -> bool:
    """By one transition or several: one event can end a reload and begin the one that waited."""
    seen, frontier = {before}, {before}
    while frontier:
        frontier = {phase for source in frontier for phase in TRANSITIONS[source]} - seen
        seen |= frontier
    return after in seen


# Handlers: what an event says about the world. What follows from it is _reconcile's business.


def _start(state: State, event: Start) -> tuple[State, list[Action]]:
    return _prepare(state, STARTING, state.target)


def _prepare(state: State, phase: str, target: int) -> tuple[State, list[Action]]:
    generation = state.last + 1
    zygotes = (*state.zygotes, (generation, LOADING))
    state = state._replace(phase=phase, last=generation, next=generation, zygotes=zygotes, failures=0)
    return state._replace(next_target=target, reload_again=0), [StartZygote(generation)]


def _reload(state: State, event: Reload) -> tuple[State, list[Action]]:
    if state.phase == STOPPING:
        return state, []
    if state.phase != STABLE:
        return state._replace(reload_again=event.target), [Coalesced()]
    return _prepare(state, PREPARING, event.target)


def _loaded(state: State, event: Loaded) -> tuple[State, list[Action]]:
    if dict(state.zygotes).get(event.generation) != LOADING:
        return state, []
    state = _with_zygote(state, event.generation, READY)
    if state.phase == PREPARING and event.generation == state.next:
        state = state._replace(phase=CANARY)
    return state, []


def _load_failed(state: State, event: LoadFailed) -> tuple[State, list[Action]]:
    if dict(state.zygotes).get(event.generation) != LOADING:
        return state, []
    if state.phase == STARTING:
        return _give_up(state, event.reason)
    if event.generation == state.next:
        return _abort(state, event.reason)
    return _back_off(_with_zygote(state, event.generation, FAILED), event.now)


def _zygote_gone(state: State, event: ZygoteGone) -> tuple[State, list[Action]]:
    if dict(state.zygotes).get(event.generation) != READY:
        return state, []
    reason = "its zygote died"
    if state.phase == STARTING:
        return _give_up(state, reason)
    return _crashed(_with_zygote(state, event.generation, FAILED), event.generation, reason, event.now)


def _worker_ready(state: State, event: WorkerReady) -> tuple[State, list[Action]]:
    worker = _find(state, event.id)
    if worker is None or worker.state != BOOTING:
        return state, []
    state = _with_worker(state, worker._replace(state=SERVING))
    if state.phase == CANARY and worker.generation == state.next:
        state = state._replace(phase=ROLLING, target=state.next_target, good_target=state.target)
    return state, [Go(worker.id)]


def _worker_leaving(state: State, event: WorkerLeaving) -> tuple[State, list[Action]]:
    worker = _find(state, event.id)
    if worker is None:
        return state, []
    return _with_worker(state, worker._replace(state=DRAINING)), []


def _worker_gone(state: State, event: WorkerGone) -> tuple[State, list[Action]]:
    worker = _find(state, event.id)
    if worker is None:
        return state, []
    state = state._replace(workers=tuple(w for w in state.workers if w.id != event.id))
    if worker.state == DRAINING or state.phase == STOPPING:
        return state, []
    if state.phase == STARTING and worker.state == BOOTING:
        return _give_up(state, event.reason)
    return _crashed(state, worker.generation, event.reason, event.now)


def _scale(state: State, event: Scale) -> tuple[State, list[Action]]:
    target, next_target, good_target = (
        max(1, number + event.by) for number in (state.target, state.next_target, state.good_target)
    )
    return state._replace(target=target, next_target=next_target, good_target=good_target), []


def _stop(state: State, event: Stop) -> tuple[State, list[Action]]:
    actions: list[Action] = [Drain(w.id, "SIGTERM") for w in state.workers if w.state != DRAINING]
    actions += [StopZygote(generation) for generation, _ in state.zygotes]
    workers = tuple(w._replace(state=DRAINING) for w in state.workers)
    return state._replace(phase=STOPPING, workers=workers, zygotes=(), reload_again=0), actions


def _tick(state: State, event: Tick) -> tuple[State, list[Action]]:
    if state.phase == STOPPING:
        return state, []
    crashes = tuple(time for time in state.crashes if event.now - time < state.crash_window)
    state = state._replace(crashes=crashes)
    if state.degraded and not crashes:
        return state._replace(degraded=False), [Recovered()]
    return state, []


_HANDLERS: dict[type, Callable[[State, Any], tuple[State, list[Action]]]] = {
    Start: _start,
    Reload: _reload,
    Loaded: _loaded,
    LoadFailed: _load_failed,
    ZygoteGone: _zygote_gone,
    WorkerReady: _worker_ready,
    WorkerLeaving: _worker_leaving,
    WorkerGone: _worker_gone,
    Scale: _scale,
    Stop: _stop,
    Tick: _tick,
}


# Failure.


def _give_up(state: State, reason: str) -> tuple[State, list[Action]]:
    stopped, actions = _stop(state, Stop())
    return stopped, [GiveUp(reason), *actions]


def _abort(state: State, reason: str) -> tuple[State, list[Action]]:
    """Give the next generation up; its workers that serve already are replaced by _reconcile, as foreign ones."""
    generation = state.next
    rolled_back = state.phase == ROLLING
    target = state.good_target if rolled_back else state.target
    actions: list[Action] = [Aborted(generation, state.good, reason, rolled_back), StopZygote(generation)]
    return _without_zygote(state, generation)._replace(phase=STABLE, next=0, target=target), actions


def _crashed(state: State, generation: int, reason: str, now: float) -> tuple[State, list[Action]]:
    """A worker, or a zygote that had loaded, ended unasked. The next generation may do that once, in its roll."""
    if generation == state.next and state.phase != STARTING:
        state = state._replace(failures=state.failures + 1)
        if state.phase != ROLLING or state.failures >= FAILURES_TO_ROLL_BACK:
            return _abort(state, reason)
    return _back_off(state, now)


def backoff(crashes: int) -> float:
    """Seconds to wait after that many crashes in a short time. The shell may add jitter."""
    if crashes <= 1:
        return 0.0
    delay: float = BACKOFF_FIRST * BACKOFF_FACTOR ** min(crashes - 2, 20)
    return min(BACKOFF_LIMIT, delay)


def _back_off(state: State, now: float) -> tuple[State, list[Action]]:
    crashes = (*(time for time in state.crashes if now - time < state.crash_window), now)
    delay = backoff(len(crashes))
    state = state._replace(crashes=crashes, retry_at=now + delay)
    if len(crashes) >= state.max_crashes:
        return state._replace(degraded=True), [Degraded(len(crashes), delay)]
    return state, []


# Reconciliation: from what there is to what there should be, one step at a time until nothing changes.


def _reconcile(state: State, now: float) -> tuple[State, list[Action]]:
    if state.phase == STOPPING:
        return state, []
    for rule in (_retry_zygotes, _spawn_canary, _spawn, _retire, _commit, _reload_again):
        after, actions = rule(state, now)
        if actions or after != state:
            return after, actions
    return state, []


def goal(state: State) -> int:
    """The generation of which there should be ``target`` workers."""
    return state.next if state.phase in (STARTING, ROLLING) else state.good


def _living(state: State) -> list[Worker]:
    return [worker for worker in state.workers if worker.state != DRAINING]


def _retry_zygotes(state: State, now: float) -> tuple[State, list[Action]]:
    failed = [generation for generation, what in state.zygotes if what == FAILED]
    if failed and now and now >= state.retry_at:
        return _with_zygote(state, failed[0], LOADING), [StartZygote(failed[0])]
    return state, []


def _spawn_canary(state: State, now: float) -> tuple[State, list[Action]]:
    """The canary is the one above the target; it has not crashed, so it need not wait for what has."""
    living = _living(state)
    if state.phase != CANARY or len(living) > state.target or any(w.generation == state.next for w in living):
        return state, []
    return _spawn_one(state, state.next)


def _spawn(state: State, now: float) -> tuple[State, list[Action]]:
    living = _living(state)
    ours = [worker for worker in living if worker.generation == goal(state)]
    limit = state.target + (MAX_SURGE if len(ours) < len(living) else 0)
    crashing = bool(state.crashes) and now < state.retry_at
    if len(ours) < state.target and len(living) < limit and not crashing:
        return _spawn_one(state, goal(state))
    return state, []


def _spawn_one(state: State, generation: int) -> tuple[State, list[Action]]:
    if dict(state.zygotes).get(generation) != READY:
        return state, []
    taken = {worker.number for worker in _living(state) if worker.generation == generation}
    number = next(n for n in range(len(taken) + 1) if n not in taken)
    worker = Worker(state.last_id + 1, number, generation)
    return state._replace(last_id=worker.id, workers=(*state.workers, worker)), [Spawn(worker)]


def _retire(state: State, now: float) -> tuple[State, list[Action]]:
    """Drain one worker too many: of another generation first, and never below the target of serving ones."""
    wanted = goal(state)
    foreign = [worker for worker in _living(state) if worker.generation not in (wanted, state.next)]
    serving = sum(worker.state == SERVING for worker in state.workers)
    cause = "reload" if state.phase == ROLLING else "roll back"
    for worker in sorted(foreign, key=lambda w: w.number):
        if worker.state == BOOTING or serving > state.target:
            return _drain(state, worker, cause)
    surplus = _surplus(state, wanted)
    return _drain(state, surplus[0], "scale down") if surplus else (state, [])


def _surplus(state: State, generation: int) -> list[Worker]:
    """The workers of a generation above the target, those that serve no one yet and then the highest numbers first."""
    ours = [worker for worker in _living(state) if worker.generation == generation]
    ours.sort(key=lambda worker: (worker.state != BOOTING, -worker.number))
    return ours[: max(0, len(ours) - state.target)]


def _drain(state: State, worker: Worker, cause: str) -> tuple[State, list[Action]]:
    return _with_worker(state, worker._replace(state=DRAINING)), [Drain(worker.id, cause)]


def _commit(state: State, now: float) -> tuple[State, list[Action]]:
    living = _living(state)
    settled = len(living) == state.target and all(
        worker.state == SERVING and worker.generation == goal(state) for worker in living
    )
    if not settled or state.phase not in (STARTING, ROLLING):
        return state, []
    first = state.phase == STARTING
    actions: list[Action] = [Committed(state.next, first)]
    actions += [StopZygote(generation) for generation, _ in state.zygotes if generation != state.next]
    zygotes = tuple((generation, what) for generation, what in state.zygotes if generation == state.next)
    return state._replace(phase=STABLE, good=state.next, next=0, zygotes=zygotes, failures=0), actions


def _reload_again(state: State, now: float) -> tuple[State, list[Action]]:
    if state.phase == STABLE and state.reload_again:
        return _prepare(state, PREPARING, state.reload_again)
    return state, []


# Small helpers over the tuples.


def _find(state: State, worker_id: int) -> Worker | None:
    return next((worker for worker in state.workers if worker.id == worker_id), None)


def _with_worker(state: State, worker: Worker) -> State:
    return state._replace(workers=tuple(worker if w.id == worker.id else w for w in state.workers))


def _with_zygote(state: State, generation: int, what: str) -> State:
    changed = tuple((g, what if g == generation else old) for g, old in state.zygotes)
    return state._replace(zygotes=changed)


def _without_zygote(state: State, generation: int) -> State:
    return state._replace(zygotes=tuple((g, what) for g, what in state.zygotes if g != generation))
