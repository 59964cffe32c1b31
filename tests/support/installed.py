"""A pyserve of a test's own, that can be upgraded and broken."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyserve
import pyserve_workers

PACKAGES = (Path(pyserve.__file__).parent, Path(pyserve_workers.__file__).parent)


class Installed:
    """A folder for PYTHONPATH: ``installed.release("9.9")`` is what an installation of that version does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {"PYTHONPATH": str(folder)}
        for package in PACKAGES:
            shutil.copytree(
                package, folder / package.name, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__")
            )

    def replace(self, name: str, old: str, new: str) -> None:
        """Change ``"pyserve/cli.py"`` or another file; processes that run still have the old one."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.unlink()
        path.write_text(text.replace(old, new, 1) + "\n# another release\n")

    def restore(self, name: str) -> None:
        path = self.folder / name
        path.unlink()
        path.symlink_to(next(package.parent / name for package in PACKAGES if name.startswith(f"{package.name}/")))

    def release(self, version: str) -> None:
        self.replace("pyserve/__init__.py", "__version__ = ", f'__version__ = "{version}"\n_before = ')
