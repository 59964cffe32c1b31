"""The configuration of one run: every setting's value and where it came from.

Precedence: command line, PYSERVE_* environment, configuration file, what the platform sets (PORT, WEB_CONCURRENCY,
TMPDIR), default. Reading has no effects; the caller changes directory, user and so on.
"""

from __future__ import annotations

import os
import stat

from pyserve.config import addresses, arguments, contradictions
from pyserve.config.given import Given, Sources
from pyserve.config.kinds import quoted
from pyserve.config.settings import BY_NAME, FIXED, MOST_WORKERS, SETTINGS, Setting
from pyserve.config.suggest import did_you_mean, nearest
from pyserve.errors import ConfigError, PyserveError, UsageError
from pyserve.system import descriptors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

FILE = "pyserve.toml"
PROJECT_FILE = "pyproject.toml"
PROJECT_TABLE = ("tool", "pyserve")
PREFIX = "PYSERVE_"
GUNICORN_VARIABLE = "GUNICORN_CMD_ARGS"
GUNICORN_FILE = "gunicorn.conf.py"  # which it reads without being told to
FILE_LIMIT = 1 << 20  # bytes
DEFAULT = "default"


class Config:
    """A frozen set of settings, one attribute each, as pyserve.config.settings.SETTINGS names them.

    Paths are absolute and chdir is always set. ``origin`` says where each value came from, ``warnings`` holds lines for
    the log.
    """

    __slots__ = (*BY_NAME, "file", "origin", "sources", "warnings")

    app: str
    chdir: str
    pythonpath: list[str]
    env: list[str]
    exclusive: list[str]
    preload: str
    bind: list[str]
    backlog: int
    socket_mode: int
    forwarded_allow_ips: str
    workers: int
    worker_class: str
    threads: int
    worker_connections: int
    user: str | None
    group: str | None
    umask: int | None
    pidfile: str | None
    control_socket: str | None
    proc_name: str
    max_crashes: int
    crash_window: float
    max_requests: int
    max_requests_jitter: int
    max_memory: int
    max_lifetime: float
    reload_check: str | None
    reload_soak: float
    keep_previous: float
    max_surge: str
    max_unavailable: str
    timeout: float
    request_deadline: float
    graceful_timeout: float
    drain_delay: float
    boot_timeout: float
    header_timeout: float
    body_timeout: float
    write_timeout: float
    keep_alive: float
    keepalive_linger: float
    handoff_timeout: float
    hook_timeout: float
    on_app_loaded: list[str]
    before_fork: list[str]
    after_fork: list[str]
    on_init: list[str]
    on_bootstrap: list[str]
    on_destroy: list[str]
    before_shutdown: list[str]
    on_shutdown: list[str]
    limit_connections: int
    limit_request_line: int
    limit_request_fields: int
    limit_request_field_size: int
    limit_request_head: int
    permit_raw_target: bool
    limit_request_body: int
    body_buffer: int
    response_buffer: int
    response_spool: int
    buffer_memory: int
    body_min_rate: int
    response_min_rate: int
    spool_limit: int
    spool_dir: str
    access_logfile: str | None
    access_logformat: str
    error_logfile: str
    log_level: str
    origin: dict[str, str]
    sources: Sources
    warnings: list[str]
    file: str  # the path of the configuration file that was read; empty if none says anything

    def __init__(
        self, values: Mapping[str, Any], origin: dict[str, str], sources: Sources, warnings: list[str], file: str
    ) -> None:
        for name in BY_NAME:
            object.__setattr__(self, name, values[name])
        object.__setattr__(self, "origin", origin)
        object.__setattr__(self, "sources", sources)
        object.__setattr__(self, "warnings", warnings)
        object.__setattr__(self, "file", file)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Config does not change: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Config does not change: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and (self.values(), self.origin) == (other.values(), other.origin)

    __hash__ = None  # type: ignore[assignment]  # it holds lists

    def __repr__(self) -> str:
        given = (f"{name}={getattr(self, name)!r}" for name, origin in self.origin.items() if origin != DEFAULT)
        return f"Config({', '.join(given)})"

    def carried(self) -> dict[str, Any]:
        return {
            "values": self.values(),
            "origin": self.origin,
            "sources": self.sources._asdict(),
            "warnings": self.warnings,
            "file": self.file,
        }

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Config:
        """Settings that the version before did not have get their defaults, ones that are gone are left out."""
        sources = Sources(**record["sources"])
        values, origin = record["values"], record["origin"]
        given = {name: Given(values.get(name, row.default), origin.get(name, DEFAULT)) for name, row in BY_NAME.items()}
        complete(given, sources.cwd)
        return cls(
            {name: entry.value for name, entry in given.items()},
            {name: entry.origin for name, entry in given.items()},
            sources,
            record["warnings"],
            record["file"],
        )

    @property
    def spool_dir_given(self) -> str:
        """Where somebody has said what it is; empty if nobody has."""
        origin = self.origin["spool_dir"]
        return origin if BY_NAME["spool_dir"].is_given(origin) else ""

    def values(self) -> dict[str, Any]:
        """Every setting's value by name; JSON-able, for other processes."""
        return {name: getattr(self, name) for name in BY_NAME}


