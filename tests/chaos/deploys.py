"""The app under fire. It writes down each request that it begins; its versions are good or fail in every way that new
code has."""

from __future__ import annotations

from pathlib import Path

APP = """
import hashlib, multiprocessing, os, signal, sys, time
import pyserve

JOURNAL = os.open({journal!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
VERSION = {version}
served = 0

def note(event, ident):
    os.write(JOURNAL, f"{{event}} {{ident}} {{os.getpid()}} {{time.monotonic()}}\\n".encode())

def die(number):
    note("die", "-")
    signal.raise_signal(number)  # in this thread, which then cannot answer any more

def fork(child):
    # A child whose code comes to its end in ours, exits, or ends as multiprocessing wants it.
    if child == "process":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(0.05,))
        process.start()
        process.join()
    elif not os.fork():
        if child == "exits":
            sys.exit(0)
        time.sleep(0.5)

def first_request():
    pass

def each_request():
    pass

{special}

def parts(ident):
    for number in range(12):
        time.sleep(0.01)
        yield f"{{number}} {{ident}}\\n".encode()

def wsgi(environ, start_response):
    global served
    kind, what, ident = environ["PATH_INFO"][1:].split("/")
    note("begin", ident or environ["QUERY_STRING"])
    served += 1
    if served == 1:
        first_request()
    each_request()
    if kind == "fork":
        fork(what)
    if kind == "poison":
        die(signal.Signals[what])
    headers = [("Content-Type", "text/plain"), ("X-Pid", str(os.getpid())), ("X-Version", str(VERSION))]
    if kind == "stream":
        start_response("200 OK", headers)
        return parts(ident)
    data = environ["wsgi.input"].read()
    if kind == "busy":
        time.sleep(0.02)
    body = f"{{ident}} {{len(data)}} {{hashlib.sha256(data).hexdigest()}}".encode()
    start_response("200 OK", [*headers, ("Content-Length", str(len(body)))])
    return [body]
"""

# What makes a version special.
GOOD = "pass"
VERSIONS = {
    "good": GOOD,
    "raises": "raise RuntimeError('planned: this import raises')",
    "exits": "import sys; sys.exit('planned: this import exits')",
    "hangs": "time.sleep(1000)",
    "segfaults": "import faulthandler; faulthandler.disable(); note('die', '-'); os.kill(os.getpid(), signal.SIGSEGV)",
    "hook raises": "@pyserve.on_init\ndef hook():\n    raise RuntimeError('planned: this hook raises')",
    "crashes late": (
        "@pyserve.on_bootstrap\ndef hook():\n    global born\n    born = time.monotonic()\n"
        "def each_request():\n    if time.monotonic() > born + 2.0:\n        die(signal.SIGKILL)"
    ),
    "fails first": "def first_request():\n    raise RuntimeError('planned: the first request fails')",
    "dies first": "def first_request():\n    die(signal.SIGKILL)",
}
DEADLY = {"crashes late", "dies first"}  # to workers that serve already, or soon


class Deploys:
    """``app.py`` in a folder, in one version after another; ``journal`` is what they write."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "app.py"
        self.journal = folder / "journal"
        self.version = 0
        self.deploy("good")

    def deploy(self, version: str) -> None:
        self.version += 1
        text = APP.format(journal=str(self.journal), version=self.version, special=VERSIONS[version])
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)  # whoever imports it meanwhile finds one or the other
