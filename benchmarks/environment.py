"""What the benchmarks need: their own virtual environment with the servers from PyPI, pyserve built from this checkout,
a few Debian packages, and the C loop that marks the limit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = HERE / ".venv"
BIN = VENV / "bin"
INSTALLED = VENV / "installed.txt"  # the lines of requirements.txt that have been installed
LIMIT = BIN / "limit"
# Debian's packages by a file that each brings.
PACKAGES = {"/usr/bin/wrk": "wrk", "/usr/bin/taskset": "util-linux", "/usr/include/ev.h": "libev-dev"}


def prepare(only: Collection[str] = ()) -> dict[str, str]:
    """Make the environment if there is none, and install the checkout as it is now, with all requirements or only those
    of some distributions.

    Returns the requirements that could not be installed, each with the reason.
    """
    if not (BIN / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    absent = install_requirements(only)
    pip("install", "--quiet", "--force-reinstall", "--no-deps", str(ROOT))
    pip("install", "--quiet", str(ROOT))
    return absent


def install_requirements(only: Collection[str]) -> dict[str, str]:
    """Each by itself, so that one that does not build does not keep the others away."""
    lines = (line.partition("#")[0].strip() for line in (HERE / "requirements.txt").read_text().splitlines())
    known = INSTALLED.read_text().splitlines() if INSTALLED.exists() else []
    absent = {}
    for requirement in filter(None, lines):
        distribution = re.split(r"\W", requirement, maxsplit=1)[0]
        if requirement in known or (only and distribution not in only):
            continue
        try:
            pip("install", "--quiet", requirement)
        except subprocess.CalledProcessError as error:
            absent[requirement] = reason(error.stderr)
        else:
            with INSTALLED.open("a") as record:
                record.write(requirement + "\n")
    return absent


def pip(*arguments: str) -> None:
    environ = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(BIN / "python"), "-m", "pip", *arguments]
    subprocess.run(command, check=True, env=environ, stderr=subprocess.PIPE, text=True)


def reason(output: str) -> str:
    """The line of a failed command's output that says most."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for mark in ("fatal error", "Error:", "error:", "ERROR"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "it says nothing"


def need_packages(packages: Mapping[str, str] = PACKAGES) -> None:
    """Install what Debian packages are missing, if that is ours to do; else name them."""
    missing = [package for path, package in packages.items() if not Path(path).exists()]
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing", *missing, flush=True)
        get = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for action in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            subprocess.run([*get, *action], env=quiet, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    elif missing == ["libev-dev"]:
        print("bjoern may not build without the Debian package libev-dev")
    else:
        raise SystemExit(f"needed, and missing: {' '.join(missing)} (Debian packages)")


def build_limit() -> None:
    subprocess.run(["cc", "-std=c17", "-O2", "-Wall", "-Wextra", "-o", LIMIT, HERE / "limit.c"], check=True)


def version(distribution: str) -> str:
    """The installed version of a distribution."""
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    return subprocess.run([BIN / "python", "-c", code], check=True, capture_output=True, text=True).stdout.strip()