def load(cli: Mapping[str, Any], environ: Mapping[str, str], cwd: str, *, need_app: bool = True) -> Config:
    """The configuration of a command line, an environment and the file found in the working directory.

    cli: setting → text (list of texts for those that repeat), and "config" → the file of -c; cwd: absolute.
    Raises UsageError (the command line is wrong) or ConfigError (something else is).
    """
    options = {name: value for name, value in cli.items() if name != "config"}
    others = {GUNICORN_VARIABLE, *(setting.platform[0] for setting in SETTINGS if setting.platform)}
    relevant = {name: text for name, text in environ.items() if name.startswith(PREFIX) or name in others}
    config = resolve(Sources(options, relevant, cwd, cli.get("config")))
    if need_app and not config.app:
        raise UsageError("no application given, say which: pyserve MODULE:ATTRIBUTE (such as pyserve myapp:app)")
    if need_app:
        check_trust(config, config)
    return config


def reload(config: Config) -> Config:
    """The configuration as it is now: the file is looked for and read anew, command line and environment stay, and so
    do the settings that only a restart can change.

    Raises ConfigError if it is wrong or names no application any more.
    """
    fresh = resolve(config.sources)
    if config.app and not fresh.app:
        raise ConfigError("no application given any more: app is gone from the configuration file")
    check_trust(fresh, config)
    check_trust(fresh, fresh)
    return pinned(fresh, config)


def pinned(fresh: Config, in_force: Config) -> Config:
    """``fresh`` with what only a restart can change as it is in force, and a warning for each such setting that it
    would change."""
    values, origin, warnings = fresh.values(), dict(fresh.origin), list(fresh.warnings)
    for name in FIXED:
        kept, show = getattr(in_force, name), BY_NAME[name].kind.show
        if values[name] != kept:
            now = f"{name} = {show(values[name])} ({origin[name]})"
            warnings.append(f"{now} needs a restart of pyserve; until then it stays {show(kept)}")
            values[name], origin[name] = kept, in_force.origin[name]
    return Config(values, origin, fresh.sources, warnings, fresh.file)


def check_trust(fresh: Config, workers: Config) -> None:
    """Raise ConfigError if a root master cannot take a configuration while its workers run as another one's user."""
    if workers.user is not None and os.geteuid() == 0:
        from pyserve.config import trust

        logs = (fresh.error_logfile, fresh.access_logfile)
        trust.check(fresh.file, logs, workers.user, workers.group)


def resolve(sources: Sources) -> Config:
    """The configuration that the sources make together."""
    warnings: list[str] = []
    commands = from_command_line(sources.cli, warnings)
    variables = from_environment(sources.environ, warnings)
    early = commands.get("chdir") or variables.get("chdir")
    folder = early.value if early and early.value else ""
    from_it, file = from_file(sources, folder, warnings)
    given = {**from_it, **variables, **commands}
    for setting in SETTINGS:
        if setting.name not in given:
            given[setting.name] = from_platform(setting, sources.environ) or Given(setting.default, DEFAULT)
    complete(given, sources.cwd)
    contradictions.check(given)
    here = [name for name in (GUNICORN_FILE, FILE) if os.path.exists(os.path.join(sources.cwd, name))]
    if here == [GUNICORN_FILE] and not sources.file:
        warnings.append(f"{GUNICORN_FILE} is there but pyserve does not read it; its settings go into {FILE}")
    warnings += contradictions.warnings(given)
    values = {name: entry.value for name, entry in given.items()}
    return Config(values, {name: given[name].origin for name in BY_NAME}, sources, warnings, file)


