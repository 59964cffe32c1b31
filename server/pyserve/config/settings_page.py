"""docs/settings.md, written from the table: ``python -m pyserve.config.settings_page > docs/settings.md``."""

from __future__ import annotations

import sys

from pyserve.config.settings import SECTIONS, SETTINGS, Setting

HEAD = """\
# Settings

This page is written from the table in `server/pyserve/config/settings.py` by `python -m pyserve.config.settings_page`.

## Where settings come from

From the strongest to the weakest:

1. the command line: `pyserve myapp:app --workers 4`;
2. the environment: `PYSERVE_WORKERS=4` (an empty variable says nothing);
3. a file: `pyserve.toml`, or the table `[tool.pyserve]` of `pyproject.toml`, in the working directory (`--chdir`,
   if that is given on the command line or in the environment); or the file that `--config FILE` names;
4. what hosting platforms set: `PORT` (then pyserve listens on all interfaces), `WEB_CONCURRENCY` (workers),
   `TMPDIR` (spool_dir) and systemd's `RUNTIME_DIRECTORY` (control_socket);
5. the default.

A list from a stronger source replaces the whole list of a weaker one. `pyserve --print-config` prints every value
and where it came from; `pyserve --check-config` also loads the application. A reload (SIGHUP) reads the file again
and keeps the command line and the environment of the start.

    # pyserve.toml
    app = "myapp:app"
    bind = ["127.0.0.1:8000", "unix:/run/myapp.sock"]
    workers = 4
    timeout = "1m"
    limit_request_body = "64MiB"

    [env]
    DJANGO_SETTINGS_MODULE = "shop.settings"

A key that does not exist, a value of the wrong type or out of range, and settings that contradict each other are
errors: one line that names the file and the line, and exit code 78 (2 if it was on the command line). An unknown
`PYSERVE_*` variable is only a warning in the log.

## How values are written

* Seconds: `30`, `1.5`, `"500ms"`, `"2m"`, `"1h"`; at most 7 days.
* Sizes, in bytes: `8190`, `"64K"`, `"64KiB"`, `"1.5G"`. K, M, G and T are powers of 1024; KB and MB are not taken,
  since they mean different things to different people.
* Modes are octal, and in TOML a text: `"022"`.
* Lists: the option repeated, an array in TOML, commas in an environment variable.
* Relative paths start at the working directory. An empty text (`--access-logfile ""`) turns off what a weaker
  source turned on, where none is a possible value.
"""


def page() -> str:
    """The text of docs/settings.md."""
    parts = [HEAD]
    for section in SECTIONS:
        parts.append(f"## {section}\n")
        parts += [entry(setting) for setting in SETTINGS if setting.section == section]
    return "\n".join(parts)


def entry(setting: Setting) -> str:
    """One setting: its help, how to give it, and its default."""
    shown = setting.default_shown
    default = f"`{shown}`" if not setting.default_text and setting.default is not None else shown
    options = " ".join(f"`{flag}`" for flag in setting.flags) or "the argument `APP`"
    if setting.switches:
        options = " ".join(f"`{flag}` ({text})" for flag, text in setting.switches.items())
    lines = [
        f"### {setting.name}\n",
        f"{setting.help}\n",
        f"* Command line: {options}",
        f"* Environment: {f'`{setting.variable_name}`' if setting.variable else 'none'}",
        f"* Value: `{setting.kind.metavar}`",
        f"* Default: {default}",
    ]
    if setting.fixed:
        lines.append("* A change takes effect when pyserve is restarted; a reload keeps the value and warns")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
