"""The pages: what can be checked of them is, so that a change of the code that makes one wrong is noticed."""

from __future__ import annotations

import ast
import inspect
import re
import signal
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import pyserve
from pyserve.app import lifecycle
from pyserve.config import gunicorn_habits
from pyserve.config.settings import BY_NAME, FIXED, GIB, KIB, MIB, SETTINGS
from pyserve.control import runalone
from pyserve.control.commands import COMMANDS
from pyserve.control.control import parse
from pyserve.control.controlclient import UnavailableError
from pyserve.control.ctl import FAILED, cli
from pyserve.errors import ExitCode
from pyserve.ipc.scoreboard import OFFSETS
from pyserve.master.master import SIGNALS

ROOT = Path(__file__).parents[2]
ROOTS = (ROOT / "server" / "pyserve", ROOT / "workers" / "pyserve_workers")
FOLDERS = (".", "docs", "benchmarks", "deploy", "examples/*", "tests")
GENERATED = ROOT / "docs" / "settings.md"  # its sentences are those of the table, one a line
PAGES = sorted(page for folder in FOLDERS for page in ROOT.glob(f"{folder}/*.md"))
WRITTEN = [page for page in PAGES if page != GENERATED]
LONGEST = 120  # characters of a line of prose
README_LINES = 100

UNITS = {"s": 1, "bytes/s": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB}
# Words in backticks that look like a setting's name, and options of others.
OTHERS = {
    *("before_request", "close_ok", "in_app", "limit_conn", "memfd_create", "proxy_next_upstream", "pthread_atfork"),
    *("request_line", "start_response", "takes_over", "tmp_path"),
}
OTHER_OPTIONS = {
    *("--check-config", "--config", "--help", "--print-config", "--version"),  # of pyserve, and no settings
    *("--as-installed", "--data-binary", "--kill-whom", "--lazy-apps", "--signal", "--strict", "--upgrade"),
}
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(
    r"(?<![\w./<-])((?:[\w.-]+/)+[\w.-]+\.(?:py|pyx|pxd|h|c|md|toml|sh|service|socket|conf|cfg|txt))\b"
)
MADE_LATER = ("build/", "benchmarks/results/", "benchmarks/.venv/", "tests/apps/NAME")
SENDS_503 = re.compile(r'fault\(503|HTTP/1\.1 503|"503 Service Unavailable"')


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What is under a heading of the second level."""
    assert f"\n## {heading}\n" in text
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    lines = section(text, heading).partition("\n|")[2].partition("\n\n")[0].splitlines()
    return [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines[2:]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def sources() -> Iterator[Path]:
    for root in ROOTS:
        for kind in ("py", "pyx"):
            yield from sorted(root.glob(f"**/*.{kind}"))


def identify(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# Their form.


def prose(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are neither code, nor a table's, nor a link and nothing else."""
    fenced = listed = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        listed = bool(re.match(r" *([*-]|\d+\.) ", line)) or (listed and (line.startswith(" ") or not line))
        code = fenced or (line.startswith("    ") and not listed)
        if not code and not line.startswith("|") and not re.fullmatch(r"\W*\[.*\]\(\S+\)\W*", line):
            yield number, line


