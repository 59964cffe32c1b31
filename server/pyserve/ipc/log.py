"""The error log: one os.write() per record, to a descriptor that outlives forks.

    2026-11-21 05:11:32.123 +0000 info  master    listening on http://127.0.0.1:8000
    2026-11-21 05:11:33.001 +0000 error worker 2 (pid 4711, gen 3)  GET /x: ...

A record starts at the first column and nothing else does: further lines are indented, control characters are escaped,
so that no client and no exception can forge one. Logging never raises and never waits, also for a pipe or a terminal
that nobody reads (writing.h says how): what cannot be written is counted, and the next record that gets through says
how many were lost. A record longer than a pipe's atomic write
(4096 bytes) may be mixed with others when the log is a pipe. Not the logging module: its import takes longer than
all of ours, and its locks do not survive forks.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from pyserve.errors import ConfigError
from pyserve.ipc import journal
from pyserve.system import descriptors, linux
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from pyserve.ipc.journal import Journal

DEBUG, INFO, WARNING, ERROR, CRITICAL = 10, 20, 30, 40, 50
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}

INDENT = "    "
COLOURS = {"debug": "2", "info": "32", "warn": "33", "error": "31", "crit": "1;31", "app": "36"}
LONGEST_PARTIAL = 64 * 1024
WHY_NOT = {
    errno.ENXIO: "nobody reads this pipe",
    errno.ELOOP: "it is a symbolic link that another user could have put there; name the file that it leads to",
}

# Every control character but newline and tab, of both the ASCII and the Latin-1 range, is shown by its code.
ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def open_log(path: str, standard: int = 2, *, follow: bool = False) -> int:
    """A descriptor to append records to; ``-`` is the standard stream given (1 or 2), opened anew or duplicated.

    follow: the file may be a symbolic link. Raises ConfigError that names the path.
    """
    # Under systemd the standard streams are sockets, which cannot be opened by their names in /dev.
    stream = standard if path == "-" else descriptors.STANDARD_STREAMS.get(path)
    try:
        if stream is not None:
            return open_stream(stream)
        links = 0 if follow else os.O_NOFOLLOW
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC | links, 0o640)
    except OSError as error:
        name = f"standard stream {stream}" if path == "-" else path
        why = WHY_NOT.get(error.errno or 0, error.strerror)
        raise ConfigError(f"cannot open the log {name}: {why}") from None


def open_stream(fd: int) -> int:
    """A standard stream for us alone: a pipe or terminal is opened anew, so that O_NONBLOCK is ours to set.

    A file is not, as its position must stay shared; nor what cannot be: a socket, or a pipe of another user's.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            pass
    return os.dup(fd)


