"""Every setting of the table, changed at a reload: it takes effect, or is kept and warned of, and nothing breaks."""

from __future__ import annotations

import os
import pwd
import re
import signal
from pathlib import Path

import pytest

from lifecycle.project import Project
from pyserve.config.settings import BY_NAME, SECTIONS, SETTINGS, Setting
from support import Server, serve
from support.processes import title

# The app looks at what its own worker was given.
APP = """
import sys

def wsgi(environ, start_response):
    frame = sys._getframe()
    while not hasattr(frame.f_locals.get("self"), "generation"):
        frame = frame.f_back
    value = getattr(frame.f_locals["self"].generation.config, environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(value).encode()]

again = wsgi
def hook(*_cause): pass
"""
BEFORE = {  # FOLDER: else these would change with chdir
    "app": '"app:wsgi"',
    "bind": '"127.0.0.1:0"',
    "control_socket": '"FOLDER/old.ctl"',
    "error_logfile": '"FOLDER/log"',
    "access_logfile": '"FOLDER/old.access"',
    "pidfile": '"FOLDER/old.pid"',
    "workers": "2",
    "reload_soak": "0",
}
HOOK = '["app:hook"]'
ME = pwd.getpwuid(os.geteuid()).pw_name
AFTER = {
    "app": '"app:again"',
    "chdir": '"elsewhere"',
    "pythonpath": '["elsewhere"]',
    "env": '["NEW=1"]',
    "exclusive": '["PUT /alone"]',
    "preload": '"never"',
    "bind": '["127.0.0.1:0", "unix:new.sock"]',
    "backlog": "100",
    "socket_mode": '"600"',
    "forwarded_allow_ips": '"10.0.0.1"',
    "workers": "3",
    "worker_class": '"threads"',
    "threads": "4",
    "worker_connections": "10",
    "user": f'"{ME}"',
    "group": f'"{os.getegid()}"',
    "umask": '"077"',
    "pidfile": '"new.pid"',
    "control_socket": '"new.ctl"',
    "proc_name": '"another"',
    "max_crashes": "9",
    "crash_window": "9",
    "max_requests": "1000000",
    "max_requests_jitter": "10",
    "max_memory": '"64G"',
    "max_lifetime": '"1h"',
    "reload_check": '"/check?timeout"',
    "reload_soak": "0.1",
    "keep_previous": "9",
    "max_surge": '"2"',
    "max_unavailable": '"1"',
    "timeout": "29",
    "request_deadline": "29",
    "graceful_timeout": "29",
    "drain_delay": "0.1",
    "boot_timeout": "59",
    "header_timeout": "9",
    "body_timeout": "29",
    "write_timeout": "29",
    "keep_alive": "9",
    "keepalive_linger": "1",
    "handoff_timeout": "4",
    "hook_timeout": "4",
    **dict.fromkeys((row.name for row in SETTINGS if row.section == "Hooks"), HOOK),
    "limit_connections": "50",
    "limit_request_line": "5000",
    "limit_request_fields": "50",
    "limit_request_field_size": "5000",
    "limit_request_head": "50000",
    "permit_raw_target": "true",
    "limit_request_body": "5000",
    "body_buffer": "5000",
    "response_buffer": "20000",
    "response_spool": '"32M"',
    "buffer_memory": '"2M"',
    "spool_limit": '"1G"',
    "body_min_rate": "400",
    "response_min_rate": "400",
    "spool_dir": '"elsewhere"',
    "access_logfile": '"new.access"',
    "access_logformat": '"json"',
    "error_logfile": '"new.log"',
    "log_level": '"debug"',
}


def test_the_table_is_whole() -> None:
    assert AFTER.keys() == BY_NAME.keys()


def configure(folder: Path, changes: dict[str, str]) -> None:
    lines = [f"{name} = {text}" for name, text in {**BEFORE, **changes}.items()]
    folder.joinpath("pyserve.toml").write_text("\n".join(lines).replace("FOLDER", str(folder)) + "\n")


def reload(server: Server) -> None:
    done = len(re.findall("reload done", server.log))
    server.signal(signal.SIGHUP)
    server.wait_for_log("(?s)" + ".*".join(["reload done"] * (done + 1)) + ".*is committed")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_setting_that_changes_at_a_reload_takes_effect_or_is_warned_of(project: Project, section: str) -> None:
    folder = project.folder
    project.app.write_text(APP)
    folder.joinpath("elsewhere").mkdir()
    folder.joinpath("elsewhere", "app.py").write_text(APP)
    configure(folder, {})
    with serve(cwd=folder, bind=False, env={"PYSERVE_RELOAD_SOAK": ""}, error_log=folder / "log") as server:
        rows = [row for row in SETTINGS if row.section == section]
        before = {row.name: server.get(f"/?{row.name}").text for row in rows}
        for row in rows:
            change(server, folder, row, before[row.name])
        configure(folder, {})
        reload(server)
        log = server.log
        assert not re.search(r"ERROR|CRITICAL|degraded", log)
        assert len(server.workers()) >= 2


def change(server: Server, folder: Path, row: Setting, before: str) -> None:
    """Have it alone changed: the one before is what it was again."""
    seen = len(server.log)
    configure(folder, {row.name: AFTER[row.name]})
    reload(server)
    after, log = server.get(f"/?{row.name}").text, server.log[seen:]
    warnings = re.findall(rf"(?m)^.* {row.name} = .*needs a restart.*$", log)
    assert (after == before) == row.fixed, (row.name, before, after)
    assert len(warnings) == row.fixed, (row.name, warnings)
    assert len(re.findall("needs a restart", log)) == row.fixed
    if row.name == "proc_name":
        assert title(server.pid) == "pyserve: master [another]"


@pytest.mark.parametrize("first, then", [("", '"access"'), ('"access"', "")], ids=["added", "removed"])
@pytest.mark.usefixtures("worker_class")
def test_an_access_log_that_comes_or_goes_at_a_reload_shifts_no_descriptor(
    project: Project, first: str, then: str
) -> None:
    def write(text: str) -> None:
        folder.joinpath("pyserve.toml").write_text(f"workers = 2\n{text and 'access_logfile = ' + text}\n")

    folder = project.folder
    write(first)
    with serve("app:wsgi", cwd=folder) as server:
        write(then)
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2 serves with 2 workers")
        server.wait_for_log(r"access_logfile = \S+ \(.*\) needs a restart of pyserve; until then it stays ")
        server.signal(signal.SIGUSR1)
        server.wait_for_log("log files reopened")
        assert server.get("/").text.startswith("one ")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not re.search(r"died|killed|exited|ERROR", server.log)
    assert folder.joinpath("access").exists() == bool(first)
    if first:
        assert len(folder.joinpath("access").read_text().splitlines()) == 1


def test_warnings_of_a_configuration_are_logged_at_its_reload(project: Project) -> None:
    with serve("app:wsgi", cwd=project.folder) as server:
        project.folder.joinpath("pyserve.toml").write_text("max_requests_jitter = 7\n")
        server.signal(signal.SIGHUP)
        server.wait_for_log("max_requests_jitter = 7 .* does nothing: max_requests is not set")
        server.wait_for_log("reload done")
