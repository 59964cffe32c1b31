"""The real agents: ``ddtrace-run pyserve``, ``opentelemetry-instrument pyserve``, ``newrelic-admin run-program pyserve``
and coverage. What each worker has served is reported, whatever its generation.

They are in an environment of their own, which ``make agents`` makes, and names in AGENTS.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.collector import Collector, collecting
from support import Server, serve

ENVIRONMENT = os.environ.get("AGENTS", "")
BIN = Path(ENVIRONMENT, "bin")
pytestmark = pytest.mark.skipif(not ENVIRONMENT, reason="the agents are installed and tested by: make agents")

APP = """
import os
from flask import Flask

app = Flask(__name__)

@app.get("/first")
def first():
    return str(os.getpid())

@app.get("/replaced")
def replaced():
    return str(os.getpid())

@app.get("/reloaded")
def reloaded():
    return str(os.getpid())

@app.get("/replacedagain")
def replacedagain():
    return str(os.getpid())
"""
PHASES = ("first", "replaced", "reloaded", "replacedagain")
SCRIPT = """#!{python}
import sys
from pyserve.__main__ import main
sys.exit(main())
"""


def environment(folder: Path) -> dict[str, str]:
    """In which ``pyserve`` is this checkout's, in the interpreter that has the agents."""
    (folder / "app.py").write_text(APP)
    script = folder / "bin" / "pyserve"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(python=BIN / "python"))
    script.chmod(0o755)
    return {"PATH": f"{script.parent}:{BIN}:{os.environ['PATH']}", "VIRTUAL_ENV": ENVIRONMENT}


def go_through(server: Server, reported: Callable[[str], bool]) -> None:
    """A request in each phase of the server's life, and what came of it."""
    assert os.path.realpath(f"/proc/{server.pid}/exe") == os.path.realpath(BIN / "python")
    ask(server, "first", reported)
    kill_a_worker(server)
    ask(server, "replaced", reported)
    server.signal(signal.SIGHUP)
    server.wait_for_log("reload done: generation 2")
    server.wait_for_log("generation 2 is committed")
    ask(server, "reloaded", reported)
    kill_a_worker(server)
    ask(server, "replacedagain", reported)


def ask(server: Server, phase: str, reported: Callable[[str], bool]) -> None:
    """Of both workers, since one may be late with what it reports; the second is what is reported in the end."""
    answered: set[str] = set()

    def both() -> bool:
        answered.add(server.get(f"/{phase}").text)
        return len(answered) >= 2

    server.wait_for(both)
    server.wait_for(lambda: reported(phase))


def kill_a_worker(server: Server) -> None:
    before = server.workers()
    os.kill(before[0], signal.SIGKILL)
    server.wait_for(lambda: len(server.workers()) == 2 and before[0] not in server.workers())


def run(folder: Path, program: tuple[str, ...], environ: dict[str, str], reported: Callable[[str], bool]) -> str:
    with serve("app:app", "--workers", "2", cwd=folder, env=environ, program=(*program, "pyserve")) as server:
        go_through(server, reported)
        server.stop()
        return server.log


def reports(collector: Collector, *kinds: str) -> Callable[[str], bool]:
    return lambda phase: any(collector.has(kind, f"/{phase}") for kind in kinds)


@pytest.mark.usefixtures("worker_class")
def test_ddtrace(tmp_path: Path) -> None:
    with collecting() as collector:
        environ = {
            **environment(tmp_path),
            "DD_TRACE_AGENT_URL": f"http://127.0.0.1:{collector.port}",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        }
        run(tmp_path, (str(BIN / "ddtrace-run"),), environ, reports(collector, "/v0.4/traces", "/v0.5/traces"))


@pytest.mark.usefixtures("worker_class")
def test_opentelemetry(tmp_path: Path) -> None:
    with collecting() as collector:
        environ = {
            **environment(tmp_path),
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_LOGS_EXPORTER": "none",
        }
        run(tmp_path, (str(BIN / "opentelemetry-instrument"),), environ, reports(collector, "/v1/traces"))


@pytest.mark.usefixtures("worker_class")
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl, which makes a certificate, is not installed")
def test_newrelic(tmp_path: Path) -> None:
    certificate = tmp_path / "collector.pem"
    with collecting(certificate) as collector:
        environ = {
            **environment(tmp_path),
            "NEW_RELIC_LICENSE_KEY": "0" * 40,
            "NEW_RELIC_APP_NAME": "shop",
            "NEW_RELIC_HOST": "127.0.0.1",
            "NEW_RELIC_PORT": str(collector.port),
            "NEW_RELIC_CA_BUNDLE_PATH": str(certificate),
            "NEW_RELIC_STARTUP_TIMEOUT": "30",  # else what is served until it has registered is not reported
        }
        program = (str(BIN / "newrelic-admin"), "run-program")
        run(tmp_path, program, environ, reports(collector, "analytic_event_data"))


@pytest.mark.usefixtures("worker_class")
def test_coverage(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """It writes at the end of each process; coverage combines that."""
    concurrency = "gevent" if request.getfixturevalue("worker_class") == "gevent" else "thread"
    settings = tmp_path / "coveragerc"
    lines = ("[run]", "parallel = true", f"concurrency = {concurrency}", f"data_file = {tmp_path}/.coverage")
    settings.write_text("\n".join((*lines, f"include = {tmp_path}/app.py")))
    environ = {**environment(tmp_path), "COVERAGE_PROCESS_START": str(settings)}
    run(tmp_path, (), environ, lambda phase: True)
    coverage = [str(BIN / "python"), "-m", "coverage"]
    for what in (["combine"], ["json", "-o", "report.json"]):
        subprocess.run([*coverage, *what, "--rcfile", str(settings)], cwd=tmp_path, check=True)
    functions = json.loads((tmp_path / "report.json").read_text())["files"]["app.py"]["functions"]
    covered = {name: functions[name]["summary"]["percent_covered"] for name in PHASES}
    assert covered == dict.fromkeys(PHASES, 100.0)
