"""Releases side by side, each with a virtual environment of its own, and a link to the current one."""

from __future__ import annotations

import shutil
import sysconfig
import venv
from pathlib import Path

from support.installed import Installed

APP = """
import sys
import package

VERSION = "{number}"

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    import late
    return [f"{{VERSION}} {{package.VERSION}} {{late.VERSION}} {{sys.prefix}}".encode()]
"""
SCRIPT = """#!{python}
from pyserve.{module} import main
main()
"""


class Releases:
    """``folder/releases/N``, with pyserve in each, and modules in ``lib``; ``folder/current`` leads to one of them.

    seen: what the folder is called where they are served.
    """

    def __init__(self, folder: Path, seen: Path | None = None) -> None:
        self.folder = folder
        self.seen = seen or folder
        self.current = folder / "current"

    def path(self, number: int) -> Path:
        return self.folder / "releases" / str(number)

    def make(self, number: int, app: str = APP) -> None:
        environment = self.path(number) / "venv"
        venv.create(environment, with_pip=False, symlinks=True)
        packages = next(environment.glob("lib/python*/site-packages"))
        Installed(packages)
        (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # what pyserve needs
        (packages / "package.py").write_text(f'VERSION = "{number}"')
        library = self.path(number) / "lib"
        library.mkdir()
        (library / "late.py").write_text(f'VERSION = "{number}"')
        for name, module in (("pyserve", "__main__"), ("pyservectl", "control.ctl")):
            script = environment / "bin" / name
            python = self.seen / "releases" / str(number) / "venv" / "bin" / "python"
            script.write_text(SCRIPT.format(python=python, module=module))
            script.chmod(0o755)
        (self.path(number) / "myapp.py").write_text(app.format(number=number))

    def deploy(self, number: int) -> None:
        fresh = self.folder / "fresh"
        fresh.symlink_to(f"releases/{number}")
        fresh.replace(self.current)

    def remove(self, number: int) -> None:
        shutil.rmtree(self.path(number))

    def answer(self, number: int) -> str:
        """What its app says: each part of it is of this release."""
        return f"{number} {number} {number} {self.seen}/releases/{number}/venv"