def from_command_line(cli: Mapping[str, Any], warnings: list[str]) -> dict[str, Given]:
    """What the options say. Repeated ones add up."""
    given = {}
    for name, raw in cli.items():
        if name == arguments.IGNORED:
            warnings += [f"{flag} does nothing: {arguments.ignored(flag)}" for flag in raw]
            continue
        setting = BY_NAME[name]
        texts = raw if isinstance(raw, list) else [raw]
        values = [convert(setting.kind.from_text, text, f"{setting.flag} {quoted(text)}", UsageError) for text in texts]
        value = [item for part in values for item in part] if setting.kind.many else values[-1]
        given[name] = Given(value, setting.flag)
    return given


def from_environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Given]:
    """What PYSERVE_* variables say; an empty one says nothing. Unknown ones are worth a warning, not an error:
    they may be meant for another version."""
    known = {setting.variable_name: setting for setting in SETTINGS if setting.variable}
    given = {}
    for variable, text in environ.items():
        if variable in known:
            if text:
                setting = known[variable]
                value = convert(setting.kind.from_text, text, f"{variable}={quoted(text)}", ConfigError)
                given[setting.name] = Given(value, variable)
        elif variable.startswith(PREFIX):
            match = nearest(variable.removeprefix(PREFIX), (name.removeprefix(PREFIX) for name in known))
            hint = f", did you mean {PREFIX}{match}?" if match else ""
            warnings.append(f"{variable} is set but is no setting{hint}")
        elif variable == GUNICORN_VARIABLE:
            warnings.append(f"{variable} is set but pyserve does not read it")
    return given


def from_platform(setting: Setting, environ: Mapping[str, str]) -> Given | None:
    """What a hosting platform's own variable says."""
    if setting.platform is None or not environ.get(setting.platform[0]):
        return None
    variable, meaning = setting.platform
    text = environ[variable]
    meant = meaning.format(text, first=text.partition(":")[0])
    return Given(convert(setting.kind.from_text, meant, f"{variable}={quoted(text)}"), variable)


def from_file(sources: Sources, folder: str, warnings: list[str]) -> tuple[dict[str, Given], str]:
    """What the configuration file says, the one of -c or the one found in the working directory, and its path; the path
    is empty if it says nothing."""
    shown, content = find_file(sources, folder, warnings)
    given = {}
    for key, (raw, line) in content.items():
        where = f"{shown} line {line}"
        if key not in BY_NAME and (why := arguments.ignored("--" + key.replace("_", "-"))):
            warnings.append(f"{where}: {key} does nothing: {why}")
            continue
        if key not in BY_NAME:
            raise ConfigError(f"{where}: {unknown_key(key)}")
        given[key] = Given(convert(BY_NAME[key].kind.from_toml, raw, f"{where}: {key} = {quoted(raw)}"), where)
    return given, os.path.join(sources.cwd, shown) if given else ""


def unknown_key(key: str) -> str:
    """The line for a key of the file that is no setting."""
    from pyserve.config import gunicorn_habits

    habit = gunicorn_habits.OPTIONS.get("--" + key.replace("_", "-"))
    if habit:
        return f"{key} is {habit}"
    if key in gunicorn_habits.KEYS:
        return f'no setting is called "{key}", did you mean "{gunicorn_habits.KEYS[key]}"?'
    return f'no setting is called "{key}"{did_you_mean(key, BY_NAME)}'


def find_file(sources: Sources, folder: str, warnings: list[str]) -> tuple[str, dict[str, tuple[Any, int]]]:
    """The file's name as messages show it, and its settings: key → (value, line)."""
    if sources.file is not None:
        return sources.file, chosen_file(sources.file, sources.cwd)
    shown = os.path.join(folder, FILE)
    project = os.path.join(folder, PROJECT_FILE)
    own_text = read_text(os.path.join(sources.cwd, shown), shown, found=True)
    project_text = read_text(os.path.join(sources.cwd, project), project, found=True)
    if own_text is not None:
        if project_text and "[tool.pyserve" in project_text:
            warnings.append(f"{shown} is used, [tool.pyserve] of {project} is not")
        return shown, parse(own_text, shown) or {}
    if project_text and "pyserve" in project_text:  # most projects have the file, few a table for us: spare the parser
        return project, parse(project_text, project, PROJECT_TABLE) or {}
    return shown, {}


