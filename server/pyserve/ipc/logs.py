"""The log files: opened by the master, written by every child, also by a worker without rights to them."""

from __future__ import annotations

import os

from pyserve.errors import ConfigError
from pyserve.ipc.log import LEVELS, Log, open_log
from pyserve.system.way import only_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.config.config import Config
    from pyserve.ipc.namedfds import Named


NAMES = ("error_log", "access_log")  # as their descriptors are called in messages


class LogFiles:
    """The error log, and the access log's descriptor if there is one."""

    def __init__(self, paths: list[tuple[str, int]], fds: list[int], level: str) -> None:
        """``paths``: of each file, with the standard stream that a ``-`` means; the error log's is the first."""
        self.paths = paths
        self.fds = fds
        self.error = Log(fds[0], level, "master")

    @classmethod
    def open(cls, config: Config) -> LogFiles:
        """ConfigError that names the path if one cannot be opened."""
        paths = [(config.error_logfile, 2)]
        if config.access_logfile:
            paths.append((config.access_logfile, 1))
        return cls(paths, [opened(path, standard) for path, standard in paths], config.log_level)

    def carried(self) -> dict[str, Any]:
        level = next(name for name, threshold in LEVELS.items() if threshold == self.error.threshold)
        lost = {"lost": self.error.lost, "why": self.error.why_lost}
        return {"paths": self.paths, "fds": self.fds, "level": level, **lost}

    @classmethod
    def resume(cls, record: dict[str, Any]) -> LogFiles:
        logs = cls([(path, standard) for path, standard in record["paths"]], record["fds"], record["level"])
        logs.error.lost, logs.error.why_lost = record["lost"], record["why"]
        return logs

    def named(self) -> Named:
        return {name: [fd] for name, fd in zip(NAMES, self.fds, strict=False)}

    def set_level(self, level: str) -> None:
        self.error.threshold = LEVELS[level]

    def reopen(self, check: Callable[[str], None]) -> None:
        """Open the files again under the same descriptors, after they were renamed away.

        check: raises ConfigError for a path that is not to be opened any more.
        """
        for (path, standard), fd in zip(self.paths, self.fds, strict=True):
            if path == "-":
                continue
            try:
                check(path)
                fresh = opened(path, standard)
            except ConfigError as error:
                self.error.error(f"{error.message}; the old file is written on")
                continue
            os.dup2(fresh, fd, inheritable=False)
            os.close(fresh)


def opened(path: str, standard: int) -> int:
    """A descriptor of a log. A link, say to /dev/stdout, is followed if no other user can have put it there."""
    return open_log(path, standard, follow=only_ours(path))


def take_over(fresh: Named, fds: dict[str, int]) -> None:
    """In a child: let descriptors that the master sent replace the ones in use, name for name."""
    for name, old in fds.items():
        for new in fresh.get(name, ()):
            os.dup2(new, old, inheritable=False)
