"""What a configuration is made from, before it is one."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NamedTuple
else:
    from pyserve.records import NamedTuple


class Given(NamedTuple):
    """A value with the origin that messages and --print-config name."""

    value: Any
    origin: str


class Sources(NamedTuple):
    """All that a configuration is made from, kept so that a reload reads the same places again."""

    cli: Mapping[str, Any]  # name → text or list of texts
    environ: Mapping[str, str]  # the variables that matter
    cwd: str
    file: str | None  # as -c gave it
