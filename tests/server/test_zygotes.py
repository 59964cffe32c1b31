"""Starting zygotes: the interpreter's options, what is inherited and what is not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from pyserve.ipc import CHANNEL_FD
from pyserve.ipc.channel import Channel
from pyserve.master import zygotes
from pyserve.master.zygotes import interpreter_options
from pyserve.system import called
from pyserve.system.signals import BLOCKED
from support.processes import open_files


@pytest.mark.parametrize(
    ("command", "options"),
    [
        # as it is installed
        ("python /venv/bin/pyserve app:app", ""),
        ("python /venv/bin/pyserve -w 4 -X app:app", ""),
        ("python -s /venv/bin/pyserve -b :80", "-s"),
        ("python", ""),
        # as a module
        ("python -m pyserve app:app", ""),
        ("python -mpyserve -w 4 app:app", ""),
        ("python -um pyserve app:app", "-u"),
        ("python -Im pyserve -w 4", "-I"),
        ("python -bbum pyserve -w 4", "-bbu"),
        ("python -c code -X dev", ""),
        ("python -ccode -X dev", ""),
        # options with a value, in this word or in the next
        ("python -X dev -m pyserve", "-X dev"),
        ("python -Xdev -m pyserve", "-X dev"),
        ("python -uXdev -m pyserve", "-u -X dev"),
        ("python -uX dev -W error -m pyserve", "-u -X dev -W error"),
        ("python -Werror::DeprecationWarning:m -m pyserve", "-W error::DeprecationWarning:m"),
        ("python -X importtime -X dev -X utf8=1 -m pyserve", "-X importtime -X dev -X utf8=1"),
        ("python -W module -m pyserve", "-W module"),
        ("python --check-hash-based-pycs never -m pyserve", "--check-hash-based-pycs never"),
        # the end of the options
        ("python -O - -u", "-O"),
        ("python -O -- -u", "-O"),
        ("python -E -s -S -B -OO -v -q -d -I -P /venv/bin/pyserve", "-E -s -S -B -OO -v -q -d -I -P"),
    ],
)
def test_options_of_the_interpreter_are_found_in_its_command(command: str, options: str) -> None:
    assert interpreter_options(command.split()) == options.split()


@pytest.mark.parametrize(
    "command", ["-um os app:app", "-Im os", "-X dev -m os -w 4", "-bW ignore -Xutf8 -c pass -u", "-B -"]
)
def test_options_are_what_the_interpreter_itself_takes_for_them(command: str) -> None:
    """An interpreter that is started with them has the same flags."""
    tell = "import sys; print(sys.flags, sys._xoptions, sys.warnoptions)"
    words = command.split()
    place = next(index for index, word in enumerate(words) if word == "-" or word.endswith(("m", "c")))
    if words[place] != "-":
        words[place : place + 2] = [words[place][:-1] + "c", tell]

    def flags(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(command, input=tell, capture_output=True, text=True, check=True, timeout=60).stdout

    assert flags(*interpreter_options([sys.executable, *words]), "-c", tell) == flags(*words)


PROGRAM = """
import json, os, signal, socket
with socket.socket(fileno=3) as channel:
    channel.send(json.dumps({
        "environ": dict(os.environ),
        "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
        "stdin": os.readlink("/proc/self/fd/0"),
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "type": channel.type,
    }).encode())
    channel.recv(1)
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program in the zygote's place, which tells what it finds."""
    monkeypatch.setattr(zygotes, "PROGRAM", PROGRAM)


def hear(channel: Channel) -> Any:
    """What it tells, once it is up."""
    channel.socket.settimeout(60)
    return json.loads(channel.socket.recv(1 << 20))


def end(pid: int, channel: Channel) -> int:
    channel.close()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.usefixtures("program")
def test_zygote_gets_its_channel_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("PYSERVE_TEST", "kept")
    leaky = os.dup(0)
    pid, channel = zygotes.start()
    told = hear(channel)
    assert told["environ"]["PYSERVE_TEST"] == "kept"
    assert not set(zygotes.MASTER_ONLY) & told["environ"].keys()
    assert told["stdin"] == "/dev/null"
    assert told["fds"][:4] == [0, 1, 2, CHANNEL_FD]
    assert leaky not in told["fds"][4:], "what is not inheritable stays here"
    assert set(told["blocked"]) == set(BLOCKED), "until it has its own handlers"
    assert end(pid, channel) == 0
    os.close(leaky)


EARLY = """
import json, os, sys
from pyserve.system import called
from pyserve.master import zygotes
if zygotes.fork_early():
    exec(zygotes.PROGRAM)
    os._exit(0)
{then}
"""


def run_early(then: str, **environ: str) -> Any:
    """What a program prints that forks an early zygote (with the telling program in its place), then does something."""
    program = f"from pyserve.master import zygotes; zygotes.PROGRAM = {PROGRAM!r}\n" + EARLY.format(then=then)
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environ}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_early_zygote_is_handed_out_first_and_finds_what_others_find() -> None:
    tell = """
early = zygotes._early
first, second = zygotes.start(), zygotes.start()
told = []
for pid, channel in (first, second):
    channel.socket.settimeout(60)
    told.append(json.loads(channel.socket.recv(1 << 20)))
    channel.close()
    assert os.waitpid(pid, 0)[1] == 0
print(json.dumps([(first[0], early[0]), told]))
"""
    (taken, early), (first, second) = run_early(tell, NOTIFY_SOCKET="/run/systemd/notify", PYSERVE_TEST="kept")
    assert taken == early
    assert first == second


@pytest.mark.parametrize(
    ("before", "forks"),
    [
        ("os.dup2(1, 77)", True),  # as one that was inherited
        ("os.set_inheritable(os.open('/dev/null', os.O_RDONLY), False)", False),
        ("os.dup2(1, 3)", False),
        ("import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()", False),
    ],
)
def test_early_zygote_is_only_forked_where_nobody_was_before(before: str, forks: bool) -> None:
    told = "zygotes.discard_early(); print(json.dumps(early))"
    program = EARLY.replace("import json, os, sys", f"import json, os, sys; {before}").format(
        then=f"early = zygotes._early is not None\n{told}"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"from pyserve.master import zygotes; zygotes.PROGRAM = {PROGRAM!r}\n{program}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout) is forks, done.stderr


def test_early_zygote_that_nobody_took_ends() -> None:
    discard = """
pid, fd, _ = zygotes._early
zygotes.discard_early()
try:
    os.waitpid(pid, 0)
except ChildProcessError:
    print(json.dumps("gone"))
zygotes.discard_early()  # none there: nothing happens
"""
    assert run_early(discard) == "gone"


def test_interpreter_that_is_gone_is_an_oserror(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    monkeypatch.setattr(called, "_interpreter", ("/nowhere", "python"))
    with pytest.raises(FileNotFoundError):
        zygotes.start()
    assert open_files() <= before


@pytest.mark.usefixtures("program")
def test_ctrl_c_before_its_handlers_does_not_end_it() -> None:
    pid, channel = zygotes.start()
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGHUP)
    hear(channel)
    assert end(pid, channel) == 0
