"""Runs a program under a seccomp filter, as containers do: ``python seccomp.py ENOSYS pidfd_open,waitid -- COMMAND …``.

Each of these system calls fails with that error, in the program and all that it starts. ``threads`` stands for those that
make a thread: clone3 is not there, so that clone is used, whose flags say what for.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

# The numbers of asm/unistd.h.
NUMBERS = {
    "x86_64": {
        "pidfd_send_signal": 424, "pidfd_open": 434, "memfd_create": 319, "eventfd2": 290, "accept4": 288, "waitid": 247,
        "prlimit64": 302, "clone": 56, "clone3": 435,
    },
    "aarch64": {
        "pidfd_send_signal": 424, "pidfd_open": 434, "memfd_create": 279, "eventfd2": 19, "accept4": 242, "waitid": 95,
        "prlimit64": 261, "clone": 220, "clone3": 435,
    },
}  # fmt: skip
CALLS = NUMBERS.get(platform.machine(), {})
THREADS = "threads"

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, FIRST_ARGUMENT = 0, 16  # where they are in seccomp_data
ALLOW, FAIL = 0x7FFF0000, 0x00050000
CLONE_THREAD = 0x10000

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


class Filter(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter)))


def instructions(error: int, calls: list[str]) -> list[Instruction]:
    program: list[Instruction] = []
    for call in calls:
        if call == THREADS:
            program += unless(CALLS["clone3"], errno.ENOSYS)
            program += [(LOAD, 0, 0, NUMBER), (EQUAL, 0, 3, CALLS["clone"]), (LOAD, 0, 0, FIRST_ARGUMENT)]
            program += [(ANY_BIT, 0, 1, CLONE_THREAD), (RETURN, 0, 0, FAIL | errno.EAGAIN)]
        else:
            program += unless(CALLS[call], error)
    return [*program, (RETURN, 0, 0, ALLOW)]


def unless(number: int, error: int) -> list[Instruction]:
    return [(LOAD, 0, 0, NUMBER), (EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | error)]


def deny(error: int, calls: list[str]) -> None:
    """From here on, in this process and all that it starts."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    each = [Filter(*instruction) for instruction in instructions(error, calls)]
    program = Program(len(each), (Filter * len(each))(*each))
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp is not to be had here")


if __name__ == "__main__":
    deny(getattr(errno, sys.argv[1]), sys.argv[2].split(","))
    os.execvp(sys.argv[4], sys.argv[4:])
