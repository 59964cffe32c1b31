"""The command line, read by the table of settings, with nothing imported: each start would pay for that.

An option's value is the next word, or follows behind ``=``; that of a short option may follow at once (``-w4``). What
stands behind ``--`` is no option.
"""

from __future__ import annotations

from pyserve.config.settings import SETTINGS
from pyserve.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

FLAGS = {flag: setting for setting in SETTINGS for flag in setting.flags}
SWITCHES = {flag: (setting.name, text) for setting in SETTINGS for flag, text in setting.switches.items()}
CONFIG_FLAGS = ("-c", "--config")
# What is done instead of serving.
MODES = {
    "-h": "help",
    "--help": "help",
    "-v": "version",
    "--version": "version",
    "--print-config": "print",
    "--check-config": "check",
}
IGNORED = "ignored"  # the name under which options are given that do nothing here


def read(argv: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What was given, and the mode: serve, or one of MODES.

    Given is setting (and "config") → text, or list of texts for those that repeat. UsageError says what is wrong.
    """
    given: dict[str, Any] = {}
    modes: set[str] = set()
    words = iter(argv)
    for word in words:
        if word == "--":
            for rest in words:
                keep_app(given, rest)
        elif word in MODES:
            modes.add(word)
        elif word.startswith("-") and word != "-":
            read_option(given, word, words)
        else:
            keep_app(given, word)
    for first in ("help", "version"):
        if first in map(MODES.get, modes):
            return given, first
    if len(modes) > 1:
        raise UsageError("--print-config and --check-config cannot be given together")
    return given, MODES[modes.pop()] if modes else "serve"


def keep_app(given: dict[str, Any], word: str) -> None:
    if "app" in given:
        raise UsageError(f"got unexpected extra argument ({word})")
    given["app"] = word


def read_option(given: dict[str, Any], word: str, words: Iterator[str]) -> None:
    """One option, with its value from ``words`` if that is a word of its own."""
    flag, equals, value = split(word)
    if flag in SWITCHES:
        if equals:
            raise UsageError(f"option '{flag}' does not take a value")
        name, given[name] = SWITCHES[flag]
        return
    if flag not in FLAGS and flag not in CONFIG_FLAGS and not ignored(flag):
        raise UsageError(unknown(flag))
    text = value if equals else next(words, None)
    if text is None or (not equals and is_option(text)):
        raise UsageError(f"option '{flag}' requires an argument")
    keep(given, flag, text)


def split(word: str) -> tuple[str, bool, str]:
    """(flag, whether its value is there, that)."""
    if word.startswith("--"):
        flag, equals, value = word.partition("=")
        return flag, bool(equals), value
    return word[:2], len(word) > 2, word[2:]


def is_option(word: str) -> bool:
    """Else a word that begins with - may be a value."""
    flag = split(word)[0]
    return flag in FLAGS or flag in SWITCHES or flag in CONFIG_FLAGS or flag in MODES or word == "--"


def keep(given: dict[str, Any], flag: str, text: str) -> None:
    """Add one option's text: the last one counts, or all of them."""
    if flag in CONFIG_FLAGS:
        given["config"] = text
    elif flag not in FLAGS:
        given.setdefault(IGNORED, []).append(flag)
    elif FLAGS[flag].kind.many:
        given.setdefault(FLAGS[flag].name, []).append(text)
    else:
        given[FLAGS[flag].name] = text


def ignored(flag: str) -> str:
    """Why this option of gunicorn's does nothing here; empty if it is none."""
    from pyserve.config import gunicorn_habits

    return gunicorn_habits.IGNORED.get(flag, "")


def unknown(flag: str) -> str:
    """The line for an option that does not exist."""
    from pyserve.config import gunicorn_habits
    from pyserve.config.suggest import nearest

    if habit := gunicorn_habits.OPTIONS.get(flag):
        return f"{flag} is {habit}"
    known = [*MODES, *CONFIG_FLAGS, *FLAGS, *SWITCHES]
    match = nearest(flag, [name for name in known if name.startswith("--")]) if flag.startswith("--") else ""
    return f"no such option: {flag}, " + (f"did you mean {match}?" if match else "see pyserve --help")
