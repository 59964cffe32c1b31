"""Whom a root master trusts: the rule, the way to a file, and what is said of it."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from pyserve.config import trust
from pyserve.config.config import Config, load
from pyserve.config.trust import (
    CODE,
    CONFIGURATION,
    LOG,
    ONLY_ROOT,
    THIRD,
    WORKERS,
    Account,
    rank,
    remedy,
    verdict,
    who,
)
from pyserve.errors import ConfigError
from pyserve.system.way import Entry, on_the_way, only_ours, way, with_access_list
from support.attacker import NOBODY, open_folder

ROOT, WWW, DEPLOY, SYSLOG = 0, 33, 1000, 104
SHARED = 2000  # a group that www is a member of, too
WORKERS_USER = Account(WWW, frozenset({WWW, SHARED}))
FILE, FOLDER, LINK, DEVICE = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR
STICKY = stat.S_ISVTX

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a root master")


def entry(
    kind: int, mode: int, uid: int = ROOT, gid: int = ROOT, *, users: Iterable[int] = (), groups: Iterable[int] = ()
) -> Entry:
    return Entry("/it", kind | mode, uid, gid, frozenset(users), frozenset(groups))


# What it is, who can write it, and what becomes of it as configuration, log, code.
CASES = {
    "root's file": (entry(FILE, 0o644), ONLY_ROOT, "accept accept accept"),
    "root's file that the workers can read": (entry(FILE, 0o640, gid=WWW), ONLY_ROOT, "accept accept accept"),
    "the workers' file": (entry(FILE, 0o644, WWW), WORKERS, "refuse refuse warn"),
    "their file without the right to write, which they can give themselves": (
        entry(FILE, 0o400, WWW), WORKERS, "refuse refuse warn",
    ),
    "a file of everybody's": (entry(FILE, 0o646), WORKERS, "refuse refuse warn"),
    "a file of the workers' group": (entry(FILE, 0o664, gid=WWW), WORKERS, "refuse refuse warn"),
    "a file of another group of theirs": (entry(FILE, 0o664, DEPLOY, SHARED), WORKERS, "refuse refuse warn"),
    "that group can only read": (entry(FILE, 0o644, gid=SHARED), ONLY_ROOT, "accept accept accept"),
    "who deploys owns it": (entry(FILE, 0o644, DEPLOY, DEPLOY), THIRD, "warn accept warn"),
    "his group can write it": (entry(FILE, 0o664, ROOT, DEPLOY), THIRD, "warn accept warn"),
    "root's folder": (entry(FOLDER, 0o755), ONLY_ROOT, "accept accept accept"),
    "/srv/app, of who deploys": (entry(FOLDER, 0o755, DEPLOY, DEPLOY), THIRD, "warn accept warn"),
    "/var/log, of the group syslog": (entry(FOLDER, 0o775, ROOT, SYSLOG), THIRD, "warn accept warn"),
    "the workers' folder": (entry(FOLDER, 0o750, WWW, WWW), WORKERS, "refuse refuse warn"),
    "everybody's folder": (entry(FOLDER, 0o777), WORKERS, "refuse refuse warn"),
    "/tmp": (entry(FOLDER, 0o777 | STICKY), ONLY_ROOT, "accept accept accept"),
    "a sticky folder of the workers'": (entry(FOLDER, 0o777 | STICKY, WWW), WORKERS, "refuse refuse warn"),
    "a sticky folder of their group": (entry(FOLDER, 0o770 | STICKY, ROOT, WWW), ONLY_ROOT, "accept accept accept"),
    "a link, whose mode says nothing": (entry(LINK, 0o777), ONLY_ROOT, "accept accept accept"),
    "a link of the workers'": (entry(LINK, 0o777, WWW), WORKERS, "refuse refuse warn"),
    "the link to the release": (entry(LINK, 0o777, DEPLOY, DEPLOY), THIRD, "warn accept warn"),
    "/dev/null": (entry(DEVICE, 0o666), ONLY_ROOT, "accept accept accept"),
    "an access list names the workers": (entry(FILE, 0o640, users={WWW}), WORKERS, "refuse refuse warn"),
    "it names a group of theirs": (entry(FILE, 0o640, groups={SHARED}), WORKERS, "refuse refuse warn"),
    "it names who deploys": (entry(FOLDER, 0o750, users={DEPLOY}), THIRD, "warn accept warn"),
    "it is a sticky folder's": (entry(FOLDER, 0o770 | STICKY, users={WWW}), ONLY_ROOT, "accept accept accept"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_rule(case: str) -> None:
    what, expected, verdicts = CASES[case]
    assert rank(what, WORKERS_USER) == expected
    assert [verdict(role, what, WORKERS_USER) for role in (CONFIGURATION, LOG, CODE)] == verdicts.split()


def test_a_user_in_roots_group_can_write_what_that_group_can() -> None:
    assert rank(entry(FILE, 0o664), WORKERS_USER) == ONLY_ROOT
    assert rank(entry(FILE, 0o664), Account(WWW, frozenset({ROOT, WWW}))) == WORKERS


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (entry(FILE, 0o644, WWW), "uid 33"),
        (entry(FILE, 0o646, WWW), "everybody"),
        (entry(FILE, 0o664, DEPLOY, SHARED), "the group 2000"),
        (entry(FILE, 0o664, 1000, 1000), "uid 1000"),
        (entry(FILE, 0o664, ROOT, 4711), "the group 4711"),
        (entry(LINK, 0o777, 4711), "uid 4711"),
        (entry(FILE, 0o640, users={4711}), "uid 4711"),
    ],
)
def test_it_names_who_matters_most(what: Entry, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_knows(_number: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody_knows)
    monkeypatch.setattr("grp.getgrgid", nobody_knows)
    assert who(what, WORKERS_USER) == words


def test_names_are_said_where_there_are_any() -> None:
    assert who(entry(FILE, 0o644, NOBODY), WORKERS_USER) == f"nobody (uid {NOBODY})"


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (entry(FILE, 0o644, WWW), "chown root /it"),
        (entry(LINK, 0o777, WWW), "chown -h root /it"),
        (entry(FOLDER, 0o777), "chmod go-w /it"),
        (entry(FILE, 0o640, users={WWW}), "setfacl -b /it"),
    ],
)
def test_it_says_what_to_do(what: Entry, words: str) -> None:
    assert remedy(what) == words


# Access lists.

NAMED = 0xFFFFFFFF  # "no id", of those that are not by name


def access_list(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


def test_an_access_list_says_who_may_write() -> None:
    content = access_list(
        (1, 6, NAMED), (2, 6, WWW), (2, 4, DEPLOY), (4, 4, NAMED), (8, 7, SHARED), (16, 7, NAMED), (32, 4, NAMED)
    )
    found = with_access_list(entry(FILE, 0o664, gid=SYSLOG), content)
    assert (set(found.users), set(found.groups)) == ({WWW}, {SHARED})
    assert not found.mode & stat.S_IWGRP, "the mask has the bit, and the group itself may not write"
    assert with_access_list(entry(FILE, 0o664), access_list((4, 6, NAMED), (16, 6, NAMED))).mode & stat.S_IWGRP


@root
def test_the_access_list_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    content = access_list((1, 6, NAMED), (2, 6, NOBODY), (4, 4, NAMED), (16, 6, NAMED), (32, 0, NAMED))
    try:
        os.setxattr(path, "system.posix_acl_access", content)
    except OSError as error:
        pytest.skip(f"this file system has no access lists: {error}")
    (found,) = (each for each in way(str(path)) if each.path == str(path))
    assert found.users == {NOBODY}


# The way to a file.


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder.resolve()


def names(path: Path, folder: Path) -> list[str]:
    return [each.path.removeprefix(f"{folder}/") for each in way(str(path)) if each.path.startswith(f"{folder}/")]


def test_every_folder_and_link_is_on_the_way(folder: Path) -> None:
    (folder / "releases" / "7").mkdir(parents=True)
    (folder / "releases" / "7" / "file").touch()
    (folder / "current").symlink_to("releases/7")
    (folder / "absolute").symlink_to(folder / "current" / "file")
    assert names(folder / "current" / "file", folder) == ["current", "releases", "releases/7", "releases/7/file"]
    assert names(folder / "absolute", folder) == ["absolute", "current", "releases", "releases/7", "releases/7/file"]
    assert names(folder / "releases" / ".." / "current" / "." / "file", folder)[0] == "releases"
    assert next(way(str(folder))).path == "/"
    assert names(folder / "releases" / "8" / "file", folder) == ["releases"], "as far as there is something"
    assert [each.path for each in on_the_way(str(folder / "current" / "file"))][-1].endswith("releases/7")


def test_links_that_lead_nowhere_have_an_end(folder: Path) -> None:
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    assert len(names(folder / "a", folder)) == 41


@root
def test_a_link_is_ours_only_if_nobody_else_can_put_one_there(folder: Path) -> None:
    path = folder / "log"
    path.symlink_to("/dev/stdout")
    assert only_ours(str(path))
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    assert not only_ours(str(path))
    path.unlink()
    path.symlink_to("/dev/stdout")
    folder.chmod(0o777)
    assert not only_ours(str(path))
    folder.chmod(0o1777)
    assert only_ours(str(path))


# The check.


def configuration(folder: Path, **options: str) -> Config:
    return load({"app": "shop:app", "user": "nobody", **options}, {}, str(folder))


@root
def test_a_file_of_the_workers_is_refused_and_one_that_says_nothing_is_not_read(folder: Path) -> None:
    file = folder / "pyserve.toml"
    file.write_text("workers = 3\n")
    assert configuration(folder).workers == 3
    os.chown(file, NOBODY, NOBODY)
    with pytest.raises(ConfigError) as error:
        configuration(folder)
    assert error.value.message == (
        f"{file}: nobody (uid {NOBODY}) can write it, and what it says is done as root: chown root {file}, "
        "or name a file of root's with --config (/dev/null for none)"
    )
    assert configuration(folder, config="/dev/null").workers != 3
    file.write_text("")
    configuration(folder)


@root
@pytest.mark.parametrize("name", ["pyserve.toml", "pyproject.toml"])
def test_a_folder_of_the_workers_is_refused_if_a_file_in_it_counts(folder: Path, name: str) -> None:
    file = folder / "app" / name
    file.parent.mkdir()
    os.chown(file.parent, NOBODY, NOBODY)
    configuration(file.parent)
    file.write_text("[tool.pyserve]\nworkers = 3\n" if name == "pyproject.toml" else "workers = 3\n")
    with pytest.raises(
        ConfigError, match=rf"{name}: nobody \(uid {NOBODY}\) can write {file.parent}, and what it says"
    ):
        configuration(file.parent)
    with pytest.raises(ConfigError, match="can write"):
        configuration(folder, config=f"app/{name}")
    load({"app": "shop:app"}, {}, str(file.parent))  # workers that are root are no border
    load({"app": "shop:app", "user": "root"}, {}, str(file.parent))


@root
def test_a_file_that_takes_the_user_away_is_not_asked(folder: Path) -> None:
    """At a reload: it once was read first, and then there was nobody to be careful of."""
    from pyserve.config.config import reload

    file = folder / "pyserve.toml"
    file.write_text('app = "shop:app"\nuser = "nobody"\n')
    config = load({}, {}, str(folder))
    os.chown(file, NOBODY, NOBODY)
    for text in ('app = "shop:app"\n', 'app = "shop:app"\nuser = "root"\n'):
        file.write_text(text)
        with pytest.raises(ConfigError, match="can write it"):
            reload(config)


@root
def test_a_file_that_is_gone_when_it_is_looked_at(folder: Path) -> None:
    config = configuration(folder)
    object.__setattr__(config, "file", str(folder / "pyserve.toml"))
    with pytest.raises(ConfigError, match="is gone"):
        trust.check(config.file, [], "nobody", None)


@root
@pytest.mark.parametrize("option", ["error_logfile", "access_logfile"])
def test_a_log_in_a_folder_of_the_workers_is_refused_and_a_file_of_theirs_is_not(folder: Path, option: str) -> None:
    """As logrotate makes it, with ``create 640 www-data adm``."""
    log = folder / "logs" / "log"
    log.parent.mkdir()
    log.touch()
    os.chown(log, NOBODY, NOBODY)
    configuration(folder, **{option: str(log)})
    os.chown(log.parent, NOBODY, NOBODY)
    with pytest.raises(ConfigError) as error:
        configuration(folder, **{option: str(log)})
    assert error.value.message == (
        f"the log {log}: nobody (uid {NOBODY}) can write {log.parent}, and root would write wherever a link there leads: "
        f"chown root {log.parent}, or choose another folder"
    )
    for stream in ("-", "/dev/stdout", "/dev/stderr", "/dev/null", "/tmp/pyserve-test-log"):
        configuration(folder, **{option: stream})


@root
def test_a_user_who_is_gone_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr("pyserve.config.trust.ids_of", gone)
    with pytest.raises(ConfigError, match="user nobody, group None: one of them is not there any more"):
        configuration(folder)


def test_who_is_not_root_is_not_careful(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert trust.account("nobody", None) is None


# Warnings.

SAY = """
import sys
from pyserve.config import config, trust
read = config.load({"app": "shop:app", "user": "nobody"}, {}, sys.argv[1])
for line in trust.warnings(read.file, read.user, read.group):
    print(line)
