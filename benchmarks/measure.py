"""One run: start a server on one core, look at what it answers, load it from the other, take its CPU time, end it."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import cases
import environment
import processes
from cases import Case
from servers import HOST, AbsentError, Server

PATIENCE = 15.0  # seconds until a server must answer
ANSWERING = 5.0  # seconds for the answers on all connections
ERRORS = ("connect", "read", "write", "status", "timeout")  # as wrk counts them
MARGIN = 30  # seconds that wrk may take beyond its time


class Cores(NamedTuple):
    server: int
    load: int


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]  # names in lower case
    body: bytes
    size: int  # head and body


def run(server: Server, case: Case, seconds: int, cores: Cores) -> dict[str, object]:
    """Figures of one run, with what was noticed in ``notes``; raises AbsentError if the server does not start."""
    with tempfile.TemporaryDirectory(prefix="pyserve-bench-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o755)  # nginx's worker is another user
        port = processes.free_port()
        command = server.command(case, port, scratch)
        process = processes.start(command, environment.HERE, scratch / "output", cores.server)
        try:
            await_start(process, port, scratch / "output")
            size, notes = survey(case, port)
            before = processes.usage(process.pid)
            result = load(case, port, seconds, cores.load)
            after = processes.usage(process.pid)
            again, _ = survey(case, port)
        finally:
            processes.end(process)
    if before.pids != after.pids:
        notes.append("processes came or went")
    if size != again:
        notes.append("answers changed")
    return figures(result, after.seconds - before.seconds, notes + faults(result, size, case.connections))


def await_start(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AbsentError(f"does not start: {environment.reason(log.read_text(errors='replace'))}")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AbsentError(f"does not listen within {PATIENCE:g} s: {environment.reason(log.read_text(errors='replace'))}")


def survey(case: Case, port: int) -> tuple[int, list[str]]:
    """Ask once on as many connections as wrk will open; so the server is warm, too.

    Returns the size of an answer, and notes. Raises AbsentError if an answer is not the right one.
    """
    answers = ask(case, port)
    if not answers:
        raise AbsentError("does not answer")
    for answer in answers:
        if answer.status != 200 or answer.body != case.body:
            raise AbsentError(f"answers wrongly: {answer.status}, {len(answer.body)} bytes of body")
    notes = []
    if len(answers) < case.connections:
        notes.append(f"serves {len(answers)} of {case.connections} connections")
    if "date" not in answers[0].fields:
        notes.append("no Date")
    if closes(answers[0]) and case.headers != cases.CLOSING:
        notes.append("closes")
    return answers[0].size, notes


def ask(case: Case, port: int) -> list[Answer]:
    """Open all connections and ask on each, then read the answers that come."""
    answers = []
    until = time.monotonic() + ANSWERING
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(case.connections):
            clients.append(stack.enter_context(socket.create_connection((HOST, port), timeout=ANSWERING)))
            clients[-1].sendall(cases.request(case, port))
        for client in clients:
            client.settimeout(max(until - time.monotonic(), 0.01))
            with contextlib.suppress(OSError):
                answers.append(read_answer(client))
            if answers and closes(answers[-1]):
                client.close()  # gunicorn sync waits for this, and for two seconds if it does not come
    return answers


def closes(answer: Answer) -> bool:
    return answer.fields.get("connection", "").lower() == "close"


def read_answer(client: socket.socket) -> Answer:
    """One response with a Content-Length; raises OSError if it does not come whole."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += receive(client)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(fields.get("content-length", 0))
    parts = [body]
    missing = length - len(body)
    while missing > 0:
        parts.append(receive(client))
        missing -= len(parts[-1])
    return Answer(int(first.split()[1]), fields, b"".join(parts), len(head) + 4 + length)


def receive(client: socket.socket) -> bytes:
    data = client.recv(262_144)
    if not data:
        raise ConnectionError("the server closed early")
    return data


def load(case: Case, port: int, seconds: int, core: int) -> dict[str, float]:
    """wrk's findings, as done.lua prints them."""
    command = ["taskset", "--cpu-list", str(core), "wrk", "--threads", "1", "--connections", str(case.connections)]
    command += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", case.script]
    for header in case.headers:
        command += ["--header", header]
    command.append(f"http://{HOST}:{port}{case.path}")
    wrk = subprocess.run(
        command, cwd=environment.HERE, check=True, capture_output=True, text=True, timeout=seconds + MARGIN
    )
    for line in wrk.stdout.splitlines():
        if line.startswith("RESULT "):
            result: dict[str, float] = json.loads(line.removeprefix("RESULT "))
            return result
    raise RuntimeError(f"wrk says nothing of its result: {wrk.stdout}")


def faults(result: dict[str, float], size: int, connections: int) -> list[str]:
    """What is wrong with a run, by wrk's own count and by the bytes it has read."""
    found = [f"{result[kind]:g} {kind} errors" for kind in ERRORS if result[kind]]
    surplus = result["bytes"] - result["requests"] * size
    if not 0 <= surplus <= connections * size:  # the answers under way when wrk stopped
        found.append("answers differ in size")
    return found


def figures(result: dict[str, float], cpu: float, notes: list[str]) -> dict[str, object]:
    requests = result["requests"]
    if not requests:
        raise AbsentError("answers nothing under load")
    return {
        "requests_per_second": requests / result["seconds"],
        "p50_ms": result["p50"] / 1000,
        "p99_ms": result["p99"] / 1000,
        "cpu_us": cpu / requests * 1e6,
        "busy": cpu / result["seconds"],
        "requests": requests,
        "notes": notes,
    }
