"""The command line, as typed: what is understood, and the one line that tells what is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pyserve import __version__, cli
from pyserve.config import arguments, gunicorn_habits
from pyserve.config.config import Config
from pyserve.config.settings import SECTIONS, SETTINGS
from pyserve.errors import AppError, UsageError


class FakeMaster(ModuleType):
    """Stands for pyserve.launch, and keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__("pyserve.launch")
        self.served: list[tuple[Config, Callable[[], Config]]] = []
        self.checked: list[Config] = []
        self.failure: Exception | None = None

    def serve(self, config: Config, reload_config: Callable[[], Config]) -> int:
        if self.failure:
            raise self.failure
        self.served.append((config, reload_config))
        return 70

    def check(self, config: Config) -> None:
        if self.failure:
            raise self.failure
        self.checked.append(config)


@pytest.fixture
def master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMaster:
    for name in list(os.environ):
        if name.startswith("PYSERVE_") or name in ("PORT", "WEB_CONCURRENCY", "TMPDIR", "GUNICORN_CMD_ARGS"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    fake = FakeMaster()
    monkeypatch.setitem(sys.modules, "pyserve.launch", fake)
    monkeypatch.setattr("pyserve.launch", fake, raising=False)
    return fake


# ----------------------------------------------------------------------------------------------------------- serving


@pytest.mark.parametrize(
    "line",
    [
        "shop:wsgi -b 0.0.0.0:8000 -w 4 -k sync -t 60 --access-logfile -",
        "-b 0.0.0.0:8000 -w 4 shop:wsgi -k sync -t 60 --access-logfile=-",
        "--bind=0.0.0.0:8000 --workers=4 --worker-class=sync --timeout=60 --access-logfile - -- shop:wsgi",
        "-b0.0.0.0:8000 -w4 -ksync -t60 shop:wsgi --access-logfile -",
    ],
)
def test_the_habits_of_gunicorn(line: str, master: FakeMaster) -> None:
    assert cli.main(line.split()) == 70
    [(found, _)] = master.served
    assert found.app == "shop:wsgi"
    assert (found.bind, found.workers, found.worker_class) == (["0.0.0.0:8000"], 4, "sync")
    assert (found.timeout, found.access_logfile) == (60.0, "-")


def test_arguments_of_the_process_are_the_default(master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pyserve", "shop:wsgi"])
    assert cli.main() == 70
    assert master.served[0][0].app == "shop:wsgi"


def test_the_reload_that_the_master_gets(master: FakeMaster, tmp_path: Path) -> None:
    cli.main(["shop:wsgi", "-w", "3"])
    [(_, reload_config)] = master.served
    (tmp_path / "pyserve.toml").write_text("timeout = 7")
    fresh = reload_config()
    assert (fresh.workers, fresh.timeout) == (3, 7.0)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ([], "preload", "auto"),
        (["--preload"], "preload", "always"),
        (["--no-preload"], "preload", "never"),
        (["--preload", "--no-preload"], "preload", "never"),
        ([], "permit_raw_target", False),
        (["--permit-raw-target"], "permit_raw_target", True),
        (["--permit-raw-target", "--no-permit-raw-target"], "permit_raw_target", False),
        (["-w", "1", "-w", "2"], "workers", 2),
        (["-b", "a:1", "--bind", "b:2"], "bind", ["a:1", "b:2"]),
        (["-e", "A=1", "--env", "B=2,3"], "env", ["A=1", "B=2,3"]),
        (["--limit-request-field_size", "100"], "limit_request_field_size", 100),
        (["--limit-request-field-size", "100"], "limit_request_field_size", 100),
        (["--log-file", "-"], "error_logfile", "-"),
        (["--access-logformat", "--%(h)s"], "access_logformat", "--%(h)s"),
    ],
)
def test_options(words: list[str], name: str, value: object, master: FakeMaster) -> None:
    assert cli.main(["shop:wsgi", *words]) == 70
    assert getattr(master.served[0][0], name) == value


# ------------------------------------------------------------------------------------------------------------ errors