"""


def said(folder: Path, *program: str, **environ: str) -> list[str]:
    command = [sys.executable, *(program or ("-c", SAY)), str(folder)]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environ}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@root
def test_what_root_runs_and_others_can_write_is_said_in_one_line(folder: Path) -> None:
    packages = folder / "site-packages"
    packages.mkdir()
    before = said(folder, PYTHONPATH=str(packages))
    pth = packages / "their.pth"
    pth.touch()
    os.chown(pth, NOBODY, NOBODY)
    expected = (
        f"code: nobody (uid {NOBODY}) can write {pth}, and it is run as root; if that is not meant: chown root {pth}"
    )
    assert said(folder, PYTHONPATH=str(packages)) == [*before, expected]
    os.chown(packages, NOBODY, NOBODY)
    (line,) = said(folder, PYTHONPATH=str(packages))[len(before) :]
    assert f"can write {packages} and 1 more, and it is run as root" in line


@root
def test_a_configuration_of_a_third_user_is_said(folder: Path) -> None:
    file = folder / "pyserve.toml"
    file.write_text("workers = 3\n")
    before = said(folder)
    os.chown(file, 4711, 4711)
    assert said(folder) == [
        f"configuration: uid 4711 can write {file}, and what it says is done as root; if that is not meant: chown root {file}",
        *before,
    ]


@root
def test_the_folder_that_python_m_looks_in_first_is_said(folder: Path) -> None:
    package = folder / "saying"
    package.mkdir()
    (package / "__main__.py").write_text(SAY)
    os.chown(folder, NOBODY, NOBODY)
    (line,) = (each for each in said(folder, "-m", "saying") if "python -m looks there first" in each)
    assert f"can write {folder}, and python -m looks there first: start pyserve, or python -P -m pyserve" in line
    assert not any("looks there first" in each for each in said(folder, "-P", "-m", "saying", PYTHONPATH=str(folder)))
