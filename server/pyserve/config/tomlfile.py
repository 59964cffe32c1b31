"""The settings of a TOML file, each with the line that it stands on."""

from __future__ import annotations

from pyserve.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def read(text: str, shown: str, table: tuple[str, ...] = ()) -> dict[str, tuple[Any, int]] | None:
    """key → (value, line) of a table of the file, by default its root; None if it has no such table.

    shown: the file's name in messages. Raises ConfigError if the text is not TOML or the table is something else.
    """
    import tomllib  # 13 ms that only those who have a file pay

    try:
        values: Any = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(syntax_error(str(error), text, shown)) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in thousands
        raise ConfigError(f"{shown}: not valid TOML: {error}") from None
    for name in table:
        values = values.get(name) if isinstance(values, dict) else None
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ConfigError(f"{shown}: {'.'.join(table)} must be a table, [{'.'.join(table)}]")
    lines = key_lines(text)
    return {key: (value, lines.get((*table, key), 0)) for key, value in values.items()}


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, on which each key of a valid TOML text (with all tables above it) is first given.

    The parser tells no positions, but its own grammar does: a statement is the fewest lines that parse on their own.
    """
    import tomllib

    found: dict[tuple[str, ...], int] = {}
    header: tuple[str, ...] = ()
    statement, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        start = start if statement else number
        statement += line + "\n"
        try:
            content = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue  # an array or a text goes on in the next line
        is_header = statement.lstrip().startswith("[")
        statement = ""
        paths = list(key_paths(content))
        if is_header:
            header = paths[-1]
            paths = [header[: depth + 1] for depth in range(len(header))]
        else:
            paths = [header + path for path in paths]
        for path in paths:
            found.setdefault(path, start)
    return found


def key_paths(content: Any) -> list[tuple[str, ...]]:
    """All keys of nested tables, each with those above it, the deepest last."""
    if isinstance(content, list):
        content = content[-1] if content else {}
    if not isinstance(content, dict):
        return []
    paths: list[tuple[str, ...]] = []
    for key, value in content.items():
        paths.append((key,))
        paths.extend((key, *path) for path in key_paths(value))
    return paths


def syntax_error(message: str, text: str, shown: str) -> str:
    """tomllib's message with the line in front, as in all our messages."""
    what, _, place = message.rstrip(")").partition(" (at ")
    line = place.partition("line ")[2].partition(",")[0]
    return f"{shown} line {line or len(text.splitlines())}: not valid TOML: {what}"
