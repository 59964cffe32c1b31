"""Where settings come from, which source wins, and what is said of wrong ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pyserve.app import lifecycle
from pyserve.config import config, contradictions
from pyserve.config.config import load, reload
from pyserve.config.settings import SETTINGS
from pyserve.errors import ConfigError, PyserveError, UsageError
from pyserve.system import cpus

CLI = {"app": "shop:app"}

# setting: three ways to give it, each a different value: (command line, variable, TOML), each with what it means.
SAMPLES: dict[str, list[tuple[str, Any]]] = {
    "app": [("a:b", "a:b"), ("c:d", "c:d"), ('"e:f"', "e:f")],
    "chdir": [("one", "{cwd}/one"), ("two", "{cwd}/two"), ('"three"', "{cwd}/three")],
    "pythonpath": [("x,y", ["{cwd}/x", "{cwd}/y"]), ("z", ["{cwd}/z"]), ('["/u", "v"]', ["/u", "{cwd}/v"])],
    "env": [("A=1,2", ["A=1,2"]), ("", None), ('{ B = "2" }', ["B=2"])],
    "exclusive": [("PUT /a", ["PUT /a"]), ("PUT /a,POST /b", ["PUT /a", "POST /b"]), ('["GET  /c"]', ["GET /c"])],
    "preload": [("never", "never"), ("on", "always"), ('"auto"', "auto")],
    "bind": [(":81", ["0.0.0.0:81"]), ("a:1,b:2", ["a:1", "b:2"]), ('"unix:s"', ["unix:{cwd}/s"])],
    "backlog": [("1", 1), ("2", 2), ("3", 3)],
    "socket_mode": [("600", 0o600), ("0666", 0o666), ('"0o777"', 0o777)],
    "forwarded_allow_ips": [("*", "*"), ("10.0.0.1", "10.0.0.1"), ('["::1", "10.0.0.2"]', "::1,10.0.0.2")],
    "workers": [("1", 1), ("2", 2), ("3", 3)],
    "worker_class": [("gevent", "gevent"), ("threads", "threads"), ('"gevent"', "gevent")],
    "threads": [("1", 1), ("1", 1), ("1", 1)],
    "worker_connections": [("1", 1), ("2", 2), ("3", 3)],
    "user": [("root", "root"), ("0", "0"), ("0", "0")],
    "group": [("root", "root"), ("0", "0"), ("0", "0")],
    "umask": [("022", 0o022), ("27", 0o027), ('"077"', 0o077)],
    "control_socket": [("one", "{cwd}/one"), ("two", "{cwd}/two"), ('"/run/x.ctl"', "/run/x.ctl")],
    "pidfile": [("a.pid", "{cwd}/a.pid"), ("/b.pid", "/b.pid"), ('"c.pid"', "{cwd}/c.pid")],
    "proc_name": [("a", "a"), ("b", "b"), ('"c"', "c")],
    "max_crashes": [("1", 1), ("2", 2), ("3", 3)],
    "crash_window": [("1", 1.0), ("2m", 120.0), ("3.5", 3.5)],
    "max_requests": [("0", 0), ("1000", 1000), ("7", 7)],
    "max_requests_jitter": [("0", 0), ("50", 50), ("7", 7)],
    "max_memory": [("0", 0), ("512M", 512 << 20), ('"1GiB"', 1 << 30)],
    "max_lifetime": [("0", 0.0), ("1d", 86400.0), ('"12h"', 43200.0)],
    "reload_check": [("/a", "/a"), ("http://b/", "http://b/"), ('"/c"', "/c")],
    "reload_soak": [("0", 0.0), ("10", 10.0), ("2.5", 2.5)],
    "keep_previous": [("0", 0.0), ("10m", 600.0), ('"1h"', 3600.0)],
    "max_surge": [("2", "2"), ("50%", "50%"), ('"25%"', "25%")],
    "max_unavailable": [("1", "1"), ("30%", "30%"), ('"25%"', "25%")],
    "timeout": [("0", 0.0), ("2m", 120.0), ('"500ms"', 0.5)],
    "request_deadline": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "graceful_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "drain_delay": [("0", 0.0), ("500ms", 0.5), ("0.25", 0.25)],
    "boot_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "header_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "body_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "write_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    "keep_alive": [("0", 0.0), ("2", 2.0), ("3", 3.0)],
    "keepalive_linger": [("0", 0.0), ("2", 2.0), ("3", 3.0)],
    "handoff_timeout": [("0", 0.0), ("2", 2.0), ("3", 3.0)],
    "hook_timeout": [("1", 1.0), ("2", 2.0), ("3", 3.0)],
    **{
        event: [("a:b", ["a:b"]), ("a.b:c,d:e.f", ["a.b:c", "d:e.f"]), ('["a:b", "c:d"]', ["a:b", "c:d"])]
        for event in lifecycle.EVENTS
    },
    "limit_connections": [("1", 1), ("2", 2), ("3000", 3000)],
    "limit_request_line": [("1K", 1024), ("2000", 2000), ("3000", 3000)],
    "limit_request_fields": [("1", 1), ("2", 2), ("256", 256)],
    "limit_request_field_size": [("1K", 1024), ("2000", 2000), ('"3KiB"', 3072)],
    "limit_request_head": [("1M", 1 << 20), ("20K", 20480), ("10000", 10000)],
    "permit_raw_target": [("yes", True), ("off", False), ("true", True)],
    "limit_request_body": [("0", 0), ("1G", 1 << 30), ('"64MiB"', 64 << 20)],
    "body_buffer": [("1M", 1 << 20), ("4K", 4096), ("5000", 5000)],
    "response_buffer": [("2M", 2 << 20), ("64K", 65536), ("20000", 20000)],
    "response_spool": [("2M", 2 << 20), ("1G", 1 << 30), ("1048577", 1048577)],
    "buffer_memory": [("1M", 1 << 20), ("2M", 2 << 20), ("3000000", 3000000)],
    "body_min_rate": [("0", 0), ("1K", 1024), ("300", 300)],
    "response_min_rate": [("0", 0), ("1K", 1024), ("300", 300)],
    "spool_limit": [("3G", 3 << 30), ("2T", 2 << 40), ("5000000000", 5000000000)],
    "spool_dir": [("one", "{cwd}/one"), ("two", "{cwd}/two"), ('"three"', "{cwd}/three")],
    "access_logfile": [("-", "-"), ("a.log", "{cwd}/a.log"), ('"/b.log"', "/b.log")],
    "access_logformat": [("json", "json"), ("combined", "combined"), ('"%(h)s"', "%(h)s")],
    "error_logfile": [("-", "-"), ("a.log", "{cwd}/a.log"), ('"/b.log"', "/b.log")],
    "log_level": [("debug", "debug"), ("WARNING", "warning"), ('"error"', "error")],
}


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A working directory with three folders, seen by root."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    return str(tmp_path)


def write(cwd: str, text: str, name: str = config.FILE) -> None:
    Path(cwd, name).write_text(text, encoding="utf-8")


def in_place(value: Any, cwd: str) -> Any:
    if isinstance(value, list):
        return [in_place(part, cwd) for part in value]
    return value.replace("{cwd}", cwd) if isinstance(value, str) else value


def failure(kind: type[PyserveError], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(kind) as caught:
        load(*args, **kwargs)
    assert "\n" not in caught.value.message
    return caught.value.message


# ---------------------------------------------------------------------------------------------------- precedence


def test_every_setting_has_samples() -> None:
    assert set(SAMPLES) == {setting.name for setting in SETTINGS}


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_each_source_is_read_and_the_stronger_wins(setting: Any, cwd: str) -> None:
    (cli_text, cli_value), (variable_text, variable_value), (toml_text, toml_value) = SAMPLES[setting.name]
    cli = {**CLI, setting.name: cli_text}
    environ = {setting.variable_name: variable_text} if setting.variable else {}
    # A chdir of the environment or the command line is where the file is looked for.
    folders = [cwd, f"{cwd}/one", f"{cwd}/two"] if setting.name == "chdir" else [cwd]
    plain = {} if setting.name == "app" else CLI

    def given(cli: dict[str, str], environ: dict[str, str]) -> tuple[Any, str]:
        found = load(cli, environ, cwd, need_app=False)
        return getattr(found, setting.name), found.origin[setting.name]

    assert given(plain, {})[1] == "default"
    for folder in folders:
        write(folder, f"\n{setting.name} = {toml_text}\n")
    assert given(plain, {}) == (in_place(toml_value, cwd), "pyserve.toml line 2")
    if setting.variable:
        assert given(plain, environ) == (in_place(variable_value, cwd), setting.variable_name)
    assert given(cli, environ) == (in_place(cli_value, cwd), setting.flag)


def test_repeated_options_add_up_and_replace_the_weaker_list(cwd: str) -> None:
    found = load({**CLI, "bind": ["a:1", "b:2,c:3"], "env": ["A=1", "B=2"]}, {"PYSERVE_BIND": "d:4"}, cwd)
    assert found.bind == ["a:1", "b:2", "c:3"]
    assert found.env == ["A=1", "B=2"]


def test_an_empty_variable_says_nothing(cwd: str) -> None:
    found = load(CLI, {"PYSERVE_TIMEOUT": "", "PORT": "", "WEB_CONCURRENCY": ""}, cwd)
    assert (found.timeout, found.origin["timeout"]) == (30.0, "default")
    assert (found.bind, found.origin["bind"]) == (["127.0.0.1:8000"], "default")
    assert found.origin["workers"] == "default"


def test_an_empty_text_turns_off_what_a_file_turned_on(cwd: str) -> None:
    write(cwd, 'access_logfile = "-"')
    assert load({**CLI, "access_logfile": ""}, {}, cwd).access_logfile is None


# ------------------------------------------------------------------------------------------- defaults and platforms


def test_defaults(cwd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable", lambda: 3)
    found = load(CLI, {}, cwd)
    assert found.workers == 3
    assert found.chdir == cwd
    assert found.proc_name == "shop:app"
    assert found.spool_dir == "/tmp"
    assert found.bind == ["127.0.0.1:8000"]
    assert found.warnings == []
    assert set(found.origin.values()) == {"default", "APP"}


def test_more_cpus_than_workers_can_be(cwd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable", lambda: 1000)
    assert load(CLI, {}, cwd).workers == 512


def test_platform_variables_are_below_the_file(cwd: str) -> None:
    environ = {"PORT": "5000", "WEB_CONCURRENCY": "7", "TMPDIR": f"{cwd}/one", "RUNTIME_DIRECTORY": "/run/a:/run/b"}
    found = load(CLI, environ, cwd)
    assert (found.bind, found.origin["bind"]) == (["0.0.0.0:5000"], "PORT")
    assert (found.workers, found.origin["workers"]) == (7, "WEB_CONCURRENCY")
    assert found.control_socket == "/run/a/pyserve.ctl"
    assert load({**CLI, "control_socket": ""}, environ, cwd).control_socket is None
    assert (found.spool_dir, found.origin["spool_dir"], found.spool_dir_given) == (f"{cwd}/one", "TMPDIR", "")
    found = load({**CLI, "spool_dir": ""}, environ, cwd)
    assert (found.spool_dir, found.spool_dir_given) == ("/tmp", "")
    found = load(CLI, {"TMPDIR": "/nowhere"}, cwd)  # whoever will use it says so
    assert (found.spool_dir, found.spool_dir_given) == ("/nowhere", "")
    write(cwd, 'bind = "a:1"\nworkers = 2\nspool_dir = "two"')
    found = load(CLI, environ, cwd)
    assert (found.bind, found.workers, found.spool_dir) == (["a:1"], 2, f"{cwd}/two")
    assert found.spool_dir_given == "pyserve.toml line 3"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"WEB_CONCURRENCY": "many"}, 'WEB_CONCURRENCY="many": expected a whole number'),
        ({"WEB_CONCURRENCY": "0"}, 'WEB_CONCURRENCY="0": must be 1 to 512'),
        ({"PORT": "99999"}, 'PORT="99999": must be 0 to 65535: 99999'),
        ({"PYSERVE_WORKERS": "four"}, 'PYSERVE_WORKERS="four": expected a whole number'),
        ({"PYSERVE_PRELOAD": "maybe"}, 'PYSERVE_PRELOAD="maybe": expected auto, always or never'),
        ({"PYSERVE_LOG_LEVEL": "loud"}, 'PYSERVE_LOG_LEVEL="loud": expected debug, info, warning, error or critical'),
    ],
)
def test_bad_variables(environ: dict[str, str], message: str, cwd: str) -> None:
    assert failure(ConfigError, CLI, environ, cwd) == message


def test_unknown_variables_are_warned_of(cwd: str) -> None:
    environ = {"PYSERVE_WORKER": "4", "PYSERVE_ZZZ": "1", "GUNICORN_CMD_ARGS": "-w 4", "WORKERS": "4"}
    assert load(CLI, environ, cwd).warnings == [
        "PYSERVE_WORKER is set but is no setting, did you mean PYSERVE_WORKERS?",
        "PYSERVE_ZZZ is set but is no setting",
        "GUNICORN_CMD_ARGS is set but pyserve does not read it",
    ]


def test_a_file_of_gunicorns_is_warned_of(cwd: str) -> None:
    Path(cwd, "gunicorn.conf.py").touch()
    assert load(CLI, {}, cwd).warnings == [
        "gunicorn.conf.py is there but pyserve does not read it; its settings go into pyserve.toml"
    ]


# --------------------------------------------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("cli", "message"),
    [
        ({"workers": "four"}, '--workers "four": expected a whole number'),
        ({"timeout": "-1"}, '--timeout "-1": must be 0 to 7d'),
        ({"bind": ["a:1", "8000"]},
         '--bind "8000": write 127.0.0.1:8000 (this machine only) or 0.0.0.0:8000 (all interfaces)'),
        ({"limit_request_field_size": "1"}, '--limit-request-field-size "1": must be 64 to 1MiB'),
        ({"user": "no-such-person"}, '--user "no-such-person": no such user on this machine'),
        ({"env": ["A"]}, '--env "A": expected NAME=VALUE'),
    ],
)  # fmt: skip
def test_bad_options(cli: dict[str, Any], message: str, cwd: str) -> None:
    assert failure(UsageError, {**CLI, **cli}, {}, cwd) == message


def test_no_application(cwd: str) -> None:
    message = "no application given, say which: pyserve MODULE:ATTRIBUTE (such as pyserve myapp:app)"
    assert failure(UsageError, {}, {}, cwd) == message
    write(cwd, 'app = "shop:app"')
    assert load({}, {}, cwd).app == "shop:app"
    assert load({}, {"PYSERVE_APP": "other:app"}, cwd).app == "other:app"


# ------------------------------------------------------------------------------------------------------------ file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('workers = 4\nworker = 5', 'pyserve.toml line 2: no setting is called "worker", did you mean "workers"?'),
        ('keep-alive = 5', 'pyserve.toml line 1: no setting is called "keep-alive", did you mean "keep_alive"?'),
        ('colour = 5', 'pyserve.toml line 1: no setting is called "colour"'),
        ('errorlog = "-"', 'pyserve.toml line 1: no setting is called "errorlog", did you mean "error_logfile"?'),
        ('proxy_protocol = 5', 'pyserve.toml line 1: proxy_protocol is not available in this version'),
        ('workers = "4"', 'pyserve.toml line 1: workers = "4": expected a whole number, without quotes'),
        ('workers = true', 'pyserve.toml line 1: workers = true: expected a whole number'),
        ('workers = 0', 'pyserve.toml line 1: workers = 0: must be 1 to 512'),
        ('graceful_timeout = 0', 'pyserve.toml line 1: graceful_timeout = 0: must be more than 0'),
        ('timeout = nan', 'pyserve.toml line 1: timeout = nan: must be 0 to 7d'),
        ('umask = 18', 'pyserve.toml line 1: umask = 18: expected an octal mode such as "022", in quotes'),
        ('# bind\nbind = [\n  "a:1",\n  8000,\n]\nworkers = 1',
         "pyserve.toml line 2: bind = ['a:1', 8000]: expected an address to listen on, in quotes"),
        ('proc_name = """\nworker = 1\n"""\nworker = 2',
         'pyserve.toml line 4: no setting is called "worker", did you mean "workers"?'),
        ('[env]\nA = 1',
         "pyserve.toml line 1: env = {'A': 1}: expected texts, in quotes, as the values of the variables"),
        ('[server]\nworkers = 1', 'pyserve.toml line 1: no setting is called "server", did you mean "user"?'),
        ('workers = 4\nworkers 5', "pyserve.toml line 2: not valid TOML: Expected '=' after a key in a key/value pair"),
        ('workers = 4\nworkers = 5', "pyserve.toml line 2: not valid TOML: Cannot overwrite a value"),
        ('bind = [', 'pyserve.toml line 1: not valid TOML: Invalid value'),
    ],
)  # fmt: skip
def test_bad_files(text: str, message: str, cwd: str) -> None:
    write(cwd, text)
    assert failure(ConfigError, CLI, {}, cwd) == message


def test_a_file_that_is_not_utf8(cwd: str) -> None:
    Path(cwd, config.FILE).write_bytes(b"app = '\xff'")
    assert failure(ConfigError, CLI, {}, cwd) == "pyserve.toml: not valid TOML: not UTF-8"


def test_a_file_with_a_byte_order_mark_and_windows_line_ends(cwd: str) -> None:
    Path(cwd, config.FILE).write_bytes(b"\xef\xbb\xbf# ours\r\nworkers = 2\r\n")
    found = load(CLI, {}, cwd)
    assert (found.workers, found.origin["workers"]) == (2, "pyserve.toml line 2")


@pytest.mark.parametrize("name", ["pyserve.toml", "pyproject.toml"])
@pytest.mark.parametrize("what", ["pipe", "device", "huge"])
def test_what_lies_in_the_folder_holds_up_nobody(name: str, what: str, cwd: str) -> None:
    """At a reload the master once waited for ever for somebody to write into a pipe of that name."""
    path = Path(cwd, name)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 1 << 40)
    why = "larger than 1 MiB" if what == "huge" else "not a regular file"
    assert failure(ConfigError, CLI, {}, cwd) == f"{name}: {why}"


def test_a_file_that_cannot_be_read(cwd: str) -> None:
    Path(cwd, config.FILE).mkdir()
    assert failure(ConfigError, CLI, {}, cwd) == "pyserve.toml: cannot be read: Is a directory"


def test_the_table_of_pyproject(cwd: str) -> None:
    write(cwd, '[project]\nname = "shop"\n\n[tool.pyserve]\nworkers = 2\n', config.PROJECT_FILE)
    found = load(CLI, {}, cwd)
    assert (found.workers, found.origin["workers"]) == (2, "pyproject.toml line 5")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tool.pyserve.workers = 2", 1),
        ("[tool]\npyserve.workers = 2", 2),
        ("[tool]\npyserve = { timeout = 1, workers = 2 }", 2),
        ("[[tool.other]]\nworkers = 1\n[tool.pyserve] # ours\n\nworkers = 2", 5),
        ("[tool.other]\nx = [\n  '[tool.pyserve]',\n  'workers = 1',\n]\n[tool.pyserve]\nworkers = 2", 7),
    ],
)
def test_every_spelling_of_the_table_has_its_line(text: str, line: int, cwd: str) -> None:
    write(cwd, text, config.PROJECT_FILE)
    found = load(CLI, {}, cwd)
    assert (found.workers, found.origin["workers"]) == (2, f"pyproject.toml line {line}")


def test_pyproject_without_our_table(cwd: str) -> None:
    write(cwd, '[project]\ndependencies = ["pyserve"]\n', config.PROJECT_FILE)
    assert set(load(CLI, {}, cwd).origin.values()) == {"default", "APP"}


def test_someone_elses_broken_pyproject_is_not_read(cwd: str) -> None:
    write(cwd, "not TOML", config.PROJECT_FILE)
    assert set(load(CLI, {}, cwd).origin.values()) == {"default", "APP"}


def test_a_table_that_is_none(cwd: str) -> None:
    write(cwd, "[tool]\npyserve = 3\n", config.PROJECT_FILE)
    assert failure(ConfigError, CLI, {}, cwd) == "pyproject.toml: tool.pyserve must be a table, [tool.pyserve]"


def test_our_own_file_goes_before_pyproject(cwd: str) -> None:
    write(cwd, "workers = 1")
    write(cwd, "[tool.pyserve]\nworkers = 2\n", config.PROJECT_FILE)
    found = load(CLI, {}, cwd)
    assert found.workers == 1
    assert found.warnings == ["pyserve.toml is used, [tool.pyserve] of pyproject.toml is not"]


def test_the_file_is_looked_for_in_chdir(cwd: str) -> None:
    write(f"{cwd}/one", "workers = 2")
    write(cwd, "workers = 1")
    found = load({**CLI, "chdir": "one"}, {}, cwd)
    assert (found.workers, found.origin["workers"]) == (2, "one/pyserve.toml line 1")


def test_a_chosen_file(cwd: str) -> None:
    write(cwd, "workers = 1")
    write(f"{cwd}/one", 'workers = 2\nchdir = "two"\npidfile = "x.pid"', "other.toml")
    found = load({**CLI, "config": "one/other.toml"}, {}, cwd)
    assert (found.workers, found.origin["workers"]) == (2, "one/other.toml line 1")
    assert found.pidfile == f"{cwd}/two/x.pid"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("nowhere.toml", "nowhere.toml: no such file"),
        ("one", "one: cannot be read: Is a directory"),
        ("gunicorn.conf.py",
         "gunicorn.conf.py: configuration files are TOML here, not Python (docs/settings.md lists the keys)"),
        ("python:conf",
         "python:conf: configuration files are TOML here, not Python (docs/settings.md lists the keys)"),
        ("two/pyproject.toml", "two/pyproject.toml has no table [tool.pyserve]"),
    ],
)  # fmt: skip
def test_a_bad_chosen_file(file: str, message: str, cwd: str) -> None:
    write(f"{cwd}/two", "[project]\n", config.PROJECT_FILE)
    assert failure(ConfigError, {**CLI, "config": file}, {}, cwd) == message


# ---------------------------------------------------------------------------------------------------- contradictions

NOTHING_MOVES = ": no worker could ever be replaced, one of them must be more"
FIELD_SIZE = "limit_request_field_size = 1MiB (--limit-request-field-size)"


@pytest.mark.parametrize(
    ("cli", "message"),
    [
        ({"response_spool": "512K"},
         "response_spool = 512KiB (--response-spool) is less than response_buffer = 1MiB (default)"),
        ({"limit_request_head": "4K"},
         "limit_request_head = 4KiB (--limit-request-head) is less than limit_request_line = 8190 (default)"),
        ({"limit_request_head": "10000", "limit_request_field_size": "1M"},
         f"limit_request_head = 10000 (--limit-request-head) is less than {FIELD_SIZE}"),
        ({"drain_delay": "30"}, "drain_delay = 30s (--drain-delay) is not less than graceful_timeout = 30s (default), which it is a part of"),
        ({"bind": ["a:1", "a:1"]}, "a:1 is given twice (--bind)"),
        ({"bind": ["unix:/x", "unix:///x"]}, "unix:/x is given twice (--bind)"),
        ({"bind": [":80", "127.0.0.1:80"]}, "0.0.0.0:80 and 127.0.0.1:80 are the same port of one interface (--bind)"),
        ({"bind": ["[::1]:80", "[::]:80"]}, "[::1]:80 and [::]:80 are the same port of one interface (--bind)"),
        ({"max_surge": "0"}, f"max_surge = 0 (--max-surge) and max_unavailable = 0 (default){NOTHING_MOVES}"),
        ({"max_surge": "0%", "max_unavailable": "0"},
         f"max_surge = 0% (--max-surge) and max_unavailable = 0 (--max-unavailable){NOTHING_MOVES}"),
        ({"chdir": "nowhere"}, "chdir = {cwd}/nowhere (--chdir): no such directory"),
        ({"spool_dir": "nowhere"}, "spool_dir = {cwd}/nowhere (--spool-dir): no such directory"),
    ],
)  # fmt: skip
def test_contradictions(cli: dict[str, Any], message: str, cwd: str) -> None:
    assert failure(ConfigError, {**CLI, **cli}, {}, cwd) == in_place(message, cwd)


def test_binds_that_go_together(cwd: str) -> None:
    binds = ["127.0.0.1:0", "127.0.0.1:0", ":80", "[::]:80", "127.0.0.1:81", "unix:/x", "unix:@y", "fd://3"]
    assert load({**CLI, "bind": binds}, {}, cwd).bind == [*binds[:2], "0.0.0.0:80", *binds[3:]]


def test_unknown_worker_class(cwd: str) -> None:
    message = failure(ConfigError, {**CLI, "worker_class": "magic"}, {}, cwd)
    assert message.startswith("worker_class = magic (--worker-class) is not installed, there is: ")
    assert "sync, threads" in message


@pytest.mark.parametrize(
    ("cli", "worker_class", "origin"),
    [
        ({}, "sync", "default"),
        ({"threads": "1"}, "sync", "default"),
        ({"threads": "2"}, "threads", "--threads"),
        ({"threads": "4", "worker_class": "sync"}, "threads", "--threads"),
        ({"worker_class": "gthread"}, "threads", "--worker-class"),
        ({"worker_class": "threads", "threads": "1"}, "threads", "--worker-class"),
    ],
)
def test_what_gunicorn_users_type_for_threads(cli: dict[str, str], worker_class: str, origin: str, cwd: str) -> None:
    found = load({**CLI, **cli}, {}, cwd)
    assert (found.worker_class, found.origin["worker_class"]) == (worker_class, origin)


@pytest.mark.parametrize("name", ["user", "group"])
def test_only_root_can_become_someone_else(name: str, cwd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [2000])
    expected = f"{name} = 0 (--{name}): only root can change the {name}, and pyserve does not run as root"
    assert failure(ConfigError, {**CLI, name: "0"}, {}, cwd) == expected
    assert getattr(load({**CLI, name: "1000"}, {}, cwd), name) == "1000"


def test_settings_that_act_on_nothing_are_warned_of(cwd: str) -> None:
    found = load({**CLI, "access_logformat": "json", "socket_mode": "600"}, {}, cwd)
    assert found.warnings == [
        "access_logformat = json (--access-logformat) does nothing: access_logfile is not set",
        "socket_mode = 600 (--socket-mode) does nothing: no unix socket at a path is bound",
    ]
    assert load({**CLI, "max_requests_jitter": "9"}, {}, cwd).warnings == [
        "max_requests_jitter = 9 (--max-requests-jitter) does nothing: max_requests is not set"
    ]
    assert load({**CLI, "access_logformat": "json", "access_logfile": "-"}, {}, cwd).warnings == []
    assert load({**CLI, "socket_mode": "600", "bind": "unix:/x"}, {}, cwd).warnings == []


def test_the_table_of_orders_names_settings() -> None:
    names = {setting.name for setting in SETTINGS}
    assert {name for pair in contradictions.AT_LEAST for name in pair} <= names


# ------------------------------------------------------------------------------------------------- the Config object


def test_a_config_does_not_change(cwd: str) -> None:
    found = load(CLI, {}, cwd)
    with pytest.raises(AttributeError, match="a Config does not change: workers"):
        found.workers = 3
    with pytest.raises(AttributeError, match="a Config does not change: workers"):
        del found.workers


def test_the_values_travel_as_json(cwd: str) -> None:
    found = load({**CLI, "bind": ["a:1"], "umask": "022"}, {"PYSERVE_TIMEOUT": "5"}, cwd)
    values = json.loads(json.dumps(found.values()))
    assert values == {name: getattr(found, name) for name in SAMPLES}


def test_the_rest_of_the_environment_is_not_kept(cwd: str) -> None:
    found = load(CLI, {"PYSERVE_TIMEOUT": "5", "PORT": "1", "SECRET": "x"}, cwd)
    assert found.sources.environ == {"PYSERVE_TIMEOUT": "5", "PORT": "1"}


def test_equal_when_made_of_the_same(cwd: str) -> None:
    assert load(CLI, {}, cwd) == load(CLI, {}, cwd)
    assert load(CLI, {}, cwd) != load({**CLI, "workers": "3"}, {}, cwd)


def test_repr_shows_what_was_given(cwd: str) -> None:
    assert repr(load({**CLI, "workers": "3"}, {}, cwd)) == "Config(app='shop:app', workers=3)"


# ------------------------------------------------------------------------------------------------------------ reload


def test_reload_reads_the_file_again_and_nothing_else(cwd: str) -> None:
    environ = {"PYSERVE_TIMEOUT": "5"}
    write(cwd, "workers = 1")
    before = load({**CLI, "backlog": "7"}, environ, cwd)
    environ["PYSERVE_TIMEOUT"] = "6"
    write(cwd, "workers = 2\nbacklog = 8")
    after = reload(before)
    assert (after.workers, after.backlog, after.timeout) == (2, 7, 5.0)
    assert before.workers == 1


def test_reload_finds_a_new_file_and_misses_an_old_one(cwd: str) -> None:
    before = load(CLI, {}, cwd)
    write(cwd, "threads = 8")
    after = reload(before)
    assert after.threads == 8
    Path(cwd, config.FILE).unlink()
    assert reload(after) == before


def test_reload_keeps_what_only_a_restart_can_change(cwd: str) -> None:
    before = load({**CLI, "access_logfile": "log"}, {}, cwd)
    write(cwd, "backlog = 8\nmax_crashes = 9")
    after = reload(before)
    assert (after.backlog, after.max_crashes) == (2048, 5)
    assert after.origin["backlog"] == "default"
    assert after.warnings == [
        "backlog = 8 (pyserve.toml line 1) needs a restart of pyserve; until then it stays 2048",
        "max_crashes = 9 (pyserve.toml line 2) needs a restart of pyserve; until then it stays 5",
    ]


def test_reload_refuses_a_bad_file(cwd: str) -> None:
    before = load(CLI, {}, cwd)
    write(cwd, "worker = 8")
    with pytest.raises(ConfigError, match=r"pyserve\.toml line 1: no setting is called"):
        reload(before)


def test_reload_refuses_to_lose_the_application(cwd: str) -> None:
    write(cwd, 'app = "a:b"')
    before = load({}, {}, cwd)
    write(cwd, "")
    with pytest.raises(ConfigError) as caught:
        reload(before)
    assert caught.value.message == "no application given any more: app is gone from the configuration file"


def test_more_connections_than_descriptors_is_worth_a_warning(cwd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyserve.system.linux.descriptor_limits", lambda: (1024, 4096))
    assert load(CLI, {}, cwd).limit_connections == 1952
    assert load({**CLI, "limit_connections": "1952"}, {}, cwd).warnings == []
    (warning,) = load({**CLI, "limit_connections": "5000"}, {}, cwd).warnings
    assert warning.startswith(
        "limit_connections = 5000 (--limit-connections) may need 10192 descriptors, and a worker may open 4096: "
    )
    monkeypatch.setattr("pyserve.system.linux.descriptor_limits", lambda: (1024, 1 << 30))
    assert load(CLI, {}, cwd).limit_connections == 32672
    assert load({**CLI, "limit_connections": "500000"}, {}, cwd).warnings == []
