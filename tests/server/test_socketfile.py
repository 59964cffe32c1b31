"""Root makes and removes a unix socket where another user may exchange the file at every step."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pyserve.errors import BindError, ConfigError
from pyserve.master.controlsocket import ControlSocket
from pyserve.master.listeners import Listener, open_all
from pyserve.master.pidfile import Pidfile
from pyserve.system import socketfile
from support.attacker import NOBODY, Attacker, open_folder, watched

MODE = 0o660
MOST_STEPS = 40

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose here")


@pytest.fixture
def attacker() -> Iterator[Attacker]:
    with Attacker() as attacker:
        yield attacker


def place(outside: Path, number: int) -> Path:
    """A folder of the attacker's, in which root is to make a file."""
    folder = outside / str(number) / "run"
    folder.mkdir(parents=True)
    for each in (folder.parent, folder):
        os.chown(each, NOBODY, NOBODY)
    return folder


class Attack:
    """Each time it is played, it comes one step later; ``over`` when there was no such step any more."""

    def __init__(self, attacker: Attacker, name: str, others: Path) -> None:
        self.attacker = attacker
        self.kind, target = ATTACKS[name]
        self.target = str(others / target) if target is not None else ""
        self.step = -1
        self.steps: list[str] = [""]

    @property
    def over(self) -> bool:
        return self.step >= len(self.steps)

    @contextlib.contextmanager
    def played(self, path: Path) -> Iterator[None]:
        self.step += 1
        name = path.parent if self.kind == "folder" else path

        def deed(step: int) -> None:
            if step == self.step:
                self.attacker.do(self.kind, name, self.target)

        with watched(deed) as made:
            yield
        self.steps = made
        assert len(made) < MOST_STEPS


@pytest.fixture
def outside() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def others(outside: Path) -> Iterator[Path]:
    """root's: ``secret``, a file, and ``app.sock``, a socket that somebody listens at, both for root alone."""
    others = outside / "others"
    others.mkdir()
    secret = others / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(others / "app.sock"))
        living.listen(MOST_STEPS)
        (others / "app.sock").chmod(0o600)
        yield others


def belongings(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    found = {path.name: path.lstat() for path in folder.iterdir()}
    return {name: (each.st_ino, each.st_mode, each.st_uid, each.st_gid) for name, each in found.items()}


# Name → what is done, and the name of what root has that it is done with. "folder" is done to the folder.
ATTACKS = {
    "link to a file": ("link", "secret"),
    "link to a socket": ("link", "app.sock"),
    "socket of its own": ("listen", None),
    "dead socket": ("die", None),
    "file": ("file", None),
    "gone": ("remove", None),
    "folder": ("folder", ""),
}


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest, attacker: Attacker, others: Path) -> Attack:
    return Attack(attacker, request.param, others)


@root
@pytest.mark.parametrize("before", ["nothing", "dead socket"])
def test_whatever_is_exchanged_at_whatever_step_root_touches_only_its_own(
    outside: Path, others: Path, attack: Attack, before: str
) -> None:
    """It once did chown() and chmod() by name: whoever put a link there was given the file that it led to."""
    mine = belongings(others)
    while not attack.over:
        path = place(outside, attack.step) / "app.sock"
        if before == "dead socket":
            attack.attacker.do("die", path)
        opened: list[Listener] = []
        with attack.played(path), contextlib.suppress(BindError):
            opened = open_all([f"unix:{path}"], 16, MODE, (NOBODY, NOBODY))
        for listener in opened:
            listener.close(unlink=True)
        assert belongings(others) == mine, (attack.step, attack.steps)
    assert len(attack.steps) > 4


@root
@pytest.mark.parametrize("what", ["listener", "control socket", "pidfile"])
def test_whatever_is_exchanged_before_the_end_root_removes_only_its_own(
    outside: Path, others: Path, attack: Attack, what: str
) -> None:
    """A stopping server once removed whatever its socket's path then led to."""
    mine = belongings(others)
    path = outside
    while not attack.over:
        path = place(outside, attack.step) / "app.sock"
        end = BEGINNINGS[what](str(path))
        with attack.played(path):
            end()
        assert belongings(others) == mine, (attack.step, attack.steps)
    assert not os.listdir(path.parent), "the last time nothing was exchanged"


