"""The plain command line, read with nothing imported.

click is the reference and takes 25 ms and 4 MiB, which each start and each running master would pay. Most command lines
need none of what it gives. This reader follows the same table, and gives up (None) on all it is not sure of: help, an
unknown option, a missing value, anything that is worth a good message. Then click reads it all again.
"""

from __future__ import annotations

from pyserve.config.settings import SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

FLAGS = {flag: setting for setting in SETTINGS for flag in setting.flags}
CONFIG_FLAGS = ("-c", "--config")
SWITCHES = {flag: (setting.name, text) for setting in SETTINGS for flag, text in setting.switches.items()}


def plain(argv: Sequence[str]) -> dict[str, Any] | None:
    """setting (and "config") → text, or list of texts for those that repeat; None if click should look at it."""
    given: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        if word in SWITCHES:
            name, text = SWITCHES[word]
            given[name] = text
        elif not word.startswith("-") and word:
            if "app" in given:
                return None
            given["app"] = word
        else:
            flag, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
            if flag in SWITCHES or (flag not in FLAGS and flag not in CONFIG_FLAGS):
                return None
            text = value if equals else next(words, "--")
            if text.startswith("-") and text != "-" and not equals:
                return None  # a value that looks like an option: one was forgotten
            keep(given, flag, text)
    return given


def keep(given: dict[str, Any], flag: str, text: str) -> None:
    """Add one option's text: the last one counts, or all of them."""
    if flag in CONFIG_FLAGS:
        given["config"] = text
    elif FLAGS[flag].kind.many:
        given.setdefault(FLAGS[flag].name, []).append(text)
    else:
        given[FLAGS[flag].name] = text
