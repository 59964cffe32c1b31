"""Whom a root master trusts: who else could have written what it obeys, what it runs, and where it writes.

A master that runs as root, with workers of another ``user``, is a border: who takes over a worker must not become root.
Three things would let him, if they were his to write: the configuration file, which can say ``user = "root"``; the
folder of a log, in which he puts a link to the file that root is to write on; and the interpreter with its packages.
Every folder and link on the ``way`` to one of them counts as the file itself does.

Between root and the workers there may be a third: the user who deploys, who owns code, configuration and perhaps the
virtual environment. He decides what is served and is no stranger, but it should be known that he can become root.

``rank`` is the rule and ``VERDICTS`` what follows from it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from functools import cache

from pyserve.errors import ConfigError
from pyserve.system import called
from pyserve.system.accounts import groups_of, ids_of
from pyserve.system.descriptors import STANDARD_STREAMS
from pyserve.system.way import ROOT, look, on_the_way, way, writers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import NamedTuple

    from pyserve.system.way import Entry
else:
    from pyserve.records import NamedTuple

ONLY_ROOT, THIRD, WORKERS = range(3)  # who can write something: the one whom root has to trust least
CONFIGURATION, LOG, CODE = "configuration", "log", "code"
ACCEPT, WARN, REFUSE = "accept", "warn", "refuse"

VERDICTS = {
    (CONFIGURATION, WORKERS): REFUSE,
    (CONFIGURATION, THIRD): WARN,
    (LOG, WORKERS): REFUSE,
    (LOG, THIRD): ACCEPT,  # on some systems /var/log is the group syslog's; logs.py follows no link of his
    (CODE, WORKERS): WARN,  # not refused: this is run already
    (CODE, THIRD): WARN,
}


class Account(NamedTuple):
    """As whom the workers run."""

    uid: int
    gids: frozenset[int]


def rank(entry: Entry, workers: Account) -> int:
    """Who can write an entry: ONLY_ROOT, THIRD, WORKERS. Everybody includes the workers' user."""
    users, groups, everybody = writers(entry)
    if everybody or workers.uid in users or groups & workers.gids:
        return WORKERS
    return THIRD if (users | groups) - {ROOT} else ONLY_ROOT


def verdict(what: str, entry: Entry, workers: Account) -> str:
    return VERDICTS.get((what, rank(entry, workers)), ACCEPT)


def account(user: str | None, group: str | None) -> Account | None:
    """As whom the workers run; None if there is no border: this is not root, or they are root, too."""
    if os.geteuid() != ROOT or user is None:
        return None
    try:
        uid, gid = ids_of(user, group)
    except KeyError:
        raise ConfigError(f"user {user}, group {group}: one of them is not there any more") from None
    return Account(uid, frozenset(groups_of(uid, gid))) if uid != ROOT else None


# What is refused.


def check(file: str, logs: Iterable[str | None], user: str | None, group: str | None) -> None:
    """May root do what a configuration file says, and write to its logs? ConfigError says why not, and what to do.

    user, group: as whom the workers run; at a reload as whom they run until then, so that no file can say who may write
    it.
    """
    workers = account(user, group)
    if workers is None:
        return
    if file:
        check_configuration(file, workers)
    for path in logs:
        if path:
            check_log(path, workers)


def check_configuration(path: str, workers: Account) -> None:
    entries = list(way(path))
    if stat.S_ISDIR(entries[-1].mode):
        raise ConfigError(f"{path}: it was there a moment ago, and is gone")
    for entry in entries:
        if verdict(CONFIGURATION, entry, workers) == REFUSE:
            raise ConfigError(
                f"{path}: {who(entry, workers)} can write {this(entry, path)}, and what it says is done as root: "
                f"{remedy(entry)}, or name a file of root's with --config (/dev/null for none)"
            )


def check_log(path: str, workers: Account | None) -> None:
    """The file itself may be the workers' user's: each worker has it open for writing."""
    if workers is None or path == "-" or path in STANDARD_STREAMS:
        return
    for entry in on_the_way(path):
        if verdict(LOG, entry, workers) == REFUSE:
            raise ConfigError(
                f"the log {path}: {who(entry, workers)} can write {entry.path}, and root would write wherever a link "
                f"there leads: {remedy(entry)}, or choose another folder"
            )


# What is only said.


def warnings(file: str, user: str | None, group: str | None) -> list[str]:
    """What root should know of who can write its configuration and its code; a line each."""
    workers = account(user, group)
    if workers is None:
        return []
    found = [
        (CONFIGURATION, [file] if file else [], "what it says is done as root"),
        (CODE, program(), "it is run as root"),
        (CODE, searched_first(), "python -m looks there first: start pyserve, or python -P -m pyserve; else"),
    ]
    return [line for what, paths, why in found for line in warning(what, paths, why, workers)]


def warning(what: str, paths: Iterable[str], why: str, workers: Account) -> Iterator[str]:
    """One line, for the one that is trusted least, if there is any."""
    remembering = cache(look)
    entries = {entry for path in paths for entry in way(path, remembering)}
    entries = {entry for entry in entries if verdict(what, entry, workers) == WARN}
    if entries:
        worst = min(entries, key=lambda entry: (-rank(entry, workers), entry.path))
        them = f"{worst.path} and {len(entries) - 1} more" if len(entries) > 1 else worst.path
        yield f"{what}: {who(worst, workers)} can write {them}, and {why}; if that is not meant: {remedy(worst)}"


def program() -> Iterator[str]:
    """The files of this process's interpreter and packages, and where it would look for more."""
    yield called.interpreter()
    yield os.path.join(sys.prefix, "pyvenv.cfg")
    yield os.path.abspath(sys.argv[0])
    for folder in map(os.path.abspath, sys.path):
        yield folder
        if os.path.basename(folder) in ("site-packages", "dist-packages"):
            with contextlib.suppress(OSError):  # it need not be there
                yield from (os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".pth"))
    for module in list(sys.modules.values()):
        about = getattr(module, "__dict__", {})  # not its attributes: a lazy module imports more when it is asked
        for path in (about.get("__file__"), getattr(about.get("__spec__"), "cached", None)):
            if isinstance(path, str):
                yield os.path.abspath(path)


def searched_first() -> Iterator[str]:
    if os.path.basename(sys.argv[0]) == "__main__.py" and not sys.flags.safe_path:
        yield os.getcwd()


# Words.


def this(entry: Entry, path: str) -> str:
    return "it" if entry.path == path else entry.path


def who(entry: Entry, workers: Account) -> str:
    """Who can write an entry, beside root: the one who is trusted least."""
    users, groups, everybody = writers(entry)
    if everybody:
        return "everybody"
    if workers.uid in users:
        return user_called(workers.uid)
    if groups & workers.gids:
        return group_called(min(groups & workers.gids))
    return user_called(min(users - {ROOT})) if users - {ROOT} else group_called(min(groups - {ROOT}))


def user_called(uid: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


def group_called(gid: int) -> str:
    import grp

    try:
        return f"the group {grp.getgrgid(gid).gr_name} (gid {gid})"
    except KeyError:
        return f"the group {gid}"


def remedy(entry: Entry) -> str:
    """The command that leaves an entry to root."""
    if entry.uid != ROOT:
        return f"chown {'-h ' if stat.S_ISLNK(entry.mode) else ''}root {entry.path}"
    return f"setfacl -b {entry.path}" if entry.users or entry.groups else f"chmod go-w {entry.path}"