def chosen_file(file: str, cwd: str) -> dict[str, tuple[Any, int]]:
    """The settings of the file that -c names, which must exist."""
    if file.endswith(".py") or file.startswith("python:"):
        raise ConfigError(f"{file}: configuration files are TOML here, not Python (docs/settings.md lists the keys)")
    text = read_text(os.path.join(cwd, file), file) or ""
    if os.path.basename(file) != PROJECT_FILE:
        return parse(text, file) or {}
    content = parse(text, file, PROJECT_TABLE)
    if content is None:
        raise ConfigError(f"{file} has no table [tool.pyserve]")
    return content


def parse(text: str, shown: str, table: tuple[str, ...] = ()) -> dict[str, tuple[Any, int]] | None:
    from pyserve.config import tomlfile

    return tomlfile.read(text, shown, table)


def read_text(path: str, shown: str, found: bool = False) -> str | None:
    """The text of a file.

    found: nobody named it; it is looked for where others may write. None if it does not exist, and it must be a file: a
    pipe would hold up the master.
    """
    try:
        with open(path, "rb", opener=open_now if found else None) as file:
            if found and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{shown}: not a regular file")
            content = file.read(FILE_LIMIT + 1)
            if len(content) > FILE_LIMIT:
                raise ConfigError(f"{shown}: larger than {FILE_LIMIT >> 20} MiB")
            return content.decode("utf-8-sig")
    except FileNotFoundError:
        if found:
            return None
        raise ConfigError(f"{shown}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{shown}: not valid TOML: not UTF-8") from None


def open_now(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def convert(read: Callable[[Any], Any], raw: Any, where: str, failure: type[PyserveError] = ConfigError) -> Any:
    """The value of what was given, or one line that says who gave what and what was expected."""
    try:
        return read(raw)
    except ValueError as error:
        raise failure(f"{where}: {error}") from None


def complete(given: dict[str, Given], cwd: str) -> None:
    """Fill in what can only be known at start, and make relative paths absolute."""
    folder = os.path.join(cwd, given["chdir"].value or "")
    folder = folder.rstrip("/") or "/"  # not normalised: "current/.." must be followed, not shortened
    if not given["spool_dir"].value:
        given["spool_dir"] = Given("/tmp", DEFAULT)
    found = {
        "chdir": folder,
        "proc_name": given["proc_name"].value or given["app"].value,
        "bind": [absolute_bind(folder, text) for text in given["bind"].value],
        "pythonpath": [os.path.join(folder, path) for path in given["pythonpath"].value],
    }
    if given["workers"].value is None:
        from pyserve.system import cpus

        found["workers"] = min(cpus.usable(), MOST_WORKERS)
    if given["max_requests_jitter"].value is None:
        found["max_requests_jitter"] = given["max_requests"].value // 10
    if given["limit_connections"].value is None:
        found["limit_connections"] = descriptors.enough_for(descriptors.allowed())
    for name in ("pidfile", "control_socket", "spool_dir", "access_logfile", "error_logfile"):
        path = found.get(name, given[name].value)
        found[name] = path if path in (None, "-") else os.path.join(folder, path)
    for name, value in found.items():
        given[name] = given[name]._replace(value=value)
    given["worker_class"] = worker_class(given)


def worker_class(given: dict[str, Given]) -> Given:
    """gunicorn's rules: gthread is the class with threads, and so is sync with more than one of them."""
    chosen, threads = given["worker_class"], given["threads"]
    if chosen.value == "gthread":
        return chosen._replace(value="threads")
    if chosen.value == "sync" and threads.value > 1:
        return Given("threads", threads.origin)
    return chosen


def absolute_bind(folder: str, text: str) -> str:
    address = addresses.parse(text)
    if address.kind != "unix" or addresses.is_abstract(address.path):
        return text
    return str(address._replace(path=os.path.join(folder, address.path)))
