"""The log files: opened by the master, written by every child, also by a worker without rights to them."""

from __future__ import annotations

import os

from pyserve.errors import ConfigError
from pyserve.log import LEVELS, Log, open_log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.config import Config


class LogFiles:
    """The error log, and the access log's descriptor if there is one."""

    def __init__(self, config: Config) -> None:
        self.paths = [(config.error_logfile, 2)]
        if config.access_logfile:
            self.paths.append((config.access_logfile, 1))
        self.fds = [open_log(path, standard) for path, standard in self.paths]
        self.error = Log(self.fds[0], config.log_level, "master")

    def set_level(self, level: str) -> None:
        self.error.threshold = LEVELS[level]

    def reopen(self) -> None:
        """Open the files again under the same descriptors, after they were renamed away."""
        for (path, standard), fd in zip(self.paths, self.fds, strict=True):
            if path == "-":
                continue
            try:
                fresh = open_log(path, standard)
            except ConfigError as error:
                self.error.error(f"{error.message}; the old file is written on")
                continue
            os.dup2(fresh, fd, inheritable=False)
            os.close(fresh)


def take_over(fresh: list[int], fds: list[int]) -> None:
    """In a child: let descriptors that the master sent replace the ones in use, number for number."""
    for new, old in zip(fresh, fds, strict=False):
        os.dup2(new, old, inheritable=False)