NO_TLS = "not available in this version; let a proxy such as nginx or HAProxy speak TLS"


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("", 2, "no application given, say which: pyserve MODULE:ATTRIBUTE (such as pyserve myapp:app)"),
        ("--check-config", 2, "no application given, say which: pyserve MODULE:ATTRIBUTE (such as pyserve myapp:app)"),
        ("a:b --worker 3", 2, "no such option: --worker, did you mean --workers?"),
        ("a:b --acess-logfile -", 2, "no such option: --acess-logfile, did you mean --access-logfile?"),
        ("a:b --limit_request_line 100", 2, "no such option: --limit_request_line, did you mean --limit-request-line?"),
        ("a:b --colour", 2, "no such option: --colour, see pyserve --help"),
        ("a:b -x", 2, "no such option: -x, see pyserve --help"),
        ("a:b --no-sendfile", 2, "--no-sendfile is not available in this version"),
        ("a:b --statsd-host=a:1", 2, "--statsd-host is not available in this version"),
        ("a:b --certfile x", 2, f"--certfile is {NO_TLS}"),
        ("a:b -D", 2,
         "-D is not available: run pyserve under systemd or a container runtime, which need it in the foreground"),
        ("a:b --reload", 2, "--reload is not available in this version; send SIGHUP to load changed code"),
        ("a:b c:d", 2, "got unexpected extra argument (c:d)"),
        ("a:b --workers", 2, "option '--workers' requires an argument"),
        ("a:b --bind --workers 4", 2, "option '--bind' requires an argument"),
        ("a:b --preload=yes", 2, "option '--preload' does not take a value"),
        ("a:b -w four", 2, '--workers "four": expected a whole number'),
        ("a:b -t -1", 2, '--timeout "-1": must be 0 to 7d'),
        ("a:b --print-config --check-config", 2, "--print-config and --check-config cannot be given together"),
        ("a:b -c nowhere.toml", 78, "nowhere.toml: no such file"),
        ("a:b --response-spool 16K", 78,
         "response_spool = 16KiB (--response-spool) is less than response_buffer = 1MiB (default)"),
        ("a:b --chdir /nowhere --print-config", 78, "chdir = /nowhere (--chdir): no such directory"),
    ],
)  # fmt: skip
def test_errors(line: str, code: int, message: str, master: FakeMaster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == code
    assert capsys.readouterr() == ("", f"pyserve: {message}\n")
    assert master.served == []


def test_details_follow_the_line(master: FakeMaster, capsys: pytest.CaptureFixture[str]) -> None:
    master.failure = AppError(
        "the app cannot be imported: no module named shop", "Traceback ...\nModuleNotFoundError\n"
    )
    assert cli.main(["shop:app"]) == 4
    assert capsys.readouterr().err == (
        "pyserve: the app cannot be imported: no module named shop\nTraceback ...\nModuleNotFoundError\n"
    )


def test_what_gunicorn_has_is_either_here_or_told_of() -> None:
    ours = {flag for setting in SETTINGS for flag in setting.flags}
    assert not ours & set(gunicorn_habits.OPTIONS)
    assert set(gunicorn_habits.KEYS.values()) <= {setting.name for setting in SETTINGS}
    for flag, words in gunicorn_habits.OPTIONS.items():
        assert words.startswith("not available"), flag


@pytest.mark.parametrize("flag", sorted(gunicorn_habits.OPTIONS))
def test_no_flag_of_gunicorn_is_ignored(flag: str) -> None:
    with pytest.raises(UsageError) as caught:
        arguments.read(["a:b", flag])
    assert caught.value.message == f"{flag} is {gunicorn_habits.OPTIONS[flag]}"


@pytest.mark.parametrize(
    ("line", "given", "mode"),
    [
        ("", {}, "serve"),
        ("-w4 -b :80 -b=:81 a:b", {"workers": "4", "bind": [":80", "=:81"], "app": "a:b"}, "serve"),
        ("--bind= --timeout=5=6", {"bind": [""], "timeout": "5=6"}, "serve"),
        ("-- -odd:app", {"app": "-odd:app"}, "serve"),
        ("- -c x --config=y", {"app": "-", "config": "y"}, "serve"),
        ("a:b -t -1", {"app": "a:b", "timeout": "-1"}, "serve"),
        ("a:b --print-config", {"app": "a:b"}, "print"),
        ("--check-config a:b --check-config", {"app": "a:b"}, "check"),
        ("--print-config --check-config --version", {}, "version"),
        ("--version -h", {}, "help"),
        (
            "a:b --worker-tmp-dir /dev/shm --worker-tmp-dir=/",
            {"app": "a:b", "ignored": ["--worker-tmp-dir"] * 2},
            "serve",
        ),
    ],
)
def test_lines(line: str, given: dict[str, object], mode: str) -> None:
    assert arguments.read(line.split()) == (given, mode)


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.flags], ids=lambda row: row.name)
def test_every_option_is_read_in_each_form(setting: Any) -> None:
    for flag in setting.flags:
        text = setting.switches.get(flag, "x")
        value = [text] if setting.kind.many else text
        forms = [[flag]] if setting.switches else [[flag, "x"], [f"{flag}=x" if flag.startswith("--") else f"{flag}x"]]
        for form in forms:
            assert arguments.read(form) == ({setting.name: value}, "serve")


def test_an_option_that_does_nothing_is_told_of(master: FakeMaster, tmp_path: Path) -> None:
    (tmp_path / "pyserve.toml").write_text('worker_tmp_dir = "/dev/shm"\n')
    assert cli.main(["shop:wsgi", "--worker-tmp-dir", "/dev/shm"]) == 70
    why = "does nothing: workers need no such file; large bodies wait in files in spool_dir (--spool-dir)"
    [(config, _)] = master.served
    assert config.spool_dir == "/tmp"
    assert config.warnings == [f"--worker-tmp-dir {why}", f"pyserve.toml line 1: worker_tmp_dir {why}"]


