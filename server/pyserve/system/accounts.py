"""User and group: looked up by name or number, and taken on for good."""

from __future__ import annotations

import os


def user_id(user: str | None) -> int:
    """The uid of a name or number; -1 for none."""
    if user is None:
        return -1
    if user.isdigit():
        return int(user)
    import pwd

    return pwd.getpwnam(user).pw_uid


def group_id(group: str | None) -> int:
    if group is None:
        return -1
    if group.isdigit():
        return int(group)
    import grp

    return grp.getgrnam(group).gr_gid


def ids_of(user: str | None, group: str | None) -> tuple[int, int]:
    """(uid, gid), -1 for what is to stay. A user without a group brings its own."""
    uid, gid = user_id(user), group_id(group)
    if uid >= 0 and gid < 0:
        import pwd

        try:
            gid = pwd.getpwuid(uid).pw_gid
        except KeyError:
            gid = uid  # a number without an entry, as containers use
    return uid, gid


def become(user: str | None, group: str | None) -> None:
    """Take on user and group, with the user's other groups, for good. OSError if that is not permitted."""
    uid, gid = ids_of(user, group)
    if gid >= 0 and gid != os.getgid():
        os.setgroups(groups_of(uid, gid))
        os.setresgid(gid, gid, gid)
    if uid >= 0 and uid != os.getuid():
        os.setgroups(groups_of(uid, gid))
        os.setresuid(uid, uid, uid)


def groups_of(uid: int, gid: int) -> list[int]:
    """All of a user's groups, with this one."""
    import pwd

    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid) if uid >= 0 else [gid]
    except KeyError:
        return [gid]
