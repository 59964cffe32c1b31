"""``pyserve --help``, made from the table of settings. Only here is click imported, which lays the text out."""

from __future__ import annotations

from click import HelpFormatter

from pyserve.config.settings import SECTIONS, SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.config.settings import Setting

WIDTH = 80
ABOUT = (
    "Serve the WSGI application APP: MODULE:ATTRIBUTE, such as myapp:app, or a factory, such as 'myapp:create_app()'. "
    "It may also be the setting app, or PYSERVE_APP."
)
EPILOG = (
    "Settings come from the command line, then from the environment variables named above, then from pyserve.toml or "
    "[tool.pyserve] of pyproject.toml in the working directory. Sizes take K, M and G (64M), times take ms, s, m and "
    "h (500ms)."
)
COMMAND = [
    ("-c, --config FILE", "Read this file of settings (TOML)."),
    ("--print-config", "Print every setting with its value and where that came from, then exit."),
    ("--check-config", "Check the settings and load the application, then exit."),
    ("-v, --version", "Print the version, then exit."),
    ("-h, --help", "Show this message, then exit."),
]


def helptext() -> str:
    formatter = HelpFormatter(width=WIDTH)
    formatter.write_usage("pyserve", "[OPTIONS] APP")
    for text in (ABOUT, EPILOG):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
        if text is ABOUT:
            write_options(formatter)
    return formatter.getvalue()


def write_options(formatter: HelpFormatter) -> None:
    for section in SECTIONS:
        rows = [row(setting) for setting in SETTINGS if setting.flags and setting.section == section]
        with formatter.section(section):
            formatter.write_dl(rows, col_max=24)
    with formatter.section("Command"):
        formatter.write_dl(COMMAND, col_max=24)


def row(setting: Setting) -> tuple[str, str]:
    """An option, as it is typed, and what it does."""
    notes = f"[default: {setting.default_shown}"
    notes += f"; env: {setting.variable_name}]" if setting.variable else "]"
    if setting.switches:
        return " / ".join(setting.switches), f"{setting.help}  {notes}"
    return f"{', '.join(setting.flags)} {setting.kind.metavar}", f"{setting.help}  {notes}"