# --------------------------------------------------------------------------------------- help, version, print, check


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str, master: FakeMaster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Usage: pyserve [OPTIONS] APP\n")
    assert max(len(line) for line in text.splitlines()) <= 80
    places = [text.index(f"\n{section}:\n") for section in (*SECTIONS, "Command")]
    assert places == sorted(places)
    assert "Processes:\n  -w, --workers N " in text
    words = " ".join(text.split())
    for setting in SETTINGS:
        assert setting.variable_name in words
        for option in setting.flags:
            assert f" {option}" in words
        if setting.flags:
            assert f"[default: {setting.default_shown}{';' if setting.variable else ']'}" in words


def test_version(master: FakeMaster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pyserve {__version__}\n"


def test_print_config(
    master: FakeMaster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyserve.toml").write_text('# ours\ntimeout = "2m"\nlimit_request_body = "64MiB"\n')
    monkeypatch.setenv("PYSERVE_KEEP_ALIVE", "5")
    monkeypatch.setenv("PYSERVE_WORKER", "5")
    assert cli.main(["--print-config", "-w", "3", "-b", ":80", "-b", "unix:/run/" + "x" * 60]) == 0
    out, err = capsys.readouterr()
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in out.splitlines()}
    assert list(rows) == [setting.name for setting in SETTINGS]
    assert rows["app"] == ["none", "default"]
    assert rows["proc_name"] == ["none", "default"]
    assert rows["workers"] == ["3", "--workers"]
    assert rows["bind"] == ["0.0.0.0:80,unix:/run/" + "x" * 60, "--bind"]
    assert rows["timeout"] == ["120s", "pyserve.toml line 2"]
    assert rows["limit_request_body"] == ["64MiB", "pyserve.toml line 3"]
    assert rows["keep_alive"] == ["5s", "PYSERVE_KEEP_ALIVE"]
    assert rows["chdir"] == [str(tmp_path), "default"]
    assert err == "pyserve: warning: PYSERVE_WORKER is set but is no setting, did you mean PYSERVE_WORKERS?\n"
    assert master.served == []


def test_check_config(master: FakeMaster, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["shop:app", "--check-config", "-w", "3"]) == 0
    assert capsys.readouterr().out == "configuration and app are fine\n"
    assert [found.workers for found in master.checked] == [3]
    assert master.served == []


def test_check_config_with_a_broken_app(master: FakeMaster, capsys: pytest.CaptureFixture[str]) -> None:
    master.failure = AppError("no module named shop")
    assert cli.main(["shop:app", "--check-config"]) == 4
    assert capsys.readouterr() == ("", "pyserve: no module named shop\n")


# ---------------------------------------------------------------------------------------------------- real processes


def command(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYSERVE_")}
    return subprocess.run(
        [sys.executable, "-m", "pyserve", *words], cwd=cwd, env={**environ, **variables}, capture_output=True, text=True
    )


def test_a_real_print_config(tmp_path: Path) -> None:
    result = command("--print-config", "shop:app", cwd=tmp_path, PYSERVE_WORKERS="2")
    assert (result.returncode, result.stderr) == (0, "")
    assert ["workers", "2", "PYSERVE_WORKERS"] in [line.split() for line in result.stdout.splitlines()]


def test_a_real_mistake(tmp_path: Path) -> None:
    (tmp_path / "pyserve.toml").write_text("worker = 4\n")
    result = command("shop:app", cwd=tmp_path)
    assert result.returncode == 78
    assert result.stderr == 'pyserve: pyserve.toml line 1: no setting is called "worker", did you mean "workers"?\n'


def test_a_reader_who_leaves_early(tmp_path: Path) -> None:
    script = f"{sys.executable} -m pyserve --print-config | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_plain_start_imports_little(tmp_path: Path) -> None:
    """Each of these takes 3 to 30 ms, which every start would pay."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    heavy = {
        "click", "tomllib", "difflib", "json", "logging", "typing", "dataclasses", "enum", "re", "inspect", "ipaddress",
        "importlib.metadata", "traceback", "tempfile", "subprocess",
    }  # fmt: skip
    program = (
        "import sys, os\n"
        "before = set(sys.modules)\n"
        "from pyserve import cli\nfrom pyserve.config import arguments, config\n"
        "given, _ = arguments.read(['shop:app', '-w', '4', '-b', ':8000', '-t', '60'])\n"
        "config.load(given, os.environ, os.getcwd())\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pyserve.config.config" in result.stdout.split()
    assert heavy.isdisjoint(result.stdout.split())
