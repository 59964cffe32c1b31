"""Users and groups: looked up, and taken on in a child process."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable

import pytest

from pyserve.system.accounts import become, group_id, ids_of, user_id

ROOT = os.geteuid() == 0
NUMBER_WITHOUT_AN_ENTRY = 54321

needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the timer of pytest-timeout is a thread


def somebody() -> pwd.struct_passwd:
    """A user that is not root."""
    return next(entry for entry in pwd.getpwall() if entry.pw_uid != 0 and entry.pw_gid != 0)


def in_child(do: Callable[[], None]) -> str:
    """Do it in a child process: its uids, gids and groups afterwards, or the name of its OSError."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            do()
            said = repr((os.getresuid(), os.getresgid(), sorted(os.getgroups())))
        except OSError as error:
            said = type(error).__name__
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


def ids(uid: int, gid: int, groups: list[int]) -> str:
    return repr(((uid,) * 3, (gid,) * 3, sorted(groups)))


def test_none_is_nobody() -> None:
    assert user_id(None) == group_id(None) == -1
    assert ids_of(None, None) == (-1, -1)


def test_names_and_numbers() -> None:
    entry = somebody()
    assert user_id(entry.pw_name) == user_id(str(entry.pw_uid)) == entry.pw_uid
    group = grp.getgrgid(entry.pw_gid)
    assert group_id(group.gr_name) == group_id(str(group.gr_gid)) == group.gr_gid
    assert user_id("root") == user_id("0") == 0


def test_unknown_names() -> None:
    with pytest.raises(KeyError):
        user_id("no-such-user")
    with pytest.raises(KeyError):
        group_id("no-such-group")


def test_user_brings_its_group() -> None:
    entry = somebody()
    assert ids_of(entry.pw_name, None) == (entry.pw_uid, entry.pw_gid)
    assert ids_of(entry.pw_name, "0") == (entry.pw_uid, 0)
    assert ids_of(None, "0") == (-1, 0)


def test_number_without_an_entry_brings_the_same_group() -> None:
    """As containers use them."""
    assert user_id(str(NUMBER_WITHOUT_AN_ENTRY)) == NUMBER_WITHOUT_AN_ENTRY
    assert ids_of(str(NUMBER_WITHOUT_AN_ENTRY), None) == (NUMBER_WITHOUT_AN_ENTRY,) * 2


@forks
def test_nothing_asked_for_changes_nothing() -> None:
    assert in_child(lambda: become(None, None)) == repr((os.getresuid(), os.getresgid(), sorted(os.getgroups())))


@needs_root
@forks
def test_user_with_its_groups_and_no_other() -> None:
    entry = somebody()
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    assert in_child(lambda: become(entry.pw_name, None)) == ids(entry.pw_uid, entry.pw_gid, groups)


@needs_root
@forks
def test_user_and_another_group() -> None:
    entry = somebody()
    groups = os.getgrouplist(entry.pw_name, NUMBER_WITHOUT_AN_ENTRY)
    expected = ids(entry.pw_uid, NUMBER_WITHOUT_AN_ENTRY, groups)
    assert in_child(lambda: become(entry.pw_name, str(NUMBER_WITHOUT_AN_ENTRY))) == expected


@needs_root
@forks
def test_user_in_roots_group_still_loses_roots_other_groups() -> None:
    number = NUMBER_WITHOUT_AN_ENTRY

    def do() -> None:
        os.setgroups([0, 4, 27])
        become(str(number), "0")

    assert in_child(do) == ids(number, 0, [0])


@needs_root
@forks
def test_number_without_an_entry() -> None:
    number = NUMBER_WITHOUT_AN_ENTRY
    assert in_child(lambda: become(str(number), None)) == ids(number, number, [number])


@needs_root
@forks
def test_group_alone() -> None:
    number = NUMBER_WITHOUT_AN_ENTRY
    assert in_child(lambda: become(None, str(number))) == repr(((0, 0, 0), (number,) * 3, [number]))


@needs_root
@forks
def test_there_is_no_way_back() -> None:
    def do() -> None:
        become(str(NUMBER_WITHOUT_AN_ENTRY), None)
        os.setresuid(0, 0, 0)

    assert in_child(do) == "PermissionError"


@needs_root
@forks
def test_who_is_not_root_cannot_become_another() -> None:
    def do() -> None:
        become(str(NUMBER_WITHOUT_AN_ENTRY), None)
        become("root", None)

    assert in_child(do) == "PermissionError"


@needs_root
@forks
def test_who_has_the_account_already_needs_no_rights() -> None:
    """So that a configuration that says User works also when the service manager has seen to it."""
    number = NUMBER_WITHOUT_AN_ENTRY

    def do() -> None:
        become(str(number), None)
        become(str(number), None)

    assert in_child(do) == ids(number, number, [number])
