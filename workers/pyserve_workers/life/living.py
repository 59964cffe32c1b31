"""The objects of some types that there are. They are known by their types: even isinstance() asks the object itself,
and a lazy one (Django's, Werkzeug's) then makes what it stands for, which can fail."""

from __future__ import annotations

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def living(is_meant: Callable[[type], bool]) -> list[Any]:
    """Those that the garbage collector knows; ``is_meant`` is asked once for each type."""
    things = gc.get_objects()
    meant = {kind for kind in {type(thing) for thing in things} if is_meant(kind)}
    return [thing for thing in things if type(thing) in meant] if meant else []
