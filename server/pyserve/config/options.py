"""The full command line, by click: help, the version, and good words for every mistake.

Only here is click imported; ``arguments`` reads the command lines that need none of this.
"""

from __future__ import annotations

import click

from pyserve.config import gunicorn_habits
from pyserve.config.settings import BY_NAME, SECTIONS, SETTINGS, Setting
from pyserve.config.suggest import nearest
from pyserve.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

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


def parse(argv: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What was given (as ``arguments.plain`` returns it) and the mode: serve, print, check, or done.

    Raises UsageError.
    """
    command = build()
    try:
        with command.make_context("pyserve", list(argv), max_content_width=WIDTH, terminal_width=WIDTH) as context:
            parameters = dict(context.params)
    except click.exceptions.Exit:
        return {}, "done"
    except click.NoSuchOption as error:
        raise UsageError(unknown_option(error.option_name, known_flags(command))) from None
    except click.ClickException as error:
        raise UsageError(one_line(error)) from None
    prints, checks = parameters.pop("print_config"), parameters.pop("check_config")
    if prints and checks:
        raise UsageError("--print-config and --check-config cannot be given together")
    given = {name: as_texts(name, value) for name, value in parameters.items()}
    given = {name: value for name, value in given.items() if value is not None and value != []}
    return given, "print" if prints else "check" if checks else "serve"


def as_texts(name: str, value: Any) -> Any:
    """A parameter as text, or list of texts."""
    if isinstance(value, bool):
        yes, no = BY_NAME[name].switches.values()
        return yes if value else no
    return list(value) if isinstance(value, tuple) else value


def build() -> click.Command:
    """The command, made from the table."""
    return Command(
        "pyserve",
        params=[
            click.Argument(["app"], required=False, metavar="APP"),
            *(option(setting) for setting in SETTINGS if setting.flags),
            click.Option(["-c", "--config"], metavar="FILE", help="Read this file of settings (TOML)."),
            flag("--print-config", "Print every setting with its value and where that came from, then exit."),
            flag("--check-config", "Check the settings and load the application, then exit."),
            click.Option(
                ["-v", "--version"], is_flag=True, is_eager=True, expose_value=False, callback=show_version,
                help="Print the version, then exit.",
            ),
        ],
        help=ABOUT,
        epilog=EPILOG,
        context_settings={"help_option_names": ["-h", "--help"]},
    )  # fmt: skip


def option(setting: Setting) -> click.Option:
    """The option of one setting. Texts stay texts: the table converts them, with the same words for every source."""
    notes = f"[default: {setting.default_shown}"
    notes += f"; env: {setting.variable_name}]" if setting.variable else "]"
    text = f"{setting.help}  {notes}"
    if setting.switches:
        return click.Option([setting.name, "/".join(setting.switches)], default=None, help=text)
    return click.Option(
        [setting.name, *setting.flags], type=str, multiple=setting.kind.many, metavar=setting.kind.metavar, help=text
    )


def flag(name: str, text: str) -> click.Option:
    return click.Option([name], is_flag=True, help=text)


def show_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from pyserve import __version__

        click.echo(f"pyserve {__version__}")
        context.exit()


class Command(click.Command):
    """A command whose help is grouped by the sections of the table."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        section_of = {setting.name: setting.section for setting in SETTINGS}
        for section in (*SECTIONS, "Command"):
            rows = [
                parameter.get_help_record(context)
                for parameter in self.get_params(context)
                if isinstance(parameter, click.Option) and section_of.get(parameter.name or "", "Command") == section
            ]
            with formatter.section(section):
                formatter.write_dl([row for row in rows if row], col_max=24)


def known_flags(command: click.Command) -> list[str]:
    names = (name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts))
    return ["--help", *(name for name in names if name.startswith("--"))]


def unknown_option(name: str, known: list[str]) -> str:
    """The line for an option that does not exist."""
    habit = gunicorn_habits.OPTIONS.get(name)
    if habit:
        return f"{name} is {habit}"
    match = nearest(name, known) if name.startswith("--") else ""
    return f"no such option: {name}, " + (f"did you mean {match}?" if match else "see pyserve --help")


def one_line(error: click.ClickException) -> str:
    """click's message as the rest of a sentence."""
    text = " ".join(error.format_message().split()).rstrip(".")
    return text[:1].lower() + text[1:]
