"""The units of deploy/systemd under a real systemd."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path

import pytest
import requests

from lifecycle.load import Load
from support.installed import Installed
from support.processes import title, wait_for
from support.releases import Releases
from systemd.machine import Machine
from systemd.service import AT_ONCE, NAME, UNITS, Service


@pytest.fixture
def folder(machine: Machine, tmp_path: Path) -> Path:
    return tmp_path / "myapp"


def test_start_returns_when_every_worker_is_ready(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder, 'preload = "never"', "Environment=SLOW_IMPORT=1")
    service.systemctl("start")
    assert "ready: 2 workers" in service.log
    assert len(service.workers()) == 2
    assert service.show("StatusText") == "generation 1, 2 workers"
    assert title(service.master()) == "pyserve: master [myapp:wsgi]"
    assert service.get().startswith("one ")


def test_start_fails_and_is_not_tried_again_when_the_app_does_not_load(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder)
    (folder / "myapp.py").write_text("import no_such_module")
    with pytest.raises(AssertionError, match="failed"):
        service.systemctl("start")
    assert service.show("ExecMainStatus") == "4"
    assert service.show("NRestarts") == "0"
    assert "No module named 'no_such_module'" in service.log


def test_reload_serves_new_code_and_loses_nothing(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder)
    service.systemctl("start")
    master = service.master()
    with Load(service.url) as load:
        (folder / "myapp.py").write_text((folder / "myapp.py").read_text().replace('"one"', '"two, a longer one"'))
        service.systemctl("reload")
        service.wait_for_log("reload done: generation 2")
        assert service.get().startswith("two")  # a request from before may still be with the old code
        served = len(load.answers)
        wait_for(lambda: len(load.answers) > served + 20)
    assert load.failures == []
    assert {status for status, _ in load.answers} == {200}
    wait_for(lambda: service.show("StatusText") == "generation 2, 2 workers", "the status")
    assert service.show("ActiveState") == "active"
    assert service.master() == master


@pytest.mark.parametrize("broken", ["def broken(:", "import os; os._exit(3)"], ids=["does not compile", "exits"])
def test_a_reload_of_broken_code_fails_and_leaves_the_service_active(
    machine: Machine, folder: Path, broken: str
) -> None:
    service = Service(machine, folder)
    service.systemctl("start")
    good = (folder / "myapp.py").read_text()
    (folder / "myapp.py").write_text(broken)
    with pytest.raises(AssertionError, match=r"Job for pyserve\.service failed"):
        service.systemctl("reload")
    assert "reload aborted, nothing was changed" in service.log
    assert "generation 2 does not serve" in service.log  # what pyservectl said
    wait_for(lambda: "the reload to generation 2 failed" in service.show("StatusText"), "the status")
    assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0")
    assert service.get().startswith("one ")
    (folder / "myapp.py").write_text(good.replace('"one"', '"repaired"'))
    service.systemctl("reload")
    assert service.get().startswith("repaired ")


def test_a_reload_that_only_sends_a_signal_tells_the_status(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder, drop_in=AT_ONCE)
    service.systemctl("start")
    (folder / "myapp.py").write_text("def broken(:")
    service.systemctl("reload")
    wait_for(lambda: "the reload to generation 2 failed" in service.show("StatusText"), "the status")
    wait_for(lambda: service.show("ActiveState") == "active", "the unit's state")
    assert service.get().startswith("one ")


def test_a_reload_follows_the_link_to_the_current_release(machine: Machine, folder: Path) -> None:
    """As in deploy/README.md, which has the three lines."""
    readme = (UNITS.parent / "README.md").read_text()
    lines = re.findall(r"(?m)^(?:WorkingDirectory|ExecStart|ExecReload)=/srv/myapp/current.*$", readme)
    assert len(lines) == 3
    releases = Releases(folder, Path("/srv/myapp"))
    releases.make(1)
    releases.deploy(1)
    environ = "PYSERVE_BIND=127.0.0.1:0 PYSERVE_PYTHONPATH=lib PYSERVE_RELOAD_SOAK=0.2"
    drop_in = "\n".join(["ExecStart=", "ExecReload=", f"Environment={environ}", *lines])
    service = Service(machine, folder, drop_in=drop_in)
    service.systemctl("start")
    assert service.get() == releases.answer(1)
    releases.make(2)
    releases.deploy(2)
    service.systemctl("reload")
    assert service.get() == releases.answer(2)
    releases.deploy(1)
    service.systemctl("reload")
    assert service.get() == releases.answer(1)
    releases.deploy(2)
    service.systemctl("reload")
    releases.remove(1)
    releases.make(3, app="def broken(:")
    releases.deploy(3)
    with pytest.raises(AssertionError, match="failed"):
        service.systemctl("reload")
    assert service.get() == releases.answer(2)
    releases.remove(3)
    releases.make(3)
    machine.systemctl("kill", "--kill-whom=main", "--signal=USR2", NAME)
    service.wait_for_log("upgraded: ")
    service.systemctl("reload")
    assert service.get() == releases.answer(3)
    assert "leads to" not in service.log


def test_two_services_of_one_unit_file_have_folders_of_their_own(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder)
    service.systemctl("start")
    other = Service(machine, folder, name="shop.service")
    other.systemctl("start")
    other.systemctl("reload")
    other.systemctl("stop")
    service.systemctl("reload")
    service.wait_for_log("reload done: generation 2")
    assert service.get().startswith("one ")


def test_usr2_upgrades_the_service_under_load(machine: Machine, folder: Path) -> None:
    """The manager sees one process and one service all the time."""
    installed = Installed(folder / "site")
    service = Service(machine, folder, drop_in="Environment=PYTHONPATH=/srv/myapp/site")
    service.systemctl("start")
    master, workers = service.master(), service.workers()
    started, watched = (service.show(f"{name}TimestampMonotonic") for name in ("ExecMainStart", "Watchdog"))
    with Load(service.url) as load:
        installed.release("9.9")
        machine.systemctl("kill", "--signal=SIGUSR2", "--kill-whom=main", NAME)
        service.wait_for_log("upgraded: pyserve 9.9")
        served = len(load.answers)
        wait_for(lambda: len(load.answers) > served + 50)
    assert load.failures == []
    assert {status for status, _ in load.answers} == {200}
    assert (service.master(), service.workers()) == (master, workers)
    assert service.show("ExecMainStartTimestampMonotonic") == started
    wait_for(lambda: service.show("WatchdogTimestampMonotonic") != watched, "a WATCHDOG=1")
    assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0")
    service.systemctl("reload")
    service.wait_for_log("reload done: generation 2")
    service.systemctl("stop")
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")


JOURNAL = "StandardOutput=journal\nStandardError=journal"
FAILING = """
def wsgi(environ, start_response):
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("on purpose\\nin two lines")
    if environ["PATH_INFO"] == "/long":
        raise RuntimeError("x" * 1_000_000)
    environ["wsgi.errors"].write("a word of the app's\\n")
    start_response("200 OK", [])
    return [b"ok"]