def begin_listener(path: str) -> Callable[[], None]:
    (listener,) = open_all([f"unix:{path}"], 16, MODE, (NOBODY, NOBODY))
    return partial(listener.close, unlink=True)


def begin_pidfile(path: str) -> Callable[[], None]:
    pidfile = Pidfile(path)
    pidfile.write()
    return pidfile.remove


BEGINNINGS: dict[str, Callable[[str], Callable[[], None]]] = {
    "listener": begin_listener,
    "control socket": lambda path: ControlSocket.listen(path).close,
    "pidfile": begin_pidfile,
}


@root
def test_a_pidfile_is_written_over_nothing_of_roots(outside: Path, others: Path, attack: Attack) -> None:
    mine = belongings(others)
    while not attack.over:
        path = place(outside, attack.step) / "app.pid"
        with attack.played(path), contextlib.suppress(ConfigError):
            Pidfile(str(path)).write()
        (others / "app.pid").unlink(missing_ok=True)  # made there, if the folder was exchanged first
        assert belongings(others) == mine, (attack.step, attack.steps)
        assert (others / "secret").read_text() == "root's"


@root
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666, 0o777])
def test_the_file_is_never_more_open_than_it_is_to_be(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "app.sock"
    modes: list[int] = []

    def look(_step: int) -> None:
        if path.exists():
            modes.append(stat.S_IMODE(path.lstat().st_mode))

    with watched(look):
        sock, file = socketfile.listen(str(path), 16, mode, (NOBODY, NOBODY))
    found = path.lstat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, NOBODY, NOBODY)
    assert file == (found.st_dev, found.st_ino)
    assert len(modes) > 2
    assert all(seen & ~mode == 0 for seen in modes)
    sock.close()


def test_the_queue_is_empty(tmp_path: Path) -> None:
    """That the file leads to the socket was tried with a connection, which no worker is to see."""
    sock, _ = socketfile.listen(str(tmp_path / "app.sock"), 16, MODE, (-1, -1))
    with pytest.raises(BlockingIOError):
        sock.accept()
    sock.close()


# Two servers.


@pytest.mark.parametrize("what", ["listener", "control socket"])
def test_two_that_start_at_once_do_not_take_each_others_socket(tmp_path: Path, what: str) -> None:
    """One that is bound and does not listen yet looks dead. The other once took it then, if it could not have the lock."""
    path = tmp_path / "app.sock"
    waiting = threading.Event()
    refused: list[str] = []

    def second() -> None:
        waiting.set()
        try:
            if what == "listener":
                open_all([f"unix:{path}"], 16, MODE, (-1, -1))
            else:
                ControlSocket.listen(str(path))
        except BindError as error:
            refused.append(error.message)

    with socket.socket(socket.AF_UNIX) as first:
        thread = threading.Thread(target=second)
        with socketfile._alone_in(str(tmp_path)):
            first.bind(str(path))
            file = path.lstat().st_ino
            thread.start()
            waiting.wait()
            thread.join(0.1)  # time enough to do wrong
            first.listen()
        thread.join()
    assert path.lstat().st_ino == file
    assert f"pid {os.getpid()} listens there" in refused[0]


def test_who_keeps_the_folder_locked_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with socketfile._alone_in(str(tmp_path)):
        sock, _ = socketfile.listen(str(tmp_path / "app.sock"), 16, MODE, (-1, -1))
    sock.close()


def test_the_socket_of_a_newer_server_is_left_to_it(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    (older,) = open_all([f"unix:{path}"], 16, MODE, (-1, -1))
    path.unlink()
    (newer,) = open_all([f"unix:{path}"], 16, MODE, (-1, -1))
    older.close(unlink=True)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    newer.close(unlink=True)
    assert not path.exists()


def test_the_pidfile_of_a_newer_server_is_left_to_it(tmp_path: Path) -> None:
    """In containers both have the same pid, and the file system gives the same inode again."""
    older, newer = Pidfile(str(tmp_path / "pid")), Pidfile(str(tmp_path / "pid"))
    older.write()
    (tmp_path / "pid").unlink()
    newer.write()
    older.remove()
    assert (tmp_path / "pid").exists()
    newer.remove()
    assert not (tmp_path / "pid").exists()
