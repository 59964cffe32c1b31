"""Clients that account for each request: what came of it, when, and from which version of the app.

A client looks whether its idle connection has been closed before it sends the next request on it, as libraries do: then
it opens another, and nothing was lost. A request that was sent and not answered in full was lost, whoever is to blame.
Nothing is tried again.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import NamedTuple

from servers import HOST

PATIENCE = 60.0  # seconds for an answer
ANSWERED, REFUSED = "answered", "refused"
FRESH = 4  # clients that open a connection for each request, every
FRESH_PAUSE = 0.1  # seconds
# Seconds that a client with a connection that it keeps thinks between two requests: within a reload, around its length,
# beyond it, and beyond what servers usually wait for idle clients that are to go.
THOUGHTS = (0.1, 0.3, 0.3, 1.0, 1.0, 2.0, 3.0, 7.0)
KEPT = 4  # clients with each of these


class Fate(NamedTuple):
    """What came of a request. outcome: "answered", "refused" (never sent), "reset", "eof", "cut" (a part of the answer
    has come), "timeout", "status 502"."""

    began: float  # CLOCK_MONOTONIC seconds: before the connection was made, if one had to be made
    ended: float
    outcome: str
    version: int  # of the app that answered; 0: none
    pid: int  # of the process that answered
    kept: bool  # it was sent on a connection that had been used before

    @property
    def lost(self) -> bool:
        return self.outcome not in (ANSWERED, REFUSED)

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Crowd:
    """``async with Crowd(port) as crowd:`` keeps asking meanwhile; the record is ``fates``, in the order in which they
    ended."""

    def __init__(self, port: int, seed: int = 1) -> None:
        self.port = port
        self.fates: list[Fate] = []
        self.closed_idle = 0  # connections that clients found closed before they sent
        self.stopping = False
        self.random = random.Random(seed)
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Crowd:
        thoughts = [thought for thought in THOUGHTS for _ in range(KEPT)]
        self.tasks = [asyncio.create_task(self.fresh()) for _ in range(FRESH)]
        self.tasks += [asyncio.create_task(self.keeping(thought)) for thought in thoughts]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ask no more, and wait for the answers that are due."""
        self.stopping = True
        await asyncio.gather(*self.tasks)

    async def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds * self.random.uniform(0.7, 1.3)
        while not self.stopping and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.2))

    async def fresh(self) -> None:
        while not self.stopping:
            await self.pause(FRESH_PAUSE)
            client = Client(self.port)
            self.fates.append(await client.ask("/", close=True))
            client.leave()

    async def keeping(self, thought: float) -> None:
        client = Client(self.port)
        while not self.stopping:
            await self.pause(thought)
            if client.connected and client.closed():
                self.closed_idle += 1
                client.leave()
            fate = await client.ask("/")
            self.fates.append(fate)
            if fate.outcome == REFUSED:
                await asyncio.sleep(0.1)
        client.leave()


class Client:
    """One client with one connection at a time, which it opens when it asks."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.used = False

    @property
    def connected(self) -> bool:
        return self.writer is not None

    def closed(self) -> bool:
        """Has the server closed the connection, as far as can be known without sending?"""
        assert self.reader
        return self.reader.at_eof() or self.reader.exception() is not None

    def leave(self) -> None:
        if self.writer:
            self.writer.close()
        self.reader = self.writer = None
        self.used = False

    async def connect(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(HOST, self.port)

    async def ask(self, target: str, *, close: bool = False) -> Fate:
        began = time.monotonic()
        kept = self.used
        version = pid = 0
        self.got = b""
        try:
            async with asyncio.timeout(PATIENCE):
                if not self.connected:
                    await self.connect()
                status, version, pid, closes = await self.exchange(target, close)
            outcome = ANSWERED if status == 200 else f"status {status}"
        except ConnectionRefusedError:
            outcome, closes = REFUSED, True
        except TimeoutError:
            outcome, closes = "timeout", True
        except asyncio.IncompleteReadError as error:
            outcome, closes = "cut" if self.got or error.partial else "eof", True
        except OSError:
            outcome, closes = "cut" if self.got else "reset", True
        self.used = True
        if closes:
            self.leave()
        return Fate(began, time.monotonic(), outcome, version, pid, kept)

    async def exchange(self, target: str, close: bool) -> tuple[int, int, int, bool]:
        """Send a request, read the answer: its status, version and process, and whether the connection ends with it."""
        assert self.reader
        assert self.writer
        ending = "Connection: close\r\n" if close else ""
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\n{ending}\r\n".encode())
        self.got = head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.lower(): value.strip().lower() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        if "content-length" in fields:
            body = await self.reader.readexactly(int(fields["content-length"]))
        else:  # a proxy's own error page; it closes
            body = await self.reader.read()
        version = pid = 0
        if status == 200:
            version, pid = map(int, body.split())
        return status, version, pid, fields.get("connection") == "close" or "content-length" not in fields
