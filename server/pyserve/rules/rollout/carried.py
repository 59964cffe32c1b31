"""The state as JSON values, and back: for a master that goes on in another program (see ``pyserve.master.carried``)."""

from __future__ import annotations

from pyserve.rules.rollout.state import Generation, Plan, State, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def carried(state: State) -> dict[str, Any]:
    return {
        **state._asdict(),
        "plan": state.plan._asdict(),
        "queued": state.queued and state.queued._asdict(),
        "generations": [{**each._asdict(), "plan": each.plan._asdict()} for each in state.generations],
        "workers": [worker._asdict() for worker in state.workers],
    }


def resume(record: dict[str, Any]) -> State:
    generations = [
        Generation(**{**each, "plan": Plan(**each["plan"]), "boot_failures": tuple(each["boot_failures"])})
        for each in record["generations"]
    ]
    records = {
        "plan": Plan(**record["plan"]),
        "queued": Plan(**record["queued"]) if record["queued"] else None,
        "generations": tuple(generations),
        "workers": tuple(Worker(**worker) for worker in record["workers"]),
        "crashes": tuple(record["crashes"]),
    }
    return State(**{**record, **records})
