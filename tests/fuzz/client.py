"""Plays a plan over a real connection: sends and reads at the same time, and keeps every byte."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from fuzz import plan as steps
from fuzz.answers import Reader
from fuzz.plan import OPEN, Plan

PATIENCE = 20.0  # seconds without a byte, or without room for one


@dataclass
class Played:
    reader: Reader
    ended: bool = False  # by the server, in order
    reset: bool = False  # by the server
    silent: bool = False  # nothing came that had to
    seconds: float = 0.0

    def __str__(self) -> str:
        how = [name for name in ("ended", "reset", "silent") if getattr(self, name)]
        statuses = [answer.status for answer in self.reader.answers]
        return f"answers {statuses}, then {' and '.join(how) or 'open'}, after {self.seconds:.2f} s"


class Client:
    def __init__(self, plan: Plan, port: int, source: str) -> None:
        self.plan = plan
        self.played = Played(Reader([ask.method for ask in plan.asks]))
        self.deaf = False
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if plan.window:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.window)
        self.socket.bind((source, 0))
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)

    def play(self) -> Played:
        began = time.monotonic()
        with self.socket:
            for word, argument in self.plan.steps:
                if self.over() and word != steps.SEND:
                    break
                getattr(self, f"do_{word}")(argument)
                if word == steps.RESET:
                    return self.played
            self.wait(self.is_done)
            with contextlib.suppress(OSError):  # what comes unasked
                self.take(select.POLLIN)
        self.played.seconds = time.monotonic() - began
        return self.played

    def over(self) -> bool:
        return self.played.ended or self.played.reset or self.played.silent

    def is_done(self) -> bool:
        plan = self.plan
        if plan.end == OPEN and not any(word == steps.SHUT for word, _ in plan.steps):
            return len(self.played.reader.answers) >= len(plan.asks)
        return False  # to the end

    # Steps

    def do_send(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.played.reset and not self.played.silent:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                self.deaf = False  # else nobody would go on
                self.step(select.POLLOUT if self.over() else select.POLLIN | select.POLLOUT)
            except (BrokenPipeError, ConnectionResetError):
                return  # what has come before that can be read all the same

    def do_pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self.over():
            if self.deaf:
                time.sleep(left)
            else:
                self.step(select.POLLIN, left)

    def do_answers(self, count: int) -> None:
        self.wait(lambda: len(self.played.reader.answers) >= count)

    def do_continue(self, number: int) -> None:
        reader = self.played.reader
        self.wait(lambda: number in reader.continues or len(reader.answers) > number)

    def do_deaf(self, _: None) -> None:
        self.deaf = True

    def do_listen(self, _: None) -> None:
        self.deaf = False

    def do_shut(self, _: None) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def do_reset(self, _: None) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # Reading

    def wait(self, condition: Callable[[], bool]) -> None:
        while not condition() and not self.over():
            if not self.step(select.POLLIN):
                self.played.silent = True

    def step(self, events: int, seconds: float = PATIENCE) -> bool:
        """Wait for one of these, and read if there is something; False if nothing came."""
        poll = select.poll()
        poll.register(self.socket, events)
        ready = poll.poll(seconds * 1000)
        if ready and not self.over():
            self.take(ready[0][1])
        elif not ready and seconds == PATIENCE:
            self.played.silent = True
        return bool(ready)

    def take(self, events: int) -> None:
        if not events & ~select.POLLOUT:
            return
        try:
            data = self.socket.recv(262144)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.played.reset = True
            return
        self.played.ended = not data
        self.played.reader.feed(data)