class Log:
    """Writes records of at least ``level`` ("debug" ... "critical") to ``fd`` in the name of a process."""

    def __init__(self, fd: int, level: str, process_name: str) -> None:
        self.fd = fd
        self.threshold = LEVELS[level]
        self._may_wait = linux.may_wait(fd)
        self._journal = journal.find(fd)
        self.overheard: Callable[[str, str], None] | None = None  # told of each text, info and above, with its word
        self.lost = 0  # records that could not be written since the last one that was
        self.why_lost = ""
        self._torn = False  # does an unfinished record stand at the end of the log?
        self._colour = not os.environ.get("NO_COLOR") and os.isatty(fd)
        self._second = -1
        self._date = self._offset = ""
        self.rename(process_name)

    def rename(self, process_name: str) -> None:
        """Speak for another process, as after a fork; what was lost by then is the other's to say."""
        self.lost = 0
        self._name = f"{process_name:<8}"

    def debug(self, text: str) -> None:
        if self.threshold <= DEBUG:
            self._record("debug", text)

    def info(self, text: str) -> None:
        self._say(INFO, "info", text)

    def warning(self, text: str) -> None:
        self._say(WARNING, "warn", text)

    def error(self, text: str) -> None:
        self._say(ERROR, "error", text)

    def critical(self, text: str) -> None:
        self._say(CRITICAL, "crit", text)

    def app(self, text: str) -> None:
        """A line that the application itself wrote (wsgi.errors); as important as an error."""
        if self.threshold <= ERROR:
            self._record("app", text)

    def _say(self, level: int, word: str, text: str) -> None:
        if self.overheard is not None:
            self.overheard(word, text)
        if self.threshold <= level:
            self._record(word, text)

    def _record(self, word: str, text: str) -> None:
        if not self._put((word, text)):
            self.lost += 1

    def tell_lost(self) -> None:
        """Say how many records were lost, if there is room for that now: for when there is nothing else to say."""
        if self.lost:
            self._put()

    def _put(self, *records: tuple[str, str]) -> bool:
        lost = self.lost
        if lost:
            said = count(lost, "record", "was", "were")
            records = ("warn", f"{said} lost before this one: {self.why_lost}"), *records
        written = self._write(records) if self._journal is None else self._send(self._journal, records)
        if written:
            self.lost -= lost
        return written == len(records)

    def _send(self, to: Journal, records: Iterable[tuple[str, str]]) -> int:
        """How many of them, which go one by one, the journal has taken."""
        sent = 0
        try:
            for word, text in records:
                to.send(word, f"{self._name.rstrip()}: {escaped(text)}")
                sent += 1
        except OSError as error:
            self.why_lost = why_lost(error.errno or 0)
        return sent

    def _format(self, word: str, text: str) -> str:
        shown = f"{word:<5}"
        if self._colour:
            shown = f"\x1b[{COLOURS[word]}m{shown}\x1b[0m"
        body = escaped(text)
        if "\n" in body:
            body = body.replace("\n", "\n" + INDENT)
        return f"{self._stamp(time.time())} {shown} {self._name}  {body}\n"

    def _stamp(self, now: float) -> str:
        """Local time with its offset from UTC, to the millisecond."""
        second = int(now)
        if second != self._second:
            local = time.localtime(second)
            self._date, self._offset = time.strftime("%Y-%m-%d %H:%M:%S", local), time.strftime("%z", local)
            self._second = second
        return f"{self._date}.{int(now % 1 * 1000):03d} {self._offset}"

    def _write(self, records: Collection[tuple[str, str]]) -> int:
        """Write all of them, and return how many they are, or 0. If that fails, remember why."""
        text = "".join(self._format(*record) for record in records)
        record = ("\n" + text if self._torn else text).encode("utf-8", "backslashreplace")
        write = linux.write_now if self._may_wait else os.write
        done = 0
        try:
            while done < len(record):  # a short write is a full disk or pipe, seldom: going on tells which
                done += write(self.fd, record[done:] if done else record)
        except OSError as error:
            self.why_lost = why_lost(error.errno or 0)
            if done:
                self._torn = record[done - 1] != 10
            return 0
        self._torn = False
        return len(records)


def escaped(text: str) -> str:
    return text.rstrip("\n").translate(ESCAPES)


def why_lost(number: int) -> str:
    """Why a log cannot be written, from an errno."""
    return "its reader does not keep up" if number == errno.EAGAIN else os.strerror(number)


class ErrorStream:
    """The file that an application gets as wsgi.errors: each complete line becomes one record.

    A partial line waits for its end, for ``flush``, or until it is very long.
    """

    encoding = "utf-8"
    errors = "backslashreplace"
    name = "<wsgi.errors>"
    mode = "w"
    closed = False

    def __init__(self, log: Log) -> None:
        self._log = log
        self._partial = ""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        # Taken and cleared at once: another thread, or an exception raised by a signal, must not write it again.
        whole, self._partial = self._partial + text, ""
        *lines, rest = whole.split("\n")
        for line in lines:
            self._log.app(line.removesuffix("\r"))
        self._partial = rest + self._partial
        if len(self._partial) > LONGEST_PARTIAL:
            self.flush()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        partial, self._partial = self._partial, ""
        if partial:
            self._log.app(partial)

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The log's descriptor, for faulthandler and the like."""
        return self._log.fd
