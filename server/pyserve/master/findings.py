"""What ``preload = auto`` has found: an app that cannot be preloaded need not be imported in a zygote once more.

A finding holds until the configuration or the code's folder changes. What is looked at of the folder is cheap: the
working directory and the app's top-level module in it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.config.config import Config


class Findings:
    """Of one master, the latest one only; an upgrade forgets it, for the new version may judge otherwise."""

    def __init__(self) -> None:
        self.what: tuple[object, ...] = ()
        self.reasons = ""

    def note(self, config: Config, reasons: str) -> None:
        self.what, self.reasons = identity(config), reasons

    def known(self, config: Config) -> str:
        """Why this app is not to be preloaded, as the end of "the import …"; empty if that is not known."""
        return self.reasons if config.preload == "auto" and self.what == identity(config) else ""


def identity(config: Config) -> tuple[object, ...]:
    top = os.path.join(config.chdir, config.app.partition(":")[0].partition(".")[0])
    return repr(config.values()), *(state(path) for path in (config.chdir, top, f"{top}.py"))


def state(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