@pytest.mark.parametrize("path", WRITTEN, ids=identify)
def test_a_line_of_prose_is_not_too_long(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [(number, line) for number, line in prose(text) if len(line) > LONGEST] == []


def test_the_readme_is_a_page_and_a_half() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    for words in ("make serve", "make test", "pyserve myapp:wsgi --workers 4", "Flask", "Django", "pyserve.service"):
        assert words in text


# What they point to.


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            found = (path.parent / name).resolve() if name else path
            assert found.exists(), target
            assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("path", PAGES, ids=identify)
def test_files_that_are_named_are_there(path: Path) -> None:
    text = re.sub(r"\w+://\S+|/(?:srv|etc|run|proc|var)/\S+", "", path.read_text(encoding="utf-8"))
    for name in NAMED_FILE.findall(text):
        if not name.startswith((*MADE_LATER, "..")) and "*" not in name:
            assert any((base / name).exists() for base in (ROOT, path.parent, *ROOTS, ROOT / "tests")), name
    natives = {source.name for root in ROOTS for source in root.glob("**/*")}
    for name in re.findall(r"`(\w+\.(?:pyx|pxd|h))`", text):
        assert name in natives, name


def test_a_hup_passes_six_functions() -> None:
    steps = re.findall(r"^\d\. `([\w./]+)`, `([\w.]+)`", section(page("design.md"), "Follow a HUP"), re.MULTILINE)
    assert len(steps) == 6
    for path, name in steps:
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        for part in name.split("."):
            found = [node for node in body if getattr(node, "name", None) == part]
            assert found, f"{path} has no {name}"
            body = getattr(found[0], "body", [])


# What they say about settings.


@pytest.mark.parametrize("path", WRITTEN, ids=identify)
def test_settings_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    known = {*BY_NAME, *inspect.signature(pyserve.exclusive).parameters, *OTHERS}
    assert set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", FENCE.sub("", text))) - known == set()
    tables = re.findall(r"^```toml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    keys = {
        key for table in tables if "[" not in table.splitlines()[0][:1] for key in re.findall(r"(?m)^(\w+) =", table)
    }
    assert keys - BY_NAME.keys() == set()
    variables = {f"{row.variable_name}" for row in SETTINGS}
    assert (
        set(re.findall(r"PYSERVE_[A-Z_]*[A-Z]\b", text))
        - variables
        - {"PYSERVE_CHAOS_SEED", "PYSERVE_FUZZ_SEED", "PYSERVE_FAILPOINTS"}
        == set()
    )


def test_options_that_are_named_exist() -> None:
    known = (
        {flag for row in SETTINGS for flag in (*row.flags, *row.switches)}
        | OTHER_OPTIONS
        | set(gunicorn_habits.IGNORED)
    )
    assert isinstance(cli, click.Group)
    for each in (cli, *cli.commands.values()):
        known |= {option for parameter in each.params for option in parameter.opts}
    for path in WRITTEN:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", path.read_text(encoding="utf-8")))
        assert named - known == set(), path.name


@pytest.mark.parametrize("path", WRITTEN, ids=identify)
def test_defaults_are_those_of_the_table(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, value, unit in re.findall(r"`(\w+)`\s\(([\d.]+) (s|bytes/s|[KMG]iB)\)", text):
        assert name not in BY_NAME or BY_NAME[name].default == float(value) * UNITS[unit], name
    for pair in re.findall(r"\| `(\w+)` \+ `(\w+)` \((\d+) \+ (\d+) s\)", text):
        assert [BY_NAME[name].default for name in pair[:2]] == [float(value) for value in pair[2:]], pair


def test_the_samples_have_the_times_that_their_page_says() -> None:
    deploy = ROOT / "deploy"
    samples = "".join(path.read_text(encoding="utf-8") for path in deploy.glob("**/*") if path.is_file())
    named = re.findall(r"`([Tt][a-z]+[A-Z]\w+)` \((\d+) s", (deploy / "README.md").read_text(encoding="utf-8"))
    assert {name for name, _ in named} == {"TimeoutStartSec", "TimeoutStopSec", "terminationGracePeriodSeconds"}
    for name, seconds in named:
        assert re.search(rf"\b{name}(=|: ){seconds}\n", samples), name


def test_what_only_a_restart_changes() -> None:
    assert set(quoted(section(page("reload.md"), "What only a restart changes"))) == set(FIXED)


def test_the_arguments_of_exclusive() -> None:
    told = {quoted(row[0])[0]: row[1].strip('`"') for row in rows(page("maintenance.md"), "A request that runs alone")}
    parameters = inspect.signature(pyserve.exclusive).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in defaults.items()}
    assert told == shown | {"timeout": "none"}


def test_the_options_of_a_command_that_runs_alone() -> None:
    told = {quoted(row[0])[0].split()[0]: row[1] for row in rows(page("maintenance.md"), "A command that runs alone")}
    assert isinstance(cli, click.Group)
    options = [each for each in cli.commands["exclusive"].params if isinstance(each, click.Option)]
    assert told == {each.opts[0]: "off" if each.is_flag else f"{each.default:g}" for each in options}


# What they say about signals, commands and codes.


def test_the_table_of_signals() -> None:
    told = {name for row in rows(page("reload.md"), "Signals") for name in row[0].split(", ")}
    assert told == {signal.Signals(number).name.removeprefix("SIG") for number in SIGNALS} - {"CHLD"}


def test_the_commands_of_the_control_socket() -> None:
    requests = [quoted(row[0])[0].encode() for row in rows(page("control.md"), "For programs")]
    assert [parse(request)[0] for request in requests] == list(COMMANDS)


def test_every_command_of_pyservectl_is_told_of() -> None:
    assert isinstance(cli, click.Group)
    for name in cli.commands:
        assert f"pyservectl {name}" in page("control.md"), name


def test_the_exit_codes() -> None:
    told = [int(row[0]) for row in rows(page("troubleshooting.md"), "Exit codes")]
    assert told == sorted(code for name, code in vars(ExitCode).items() if name.isupper())
    told = [int(row[0]) for row in rows(page("control.md"), "Exit codes")]
    usage = click.UsageError.exit_code
    assert told == [ExitCode.OK, FAILED, usage, UnavailableError.exit_code, runalone.REFUSED]


def test_every_hook_is_told_of() -> None:
    told = [quoted(row[0])[0].partition("(")[0] for row in rows(page("lifecycle.md"), "Which hook")]
    assert told == list(lifecycle.EVENTS)


def test_the_atoms_of_the_access_log() -> None:
    native = import_module("pyserve_workers.native.accesslog")
    told = {atom for row in rows(page("logging.md"), "The access log") for atom in re.findall(r"%\((\w)\)s", row[0])}
    assert told == set(native.ATOMS)
    kinds = {kind for row in rows(page("logging.md"), "The access log") for kind in re.findall(r"}(\w)\)s", row[0])}
    assert kinds == set(native.NAMED)


def test_what_the_master_writes_to_the_scoreboard() -> None:
    (told,) = re.findall(r"so does the master: ([^;]*), and it clears", " ".join(page("design.md").split()))
    written = {
        name
        for source in ROOTS[0].glob("**/*.py")
        for name in re.findall(r'\.set\("(\w+)", ', re.sub("``.*?``", "", source.read_text(encoding="utf-8")))
    }
    assert set(quoted(told)) == written & OFFSETS.keys()


# What they say about answers.


def test_every_status_of_the_server_itself_is_told_of() -> None:
    told = {
        int(code)
        for row in rows(page("troubleshooting.md"), "Other answers of the server itself")
        for code in row[0].split(", ")
    }
    assert told | {503} == set(import_module("pyserve_workers.native.response").PHRASES)


def test_every_503_is_in_the_table() -> None:
    named = {
        name
        for row in rows(page("troubleshooting.md"), "What a 503 means")
        for name in re.findall(r"\(`([\w/.]+)`\)", row[1])
    }
    senders = {source for source in sources() if SENDS_503.search(source.read_text(encoding="utf-8"))}
    # The responder's words are its own; the gatekeeper makes an answer of them.
    senders.add(ROOTS[1] / "programs" / "responder.py")
    assert {
        source for source in sources() if source.as_posix().endswith(tuple(f"/{name}" for name in named))
    } == senders


def test_the_503s_are_told_in_their_own_words() -> None:
    text = "".join(source.read_text(encoding="utf-8") for source in sources())
    text = re.sub(r'"\s*\n\s*(?:else )?b?f?"', "", text).lower()
    for row in rows(page("troubleshooting.md"), "What a 503 means"):
        for words in [*re.findall(r'"([^"]+)"', row[0]), *quoted(row[4])]:
            for piece in re.split("…|refused with 503:", words.lower()):
                assert piece.strip().rstrip(".") in text, words


def test_what_refused_clients_are_told_of_the_time() -> None:
    """Where it is always the same."""
    for row in rows(page("troubleshooting.md"), "What a 503 means"):
        if row[2].isdecimal():
            (name,) = re.findall(r"\(`([\w/.]+)`\)", row[1])
            (sender,) = (source for source in sources() if source.as_posix().endswith(f"/{name}"))
            told = re.findall(r"(?:Retry-After: |RETRY_AFTER = )(\d+)", sender.read_text(encoding="utf-8"))
            assert told == [row[2]], name
