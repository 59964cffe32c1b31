"""The settings: one table from which everything else derives.

Command line options, ``PYSERVE_*`` variables, keys of pyserve.toml, validation, ``--help``, ``--print-config`` and
docs/settings.md are all made from SETTINGS. To add a setting, add a row here and its attribute to ``config.Config``.

A row's help says what the setting does, in which unit, and when to change it. Options are spelled as in gunicorn; the
first long one is the name that messages use.
"""

from __future__ import annotations

from collections import namedtuple

from pyserve.config.kinds import (
    Account,
    Bind,
    CheckURL,
    Choice,
    Function,
    Kind,
    LogFile,
    Many,
    Mode,
    Networks,
    Optional,
    Path,
    Request,
    Seconds,
    Share,
    Size,
    SocketFile,
    Switch,
    Variables,
    Whole,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NamedTuple

    class _Row(NamedTuple):
        name: str
        section: str
        flags: tuple[str, ...]
        kind: Kind
        default: Any
        help: str
        default_text: str = ""
        platform: tuple[str, str] | None = None
        variable: bool = True
        fixed: bool = False
else:
    _Row = namedtuple(
        "_Row",
        "name section flags kind default help default_text platform variable fixed",
        defaults=("", None, True, False),
    )

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
MOST_WORKERS = 512  # slots of the scoreboard
MOST_THREADS = 1024


class Setting(_Row):
    """One row of the table.

    name: TOML key and attribute of Config; flags: options of the command line (none: the positional argument);
    default: its value, None if it is found at start; default_text: how help describes such a default;
    platform: a variable that hosting platforms set, with the text it stands for ({}: its value; {first}: up to the
    first colon), used when nobody says otherwise;
    variable: is there a PYSERVE_* variable?
    fixed: the master acts on it once, at its start; a reload keeps the value in force, and says so.
    """

    __slots__ = ()

    def is_given(self, origin: str) -> bool:
        """Did a person say the value that has this origin?"""
        return origin not in ("default", self.platform[0] if self.platform else "")

    @property
    def flag(self) -> str:
        """The option's full name."""
        return next((flag for flag in self.flags if flag.startswith("--")), self.name.upper())

    @property
    def switches(self) -> dict[str, str]:
        """Options without a value, and what each stands for: ``{"--preload": "always", "--no-preload": "never"}``."""
        if self.kind.switch is None:
            return {}
        yes, no = self.kind.switch
        return {self.flag: yes, self.flag.replace("--", "--no-", 1): no}

    @property
    def variable_name(self) -> str:
        """The environment variable, or an empty text if there is none."""
        return f"PYSERVE_{self.name.upper()}" if self.variable else ""

    @property
    def default_shown(self) -> str:
        return self.default_text or self.kind.show(self.default)


SETTINGS = (
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "app", "Application", (), Optional(Kind()), None,
        'The application: MODULE:ATTRIBUTE, MODULE alone (its "app", "application" or "wsgi"), or a factory that is '
        'called once, as in \'shop:create_app("prod")\'.',
    ),
    Setting(
        "chdir", "Application", ("--chdir",), Optional(Path()), None,
        "Working directory of the application, and where other relative paths start. It is looked up again for each "
        "reload, so it may be a symbolic link to the current release.",
        default_text="where pyserve was started",
    ),
    Setting(
        "pythonpath", "Application", ("--pythonpath",), Many(Path(), empty=True), [],
        "Directories to import from before all others, with commas between. The working directory is always there.",
    ),
    Setting(
        "env", "Application", ("-e", "--env"), Variables(), [],
        "Set a variable in the application's environment; repeat for more. In TOML, a table does as well.",
        variable=False,
    ),
    Setting(
        "exclusive", "Application", ("--exclusive",), Many(Request(), empty=True), [],
        'Requests during which no other request runs, in any worker: a method and a path, as in "PUT /api/sync"; '
        "repeat for more. pyserve.exclusive, on a view, can say more about it.",
    ),
    Setting(
        "preload", "Application", ("--preload",), Choice(("auto", "always", "never"), yes="always", no="never"), "auto",
        "Import the application once and fork the workers from it, so that they share its memory and start at once. "
        "auto does so unless the import left something that must not be shared: threads, connections, child "
        "processes, exit callbacks and the like.",
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "bind", "Sockets", ("-b", "--bind"), Many(Bind()), ["127.0.0.1:8000"],
        "Address to listen on: HOST:PORT, [IPV6]:PORT, :PORT (all IPv4 interfaces), [::]:PORT (all interfaces, both IP "
        "versions unless another address names the port for IPv4), unix:PATH, unix:@NAME (in no folder: anybody on "
        "the machine may connect), or fd://N for a socket handed over by whoever started pyserve; repeat for more.",
        platform=("PORT", "0.0.0.0:{}"),
        fixed=True,
    ),
    Setting(
        "backlog", "Sockets", ("--backlog",), Whole(1, 65535), 2048,
        "Connections that may wait in the kernel for a worker. The kernel caps it at net.core.somaxconn.",
        fixed=True,
    ),
    Setting(
        "socket_mode", "Sockets", ("--socket-mode",), Mode(), 0o660,
        "Permissions of the unix sockets that pyserve makes, octal.",
        fixed=True,
    ),
    Setting(
        "forwarded_allow_ips", "Sockets", ("--forwarded-allow-ips",), Networks(), "127.0.0.1,::1",
        "Proxies whose X-Forwarded-* headers are believed: addresses and networks with commas between, or *. Clients "
        "of a unix socket always are. Change it when the proxy is another machine.",
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "workers", "Processes", ("-w", "--workers"), Whole(1, MOST_WORKERS), None,
        "Worker processes, each running one request at a time under the sync class. Raise it, or threads, when "
        "requests wait for databases or other services.",
        default_text="the CPUs this process may use",
        platform=("WEB_CONCURRENCY", "{}"),
    ),
    Setting(
        "worker_class", "Processes", ("-k", "--worker-class"), Kind(), "sync",
        "How a worker runs requests. sync: one at a time, or in threads if threads is more than 1. threads (also "
        "called gthread): in threads. gevent: each in a greenlet, thousands at once, for apps that wait for others "
        "(needs pyserve[gevent]). docs/workers.md helps to choose.",
    ),
    Setting(
        "threads", "Processes", ("--threads",), Whole(1, MOST_THREADS), 1,
        "Requests that one worker process may run at once, each in a thread of its own. More than 1 chooses the "
        "threads worker class unless another than sync is given. Raise it when requests wait for databases or other "
        "services.",
    ),
    Setting(
        "worker_connections", "Processes", ("--worker-connections",), Whole(1, 1_000_000), 1000,
        "Requests that may be in the application of one gevent worker at once; beyond it, connections wait in the "
        "kernel. Idle connections do not count.",
    ),
    Setting(
        "user", "Processes", ("-u", "--user"), Optional(Account("user")), None,
        "Run the workers as this user (name or number). Only root can.",
    ),
    Setting(
        "group", "Processes", ("-g", "--group"), Optional(Account("group")), None,
        "Run the workers as this group (name or number). Only root can.",
    ),
    Setting(
        "umask", "Processes", ("-m", "--umask"), Optional(Mode()), None,
        "Permission bits, octal, that files made by the application do not get.",
        default_text="inherited",
    ),
    Setting(
        "pidfile", "Processes", ("-p", "--pid"), Optional(Path()), None,
        "File to write the master's process id to. Not needed under systemd or in a container.",
        fixed=True,
    ),
    Setting(
        "control_socket", "Processes", ("--control-socket",), Optional(SocketFile()), None,
        "Unix socket on which pyservectl asks for status, reloads, scales, stops and more. Only root and the user that "
        "pyserve runs as may use it.",
        default_text="$RUNTIME_DIRECTORY/pyserve.ctl under systemd, otherwise none",
        platform=("RUNTIME_DIRECTORY", "{first}/pyserve.ctl"),
        fixed=True,
    ),
    Setting(
        "proc_name", "Processes", ("-n", "--name"), Optional(Kind()), None,
        "Name in the titles of the processes, to tell several servers apart in ps and top.",
        default_text="the application",
    ),
    Setting(
        "max_crashes", "Processes", ("--max-crashes",), Whole(1, 1000), 5,
        "Worker deaths within crash_window after which the service counts as broken.",
        fixed=True,
    ),
    Setting(
        "crash_window", "Processes", ("--crash-window",), Seconds(), 60.0,
        "The span, in seconds, in which max_crashes are counted.",
        fixed=True,
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "max_requests", "Recycling", ("--max-requests",), Whole(0, 1_000_000_000), 0,
        "Requests after which a worker is replaced by a fresh one, which serves before it leaves. The count is looked "
        "at once a second, so some more are answered. 0: no limit. Set it when the application leaks a little.",
    ),
    Setting(
        "max_requests_jitter", "Recycling", ("--max-requests-jitter",), Whole(0, 1_000_000_000), None,
        "Up to so many requests, at random, are added to max_requests for each worker: not all are then due at once.",
        default_text="a tenth of max_requests",
    ),
    Setting(
        "max_memory", "Recycling", ("--max-memory",), Size(0), 0,
        "Resident memory, in bytes, with which a worker is replaced by a fresh one, which serves before it leaves. "
        "Pages that workers share count for each. A worker that grows past twice as much within a request is killed at "
        "once. 0: no limit.",
    ),
    Setting(
        "max_lifetime", "Recycling", ("--max-lifetime",), Seconds(zero=True), 0.0,
        "Seconds after which a worker is replaced by a fresh one, which serves before it leaves; up to a tenth more, "
        "at random, so that not all are due at once. 0: no limit.",
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "reload_check", "Reload", ("--reload-check",), Optional(CheckURL()), None,
        "Page of the application that the first worker of a new generation must answer with 2xx or 3xx, within "
        "boot_timeout, before anything old is touched: a path, or http://HOST/PATH (or https) for an application that "
        "answers only to its name. It is asked inside the worker, not over the network.",
    ),
    Setting(
        "reload_soak", "Reload", ("--reload-soak",), Seconds(zero=True), 5.0,
        "Seconds for which a new generation is watched once all workers are of it. If two of its workers crash until "
        "then, the old code comes back by itself. A reload that is asked for meanwhile waits. 0: it is not watched.",
    ),
    Setting(
        "keep_previous", "Reload", ("--keep-previous",), Seconds(zero=True), 300.0,
        "Seconds for which the generation before stays loaded after a reload, so that pyservectl rollback brings it "
        "back at once. It takes the memory of one process. 0: it does not stay.",
    ),
    Setting(
        "max_surge", "Reload", ("--max-surge",), Share(MOST_WORKERS), "1",
        "Workers above their number that there may be while they are replaced: a number, or a percentage of workers, "
        "rounded up. Raise it for faster reloads; 0 where there is no memory for one more (then max_unavailable must "
        "be more than 0).",
    ),
    Setting(
        "max_unavailable", "Reload", ("--max-unavailable",), Share(MOST_WORKERS), "0",
        "Workers that may be missing while they are replaced: a number, or a percentage of workers, rounded down; at "
        "least one if max_surge is 0.",
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "timeout", "Timeouts", ("-t", "--timeout"), Seconds(zero=True), 30.0,
        "Seconds that one request may spend in the application without giving a part of its response; then it gets a "
        "504, or its response is cut, and its stack is logged. So streams live as long as they make progress, except "
        "with sync workers, where all of the request counts. 0: no limit. Raise it for slow reports and uploads to "
        "elsewhere.",
    ),
    Setting(
        "request_deadline", "Timeouts", ("--request-deadline",), Seconds(zero=True), 0.0,
        "Seconds that one request may spend in the application in all, whatever it gives meanwhile. 0: no limit beside "
        "timeout.",
    ),
    Setting(
        "graceful_timeout", "Timeouts", ("--graceful-timeout",), Seconds(), 30.0,
        "Seconds that running requests get to finish when pyserve stops or a worker is replaced; what still runs "
        "then is cut. Stay below the patience of whatever stops pyserve.",
    ),
    Setting(
        "drain_delay", "Timeouts", ("--drain-delay",), Seconds(zero=True), 0.0,
        "Seconds for which pyserve serves on after it was told to stop, no longer ready but accepting, while load "
        "balancers notice and send new clients elsewhere. They are a part of graceful_timeout. 0: stop accepting "
        "at once.",
    ),
    Setting(
        "boot_timeout", "Timeouts", ("--boot-timeout",), Seconds(), 60.0,
        "Seconds for importing the application and for a worker to become ready. Raise it for huge imports.",
    ),
    Setting(
        "header_timeout", "Timeouts", ("--header-timeout",), Seconds(), 10.0,
        "Seconds in which the head of a request must have arrived in full.",
    ),
    Setting(
        "body_timeout", "Timeouts", ("--body-timeout",), Seconds(), 30.0,
        "Seconds without a byte of the request's body after which the client is given up.",
    ),
    Setting(
        "write_timeout", "Timeouts", ("--write-timeout",), Seconds(), 30.0,
        "Seconds without the client taking a byte of the response after which it is given up.",
    ),
    Setting(
        "keep_alive", "Timeouts", ("--keep-alive",), Seconds(zero=True), 75.0,
        "Seconds that a connection may idle between requests. 0: close after each response. Keep it longer than the "
        "load balancer's own (usually 60), so that the balancer is the one who closes.",
    ),
    Setting(
        "keepalive_linger", "Timeouts", ("--keepalive-linger",), Seconds(zero=True), 5.0,
        "Seconds that idle connections stay open when a worker leaves, to answer a request already on its way.",
    ),
    Setting(
        "handoff_timeout", "Timeouts", ("--handoff-timeout",), Seconds(zero=True), 5.0,
        "Seconds for which a worker that leaves waits for others to take its idle connections over; then they end with "
        "it, after keepalive_linger. 0: they are never given to another worker.",
    ),
    Setting(
        "hook_timeout", "Timeouts", ("--hook-timeout",), Seconds(), 5.0,
        "Seconds that the application's stop hooks have of their own, beyond graceful_timeout, also when requests had "
        "to be cut.",
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "on_app_loaded", "Hooks", ("--on-app-loaded",), Many(Function(), empty=True), [],
        "Functions to call once per generation, after the application was imported; like all of these they come after "
        "those that the application has decorated itself. What each hook is for: docs/lifecycle.md.",
    ),
    Setting(
        "before_fork", "Hooks", ("--before-fork",), Many(Function(), empty=True), [],
        "Functions to call before each worker is forked from the imported application.",
    ),
    Setting(
        "after_fork", "Hooks", ("--after-fork",), Many(Function(), empty=True), [],
        "Functions to call in each worker, before all else.",
    ),
    Setting(
        "on_init", "Hooks", ("--on-init",), Many(Function(), empty=True), [],
        "Functions to call in each worker before it is ready: open pools, warm caches.",
    ),
    Setting(
        "on_bootstrap", "Hooks", ("--on-bootstrap",), Many(Function(), empty=True), [],
        "Functions to call in each worker just before it is ready, after all of on_init.",
    ),
    Setting(
        "on_destroy", "Hooks", ("--on-destroy",), Many(Function(), empty=True), [],
        "Functions to call, with the cause, in a worker that is told to stop: produce no new work.",
    ),
    Setting(
        "before_shutdown", "Hooks", ("--before-shutdown",), Many(Function(), empty=True), [],
        "Functions to call, with the cause, after all of on_destroy and before connections are closed.",
    ),
    Setting(
        "on_shutdown", "Hooks", ("--on-shutdown",), Many(Function(), empty=True), [],
        "Functions to call, with the cause, in a worker whose connections are closed: release resources.",
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "limit_connections", "Limits", ("--limit-connections",), Whole(1, 1_000_000), None,
        "Client connections that one worker holds at a time, idle and slow ones included. At the limit the worker "
        "closes those that have idled longest, and if none has, answers new ones with 503 and Retry-After. "
        "Lower it where memory is scarce; to raise it, raise the limit of open files (LimitNOFILE, ulimit -n) too. "
        "It has nothing to do with how many requests run at once.",
        default_text="half the descriptors that a worker may open (at most 65536), less 96",
    ),
    Setting(
        "limit_request_line", "Limits", ("--limit-request-line",), Size(64, MIB), 8190,
        "Longest request line, in bytes (414 above). Raise it for very long query strings.",
    ),
    Setting(
        "limit_request_fields", "Limits", ("--limit-request-fields",), Whole(1, 256), 100,
        "Most header fields in a request (431 above).",
    ),
    Setting(
        "limit_request_field_size", "Limits", ("--limit-request-field-size", "--limit-request-field_size"),
        Size(64, MIB), 8190,
        "Longest header field, in bytes (431 above). Raise it for large cookies or tokens.",
    ),
    Setting(
        "limit_request_head", "Limits", ("--limit-request-head",), Size(256, MIB), 64 * KIB,
        "Longest request line and header fields together, in bytes (431 above).",
    ),
    Setting(
        "permit_raw_target", "Limits", ("--permit-raw-target",), Switch(), False,
        "Take request targets with bytes above 0x7f in the path or the query, which should be percent-encoded (400 "
        "otherwise). The application sees them as Latin-1, as it does decoded ones. Set it for old clients that send "
        "UTF-8 as it is, if whatever is in front reads such targets as your application does.",
    ),
    Setting(
        "limit_request_body", "Limits", ("--limit-request-body",), Size(0), GIB,
        "Longest request body, in bytes (413 above). 0: no limit. Lower it where uploads are small.",
    ),
    Setting(
        "body_buffer", "Limits", ("--body-buffer",), Size(4 * KIB, GIB), MIB,
        "Request bodies up to this many bytes are held in memory, longer ones in a temporary file.",
    ),
    Setting(
        "response_buffer", "Limits", ("--response-buffer",), Size(16 * KIB, GIB), MIB,
        "Bytes of a response that wait in memory for a slow client; more go to a temporary file.",
    ),
    Setting(
        "response_spool", "Limits", ("--response-spool",), Size(16 * KIB), 64 * MIB,
        "Bytes of a response that may wait for a slow client in all; from then on the application waits too.",
    ),
    Setting(
        "buffer_memory", "Limits", ("--buffer-memory",), Size(MIB), 64 * MIB,
        "Bytes of heads, bodies and responses that may wait in the memory of one worker, over all its connections and "
        "beyond a block of 24 KiB for each. Above it what waits goes to temporary files, however small it is.",
    ),
    Setting(
        "body_min_rate", "Limits", ("--body-min-rate",), Size(0, MIB), 500,
        "Bytes per second with which a request's body must come, after its first ten seconds (408 below). A client may "
        "pause for body_timeout if it was faster before. 0: no limit. Lower it for clients on very slow lines.",
    ),
    Setting(
        "response_min_rate", "Limits", ("--response-min-rate",), Size(0, MIB), 500,
        "Bytes per second with which a client must read a response that waits for it, after the first ten seconds; one "
        "that is slower is cut. It may pause for write_timeout if it was faster before. Time in which nothing waits "
        "for it does not count. 0: no limit.",
    ),
    Setting(
        "spool_limit", "Limits", ("--spool-limit",), Size(MIB), 4 * GIB,
        "Bytes that may be in the temporary files of one worker, over all its connections. Above it large bodies are "
        "refused with 503, and applications wait for their slow clients. Lower it where the disk is small, or more "
        "than one worker shares it.",
    ),
    Setting(
        "spool_dir", "Limits", ("--spool-dir",), Optional(Path()), None,
        "Directory of the temporary files. The workers' user must be able to write there, which is tried at start and "
        "at each reload. If it cannot be used, one that is given ends the start; where none is given, bodies stay "
        "in memory, and those that do not fit into buffer_memory are refused with 503. Choose one that is on a disk, "
        "not in memory, if bodies are large.",
        default_text="$TMPDIR or /tmp",
        platform=("TMPDIR", "{}"),
    ),
    # ------------------------------------------------------------------------------------------------------------
    Setting(
        "access_logfile", "Logging", ("--access-logfile",), Optional(LogFile()), None,
        "File for one line per request; - is standard output. None is written unless this is set.",
        fixed=True,
    ),
    Setting(
        "access_logformat", "Logging", ("--access-logformat",), Kind(), "combined",
        "Format of the access log: combined, json, or a format of your own, such as '%(h)s \"%(r)s\" %(s)s %(D)s'.",
    ),
    Setting(
        "error_logfile", "Logging", ("--error-logfile", "--log-file"), LogFile(), "-",
        "File for everything that pyserve has to say; - is standard error.",
        fixed=True,
    ),
    Setting(
        "log_level", "Logging", ("--log-level",), Choice(("debug", "info", "warning", "error", "critical")), "info",
        "The least important messages that are still logged.",
    ),
)  # fmt: skip

BY_NAME = {setting.name: setting for setting in SETTINGS}
FIXED = tuple(setting.name for setting in SETTINGS if setting.fixed)
SECTIONS = tuple(dict.fromkeys(setting.section for setting in SETTINGS))
