"""How many clients wait in a listener's queue, as the kernel counts them.

For TCP that is in the socket's TCP_INFO. A unix socket's queue is told by sock_diag(7), by the socket's inode.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.listeners import Listener

UNACKED = 24  # bytes before tcpi_unacked in struct tcp_info (linux/tcp.h)
SOCK_DIAG = 4  # the protocol of the netlink socket (linux/netlink.h)
BY_FAMILY, REQUEST = 20, 1  # SOCK_DIAG_BY_FAMILY (linux/sock_diag.h), NLM_F_REQUEST
HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
# unix_diag_req (linux/unix_diag.h): family, protocol, –, states, inode, what to show, cookie
QUESTION = struct.Struct("=BBHIIIQ")
FOUND = 16  # bytes of unix_diag_msg, before the attributes
ATTRIBUTE = struct.Struct("=HH")  # rtattr: length, type
SHOW_QUEUE, QUEUE = 0x10, 4  # UDIAG_SHOW_RQLEN, UNIX_DIAG_RQLEN: the waiting ones, then how many may wait
ALL_STATES = 0xFFFFFFFF
NO_COOKIE = 0xFFFFFFFFFFFFFFFF


def queued(listener: Listener) -> int:
    """How many connections wait to be accepted; 0 if the kernel does not tell."""
    if listener.tcp:
        info = listener.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKED + 4)
        waiting: int = struct.unpack_from("=I", info, UNACKED)[0]  # the field's meaning while a socket listens
        return waiting
    try:
        return _queued_unix(os.fstat(listener.fileno()).st_ino)
    except (OSError, struct.error):
        return 0


def _queued_unix(inode: int) -> int:
    question = QUESTION.pack(socket.AF_UNIX, 0, 0, ALL_STATES, inode & 0xFFFFFFFF, SHOW_QUEUE, NO_COOKIE)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, SOCK_DIAG) as netlink:
        netlink.setblocking(False)  # the answer is there when the question has been sent
        netlink.send(HEADER.pack(HEADER.size + len(question), BY_FAMILY, REQUEST, 0, 0) + question)
        answer = netlink.recv(4096)
    length, kind, *_ = HEADER.unpack_from(answer)
    at = HEADER.size + FOUND
    while kind == BY_FAMILY and at < length:
        size, attribute = ATTRIBUTE.unpack_from(answer, at)
        if attribute == QUEUE:
            waiting: int = struct.unpack_from("=I", answer, at + ATTRIBUTE.size)[0]
            return waiting
        at += max(ATTRIBUTE.size, (size + 3) & ~3)
    return 0