"""


def test_a_record_is_one_entry_of_the_journal_with_its_priority(machine: Machine, folder: Path) -> None:
    if not Path("/lib/systemd/systemd-journald").exists():
        pytest.skip("systemd-journald is not installed")
    machine.systemctl("start", "systemd-journald.service")
    Service(machine, folder, "", JOURNAL)
    (folder / "myapp.py").write_text(FAILING)

    def entries() -> dict[str, dict[str, str]]:
        """By the beginning of the text, without the process."""
        lines = machine.run("journalctl", "--all", "--output=json", f"--unit={NAME}").splitlines()
        found = [entry for entry in map(json.loads, lines) if entry.get("SYSLOG_IDENTIFIER") == "pyserve"]
        return {str(entry["MESSAGE"]).partition(": ")[2][:40]: entry for entry in found}

    machine.systemctl("start", NAME)
    wait_for(lambda: any("ready: 2 workers" in text for text in entries()), "the journal")
    url = next(text for text in entries() if text.startswith("listening on")).split()[-1]
    for path in ("/", "/fail", "/long"):
        requests.get(url + path, timeout=60)
    wait_for(lambda: sum("answered with 500" in entry["MESSAGE"] for entry in entries().values()) == 2, "the journal")
    found = entries()
    assert found["ready: 2 workers"]["PRIORITY"] == "6"
    assert found["ready: 2 workers"]["MESSAGE"] == "master: ready: 2 workers"
    assert found["ready: 2 workers"]["_SYSTEMD_UNIT"] == NAME
    assert found["a word of the app's"]["PRIORITY"] == "5"
    failure = next(entry for text, entry in found.items() if text.startswith("GET /fail"))
    assert failure["PRIORITY"] == "3"
    assert re.match(r"worker \d gen 1 pid \d+: GET /fail from 127.0.0.1: answered with 500\n", failure["MESSAGE"])
    assert failure["MESSAGE"].endswith("RuntimeError: on purpose\nin two lines")
    assert int(failure["_PID"]) != int(found["ready: 2 workers"]["_PID"])
    long = next(entry for text, entry in found.items() if text.startswith("GET /long"))
    assert long["MESSAGE"].endswith("x" * 1_000_000)


def test_stop_finishes_the_request_under_way(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder)
    service.systemctl("start")
    answers: list[str] = []
    client = threading.Thread(target=lambda: answers.append(service.get("/sleep?3")))
    client.start()
    wait_for(service.in_app, "the request")
    service.systemctl("stop")
    client.join()
    assert [answer[:4] for answer in answers] == ["one "]
    assert service.show("Result") == "success"
    assert service.show("ExecMainStatus") == "0"
    assert "the stop cut no request" in service.log


def test_stop_with_the_usual_killmode_loses_nothing(machine: Machine, folder: Path) -> None:
    """Units that do not say KillMode=mixed have the TERM sent to every process. (The queue was reset, and kept connections
    had an empty 503.)"""
    service = Service(machine, folder, drop_in="KillMode=control-group")
    service.systemctl("start")
    answers: list[str] = []
    inside = threading.Thread(target=lambda: answers.append(service.get("/sleep?3")))
    inside.start()
    wait_for(service.in_app, "the request")
    with Load(service.url) as fresh, Load(service.url, reuse=True, pause=0.02) as kept:
        wait_for(lambda: len(fresh.answers) > 20 and len(kept.answers) > 20)
        service.systemctl("stop")
        inside.join()
        for load in (fresh, kept):
            load.stop()
    assert [answer[:4] for answer in answers] == ["one "]
    assert fresh.failures == []
    assert {type(failure) for failure in kept.failures} <= {ConnectionRefusedError}, "it connects again and again"
    assert {status for status, _ in fresh.answers + kept.answers} == {200}
    assert (service.show("Result"), service.show("ExecMainStatus")) == ("success", "0")
    assert "the stop cut no request" in service.log
    assert "error" not in service.log.split()


def test_signals_to_all_processes_of_the_service_are_the_masters(machine: Machine, folder: Path) -> None:
    """``systemctl kill`` sends to all unless it is told otherwise."""
    service = Service(machine, folder)
    service.systemctl("start")
    workers = service.workers()
    with Load(service.url) as load:
        machine.systemctl("kill", "--signal=SIGUSR1", NAME)
        service.wait_for_log("log files reopened")
        assert service.workers() == workers
        machine.systemctl("kill", "--signal=SIGHUP", NAME)
        service.wait_for_log("reload done: generation 2")
    assert load.failures == []
    assert "was killed by" not in service.log


def test_a_service_that_is_killed_comes_back(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder)
    service.systemctl("start")
    first = service.show("MainPID")
    machine.systemctl("kill", "--signal=SIGKILL", "--kill-whom=main", NAME)
    wait_for(lambda: service.show("NRestarts") == "1" and service.show("ActiveState") == "active", "the restart")
    assert service.show("MainPID") not in (first, "0")


def test_the_watchdog_is_fed_and_notices_a_master_that_stands_still(machine: Machine, folder: Path) -> None:
    service = Service(machine, folder, drop_in="WatchdogSec=3")
    service.systemctl("start")
    first = service.show("WatchdogTimestampMonotonic")
    wait_for(lambda: service.show("WatchdogTimestampMonotonic") != first, "a WATCHDOG=1")
    started = int(service.show("ExecMainStartTimestampMonotonic"))

    def fed_for_long() -> bool:
        return int(service.show("WatchdogTimestampMonotonic")) > started + 6_000_000

    wait_for(fed_for_long, "twice the watchdog's time")
    assert service.show("NRestarts") == "0"
    machine.systemctl("kill", "--signal=SIGSTOP", "--kill-whom=main", NAME)
    wait_for(lambda: service.show("NRestarts") == "1", "the watchdog's bite")


def test_a_restart_behind_a_socket_loses_nothing(machine: Machine, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service = Service(machine, folder)
    machine.write("pyserve.socket", (UNITS / "pyserve.socket").read_text())
    machine.write(
        "pyserve.socket.d/test.conf",
        f"[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=\nListenStream=127.0.0.1:{port}\n",
    )
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "pyserve.socket")
    assert service.show("ActiveState") == "inactive"
    service.url = f"http://127.0.0.1:{port}"
    assert service.get().startswith("one ")  # the first connection starts it
    assert f"listening on {service.url} (handed over)" in service.log
    first = service.master()
    with Load(service.url) as load:
        for served in (50, 100, 150):
            wait_for(lambda served=served: len(load.answers) > served)  # type: ignore[misc]  # mypy does not see its type
            service.systemctl("restart")
    assert service.master() != first
    assert load.failures == []
    assert {status for status, _ in load.answers} == {200}
