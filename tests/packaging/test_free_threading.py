"""On a Python without the GIL: nothing of ours turns it back on, and requests run beside each other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import Server
from support.processes import GENEROUS
from support.server import wait_until_ready

ROOT = Path(__file__).parents[2]
NAMES = ["python3.13t", "python3.14t", "python3.15t"]
MODULES = [
    ".".join(source.relative_to(ROOT).with_suffix("").parts[1:])
    for kind in ("py", "pyx")
    for source in sorted(ROOT.glob(f"*/pyserve*/**/*.{kind}"))
    if not source.stem.startswith("__") and "gevent" not in source.stem
]
PROGRAM = f"""
import importlib, sys
for name in {MODULES!r}:
    importlib.import_module(name)
assert sys._is_gil_enabled() is False, "one of our modules has turned the GIL on"
print("no GIL")
"""
APP = """
import sys

def application(environ, start_response):
    total = sum(range(10_000))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{sys._is_gil_enabled()} {total}".encode()]
"""
pytestmark = pytest.mark.timeout(900)


def free_threaded_python() -> str:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return sys.executable
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip(f"no free-threaded Python is here (looked for {', '.join(NAMES)})")


@pytest.mark.parametrize("source", sorted(ROOT.glob("*/pyserve*/**/*.pyx")), ids=lambda source: source.name)
def test_every_native_module_says_that_it_can_do_without(source: Path) -> None:
    assert "freethreading_compatible=True" in source.read_text(encoding="utf-8").splitlines()[0]


def test_nothing_turns_the_gil_on(tmp_path: Path) -> None:
    python = free_threaded_python()
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    bin_folder = tmp_path / "venv" / "bin"
    subprocess.run([bin_folder / "pip", "install", "--quiet", ROOT], check=True, env=environ)
    said = subprocess.run(
        [bin_folder / "python", "-c", PROGRAM], check=True, capture_output=True, text=True, env=environ
    )
    assert said.stdout == "no GIL\n"

    (tmp_path / "busy.py").write_text(APP)
    command = [str(bin_folder / "pyserve"), "busy", "--workers", "1", "--threads", "4", "--bind", "127.0.0.1:0"]
    server = Server(command, tmp_path, environ, tmp_path / "log")
    try:
        wait_until_ready(server)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: server.get("/").text, range(2000)))
        assert set(answers) == {"False 49995000"}
        server.signal(signal.SIGTERM)
        assert server.wait(GENEROUS) == 0
    finally:
        server.kill()
