"""An operator at the server: pyservectl, as a person would use it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from lifecycle.project import Project
from support import Server, serve
from support.processes import GENEROUS

CTL = [sys.executable, "-c", "from pyserve.control.ctl import main; main()"]


@contextlib.contextmanager
def serving(project: Project, *arguments: str) -> Iterator[Server]:
    project.folder.joinpath("pyserve.toml").write_text('control_socket = "pyserve.ctl"\n')
    with serve("app:wsgi", *arguments, cwd=project.folder) as server:
        yield server


def ctl(project: Project, *arguments: str, code: int | None = 0) -> str:
    """What pyservectl prints in the project's folder, standard error included; its exit code must be ``code``."""
    done = subprocess.run(
        [*CTL, *arguments],
        cwd=project.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=GENEROUS,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


def status(project: Project) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(ctl(project, "--json", "status").splitlines()[0])
    return said
