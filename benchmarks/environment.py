"""The benchmarks' own virtual environment: the servers from PyPI beside pyserve, built from this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = HERE / ".venv"
BIN = VENV / "bin"


def prepare() -> None:
    """Make the environment if there is none, and install the checkout as it is now."""
    if not (BIN / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        pip("install", "--quiet", "--requirement", str(HERE / "requirements.txt"))
    pip("install", "--quiet", "--force-reinstall", "--no-deps", str(ROOT))
    pip("install", "--quiet", str(ROOT))


def pip(*arguments: str) -> None:
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([BIN / "python", "-m", "pip", *arguments], check=True, env=environ)


def version(distribution: str) -> str:
    """The installed version of a distribution."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return subprocess.run([BIN / "python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()
