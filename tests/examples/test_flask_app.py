"""examples/flask_app: all that its page offers; large bodies with flat memory; everything again during reloads."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from examples.running import Client, Example, during_releases, serve_example
from lifecycle.load import Load
from support.processes import wait_for

MEGABYTE = 1024 * 1024
PATTERN = bytes(range(256)) * 256
GROWTH = 30 * MEGABYTE


@pytest.fixture(scope="module")
def flask_app(tmp_path_factory: pytest.TempPathFactory, worker_class: str) -> Iterator[Example]:
    with serve_example("flask_app", tmp_path_factory.mktemp("flask")) as example:
        yield example


@pytest.fixture
def client(flask_app: Example) -> Iterator[Client]:
    with flask_app.client() as client:
        yield client


def digest(body: bytes) -> dict[str, object]:
    return {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def noise(megabytes: int) -> bytes:
    return random.Random(megabytes).randbytes(megabytes * MEGABYTE)


def test_index(client: Client) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "<title>pyserve: the Flask example</title>" in answer.text
    for link in ("/hello", "/upload", "/download?rows=100000", "/stream?mb=100", "/slow?seconds=3"):
        assert f'="{link}"' in answer.text


def test_the_nightly_list_is_replaced_as_a_whole(client: Client) -> None:
    everything = [{"id": number, "name": f"item {number}"} for number in range(5000)]
    assert let_in(lambda: client.put("/api/items", json=everything)).json() == {"items": 5000}
    assert let_in(lambda: client.put("/api/items", json=[{"id": 1, "name": "tea"}])).json() == {"items": 1}
    assert let_in(lambda: client.get("/api/items")).json() == [{"id": 1, "name": "tea"}]
    assert let_in(lambda: client.put("/api/items", json={"not": "a list"})).status_code == 400
    assert let_in(lambda: client.get("/healthz")).status_code == 200


def let_in(ask: Callable[[], requests.Response]) -> requests.Response:
    """The answer once it is no 503: the gate opens a moment after the response to a request that ran alone."""
    answers: list[requests.Response] = []

    def asked() -> bool:
        answers.append(ask())
        return answers[-1].status_code != 503

    wait_for(asked)
    return answers[-1]


def test_who_answers(flask_app: Example, client: Client) -> None:
    assert client.get("/version").text == "1\n"
    assert client.get("/healthz").text == "ok\n"
    assert int(client.get("/pid").text) in flask_app.server.workers()
    who = client.get("/api/whoami").json()
    assert who["version"] == "1"
    assert who["pid"] in flask_app.server.workers()


def test_the_pool_of_a_worker(flask_app: Example, client: Client) -> None:
    answer = client.get("/api/pool").json()
    assert answer["idle"] == 4
    assert answer["sqlite"] == sqlite3.sqlite_version
    assert answer["pid"] in flask_app.server.workers()


def test_each_worker_closes_its_pool_when_it_leaves(tmp_path: Path, worker_class: str) -> None:
    with serve_example("flask_app", tmp_path) as example:
        old = example.server.workers()
        example.reload()
        new = example.server.workers()
        example.server.stop()
        for pids, cause in ((old, "reload"), (new, "SIGTERM")):
            for pid in pids:
                assert f"worker {pid}: the pool is closed ({cause})" in example.server.log


def test_json(client: Client) -> None:
    answer = client.post("/api/words", json={"text": "être ou ne pas être"})
    assert answer.json() == {"words": 5, "characters": 19, "longest": "être"}


@pytest.mark.parametrize("body", [[], {}, {"text": 8}, None])
def test_json_that_is_not_what_was_asked_for(client: Client, body: object) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/words", data=json.dumps(body), headers=headers)
    assert answer.status_code == 400
    assert answer.json() == {"error": 'send an object with a string: {"text": "..."}'}


def test_form_and_session(client: Client) -> None:
    redirect = client.post("/hello", data={"name": " Ada <3 "}, allow_redirects=False)
    assert (redirect.status_code, redirect.headers["Location"]) == (303, "/")
    assert "Hello, Ada &lt;3</h1>" in client.get("/").text
    assert [client.get("/counter").json()["visits"] for _ in range(10)] == list(range(2, 12))
    assert "It serves.</h1>" in client.post("/forget").text
    assert client.get("/counter").json() == {"visits": 2}
    assert client.post("/hello", data={"name": " "}).status_code == 400


def test_a_forged_session_is_a_new_visitor(client: Client) -> None:
    client.get("/counter")
    forged = client.cookies["session"][:-1]
    client.cookies.clear()
    assert client.get("/counter", cookies={"session": forged}).json() == {"visits": 1}


def test_upload_of_50_megabytes_in_a_form(client: Client) -> None:
    body = noise(50)
    answer = client.post("/upload", files={"file": ("noise.bin", body)})
    assert answer.json() == {"name": "noise.bin", **digest(body)}


def test_upload_of_50_megabytes_as_they_are(client: Client) -> None:
    body = noise(50)
    assert client.put("/upload/noise.bin", data=body).json() == {"name": "noise.bin", **digest(body)}


def test_upload_in_chunks(client: Client) -> None:
    answer = client.put("/upload/pattern", data=(PATTERN for _ in range(80)))
    assert answer.json() == {"name": "pattern", **digest(PATTERN * 80)}


def test_upload_without_a_file(client: Client) -> None:
    assert client.post("/upload", data={"file": "text"}).status_code == 400


def test_download(client: Client) -> None:
    answer = client.get("/download", params={"rows": 100_000})
    assert answer.headers["Content-Disposition"] == "attachment; filename=powers.csv"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    rows = list(csv.reader(answer.text.splitlines()))
    assert rows[0] == ["number", "square", "cube"]
    assert rows[-1] == ["100000", str(10**10), str(10**15)]
    assert len(rows) == 100_001


@pytest.mark.parametrize("path", ["/download?rows=-1", "/download?rows=1000001", "/stream?mb=x", "/slow?seconds=nan"])
def test_numbers_out_of_range(client: Client, path: str) -> None:
    assert client.get(path).status_code == 400


def test_slow(client: Client) -> None:
    assert client.get("/slow?seconds=0.2").json()["slept"] == 0.2


def test_a_stream_of_100_megabytes_takes_no_memory(flask_app: Example, client: Client) -> None:
    """The memory of all processes, seen again and again while the client reads."""
    assert client.get("/stream?mb=1").content == PATTERN * 16
    before = flask_app.memory()
    highest = before
    received = hashlib.sha256()
    with client.get("/stream?mb=100", stream=True) as answer:
        for number, block in enumerate(answer.iter_content(MEGABYTE)):
            received.update(block)
            if number % 10 == 0:
                highest = max(highest, flask_app.memory())
    assert received.hexdigest() == hashlib.sha256(PATTERN * 1600).hexdigest()
    assert highest - before < GROWTH


def test_an_upload_of_50_megabytes_takes_no_memory(flask_app: Example, client: Client) -> None:
    """Half-way through the body and at its end, the server holds it on disk."""
    block = noise(1)
    client.put("/upload/warm", data=block)
    before = flask_app.memory()
    seen = []

    def body() -> Iterator[bytes]:
        for number in range(50):
            if number % 10 == 9:
                seen.append(flask_app.memory())
            yield block

    assert client.put("/upload/noise", data=body()).json()["size"] == 50 * MEGABYTE
    assert max(seen) - before < GROWTH


def test_all_of_it_while_the_app_is_reloaded(tmp_path: Path) -> None:
    """Every kind of request, each from a new connection, while five releases follow one another: none fails."""
    body = noise(50)
    expected = {"name": "noise", **digest(body)}

    def visit() -> None:
        with example.client(reuse=False) as client:
            client.post("/hello", data={"name": "Ada"})
            assert "Hello, Ada" in client.get("/").text
            visits = client.get("/counter").json()["visits"]
            assert client.get("/counter").json()["visits"] == visits + 1

    def ask() -> None:
        with example.client(reuse=False) as client:
            assert client.get("/healthz").text == "ok\n"
            assert client.get("/version").text.strip().isdecimal()
            assert client.post("/api/words", json={"text": "to be"}).json()["words"] == 2
            assert client.get("/slow?seconds=0.1").json()["slept"] == 0.1
            assert len(client.get("/download?rows=1000").text.splitlines()) == 1001

    def upload() -> None:
        with example.client(reuse=False) as client:
            assert client.put("/upload/noise", data=body).json() == expected
            assert client.post("/upload", files={"file": ("noise", body)}).json() == expected

    def stream() -> None:
        with example.client(reuse=False) as client, client.get("/stream?mb=100", stream=True) as answer:
            assert sum(map(len, answer.iter_content(MEGABYTE))) == 100 * MEGABYTE

    def release(number: int) -> None:
        file = example.directory / "version.py"
        file.write_text(f'VERSION = "{number}"\n')
        # Python takes cached bytecode for current if size and second of the source are the same, as they may be here.
        os.utime(file, (number, number))
        example.reload()
        with example.client(reuse=False) as client:
            assert {client.get("/version").text for _ in range(20)} == {f"{number}\n"}

    with serve_example("flask_app", tmp_path) as example:
        during_releases(release, [visit, ask, upload, stream])


def test_ten_reloads_in_a_row_under_load(flask_app: Example) -> None:
    """Clients with a new connection each, and clients that keep theirs: nobody's request is lost, and the log tells it."""
    server = flask_app.server
    with (
        Load(server.url, "/version", threads=4, pause=0.01) as fresh,
        Load(server.url, "/version", threads=8, reuse=True, pause=0.02) as kept,
    ):
        for generation in range(2, 12):
            server.signal(signal.SIGHUP)
            server.wait_for_log(rf"reload done: generation {generation} serves with 4 workers")
    assert fresh.failures == []
    assert kept.failures == []
    assert {status for status, _ in fresh.answers + kept.answers} == {200}
    assert len(fresh.answers) > 100
    for generation in range(2, 12):
        for step in (
            rf"reload: generation {generation} is being prepared",
            rf"generation {generation}: loaded app:app in",
            rf"worker 3 gen {generation} pid \d+ is serving",
            rf"worker 0 gen {generation - 1} pid \d+ has left \(reload\)",
            rf"reload done: generation {generation} serves with 4 workers",
        ):
            server.wait_for_log(step)
