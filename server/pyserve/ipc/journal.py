"""systemd's journal, where the standard error of a service usually goes.

What is written to the stream becomes an entry a line. A record goes to the journal's own socket instead, so that a
traceback is one entry, with the record's priority and without a second time stamp. Where that socket is not to be had,
the stream takes the record line by line, each with its priority in front (sd-daemon(3)).

The format of the socket's datagrams: https://systemd.io/JOURNAL_NATIVE_PROTOCOL
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "pyserve"
# syslog's priorities of our words; what an app writes to wsgi.errors is nothing that it has rated.
PRIORITIES = {"debug": 7, "info": 6, "warn": 4, "error": 3, "crit": 2, "app": 5}
MOST_SPACE = {errno.EMSGSIZE, errno.ENOBUFS}  # the datagram is too large for the socket


def is_journal(fd: int) -> bool:
    """Is this descriptor the service's standard output or error, and do they go to the journal (systemd.exec(5))?"""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class Journal:
    """``send`` writes an entry and never waits. ``stream``: the descriptor that the journal reads, too."""

    def __init__(self, stream: int) -> None:
        from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, socket

        self.stream = stream
        self.socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK)

    def send(self, word: str, text: str) -> None:
        """BlockingIOError: it does not keep up. Other OSErrors: neither it nor the stream can be written."""
        priority = PRIORITIES[word]
        datagram = entry({"PRIORITY": str(priority), "SYSLOG_IDENTIFIER": IDENTIFIER, "MESSAGE": text})
        try:
            self.send_datagram(datagram)
        except BlockingIOError:
            raise
        except OSError:
            os.write(self.stream, "".join(f"<{priority}>{line}\n" for line in text.split("\n")).encode())

    def send_datagram(self, datagram: bytes) -> None:
        from _socket import SCM_RIGHTS, SOL_SOCKET

        try:
            self.socket.sendto(datagram, SOCKET)
        except OSError as error:
            if error.errno not in MOST_SPACE:
                raise
            fd = sealed(datagram)
            try:
                self.socket.sendmsg([b""], [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", fd))], 0, SOCKET)
            finally:
                os.close(fd)


def entry(fields: dict[str, str]) -> bytes:
    """Values of more than one line have their size in front."""
    return b"".join(field(name, value.encode("utf-8", "backslashreplace")) for name, value in fields.items())


def field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)
    return b"%s=%s\n" % (name.encode(), value)


def sealed(data: bytes) -> int:
    """A memory file with this content, which nobody can change any more."""
    fd = os.memfd_create("pyserve-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    return fd


def find(fd: int) -> Journal | None:
    """The journal, if it reads what is written to this descriptor."""
    return Journal(fd) if is_journal(fd) else None
