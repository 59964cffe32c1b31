"""A Flask app that does what apps do: pages, JSON, forms, sessions, uploads, downloads, streams.

Nothing of a visitor is kept in the process, so it does not matter which worker answers, nor whether it is replaced
meanwhile. What a worker has for itself, a pool of connections, is opened and closed by hooks.
"""

import csv
import hashlib
import io
import os
import sqlite3
import tempfile
import time
from contextlib import closing

from flask import Flask, Response, abort, jsonify, redirect, render_template, request, send_file, session, url_for
from pool import Pool
from version import VERSION

import pyserve

BLOCK = 64 * 1024
PATTERN = bytes(range(256)) * (BLOCK // 256)
MEGABYTE = 1024 * 1024

app = Flask(__name__)
# Every worker and every release must sign with the same key, or a visitor is forgotten at the next request.
app.secret_key = os.environ.get("SECRET_KEY", "for development only")
app.config["SESSION_COOKIE_SAMESITE"] = "Lax"


@app.get("/")
def index():
    processes = {"pid": os.getpid(), "master": os.getppid()}
    return render_template("index.html", version=VERSION, visits=visit(), name=session.get("name"), **processes)


# Who answers


@app.get("/version")
def version():
    return Response(f"{VERSION}\n", mimetype="text/plain")


@app.get("/pid")
def pid():
    return Response(f"{os.getpid()}\n", mimetype="text/plain")


@app.get("/healthz")
def healthz():
    return Response("ok\n", mimetype="text/plain")


@app.get("/api/whoami")
def whoami():
    return jsonify(pid=os.getpid(), version=VERSION)


# A pool of connections that lives as long as its worker


@pyserve.on_init(timeout=10)
def open_pool():
    """In each worker before it is ready: no request waits for the first connection, and none is shared by a fork."""
    app.pool = Pool()


@pyserve.on_shutdown(timeout=5)
def close_pool(signal):
    """When the last request has been answered. ``signal`` is why: "reload", "SIGTERM", ..."""
    app.pool.close()
    print(f"worker {os.getpid()}: the pool is closed ({signal})", flush=True)


@app.get("/api/pool")
def pool():
    with app.pool.connection() as connection:
        (version,) = connection.execute("SELECT sqlite_version()").fetchone()
    return jsonify(pid=os.getpid(), sqlite=version, idle=app.pool.idle.qsize())


# JSON


@app.post("/api/words")
def words():
    """``{"text": "to be or not"}`` → ``{"words": 4, "characters": 12, "longest": "not"}``."""
    data = request.get_json()
    text = data.get("text") if isinstance(data, dict) else None
    if not isinstance(text, str):
        return jsonify(error='send an object with a string: {"text": "..."}'), 400
    found = text.split()
    return jsonify(words=len(found), characters=len(text), longest=max(found, key=len, default=""))


# A list that somebody else sends every night, as a whole


@app.put("/api/items")
@pyserve.exclusive
def sync():
    """``[{"id": 1, "name": "tea"}, ...]`` replaces all items. No other request runs meanwhile, in any worker."""
    items = request.get_json()
    try:
        rows = [(int(item["id"]), str(item["name"])) for item in items]
    except (TypeError, KeyError, ValueError):
        return jsonify(error='send an array of objects: [{"id": 1, "name": "tea"}]'), 400
    with closing(database()) as items_database, items_database:
        items_database.execute("DELETE FROM items")
        items_database.executemany("INSERT OR REPLACE INTO items VALUES (?, ?)", rows)
    return jsonify(items=len(rows))


@app.get("/api/items")
def items():
    with closing(database()) as items_database:
        rows = items_database.execute("SELECT id, name FROM items ORDER BY id LIMIT 1000").fetchall()
    return jsonify([{"id": number, "name": name} for number, name in rows])


def database():
    os.makedirs(app.instance_path, exist_ok=True)
    connection = sqlite3.connect(os.path.join(app.instance_path, "items.sqlite"))
    connection.execute("CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    return connection


# A form and a session


@app.get("/counter")
def counter():
    return jsonify(visits=visit())


def visit():
    """Count one more visit, in the visitor's signed cookie."""
    session["visits"] = session.get("visits", 0) + 1
    return session["visits"]


@app.post("/hello")
def hello():
    """Remember the visitor's name. The redirect keeps a reload of the page from sending the form again."""
    name = request.form.get("name", "").strip()
    if not name or len(name) > 80:
        abort(400, "a name of 1 to 80 characters is needed")
    session["name"] = name
    return redirect(url_for("index"), code=303)


@app.post("/forget")
def forget():
    session.clear()
    return redirect(url_for("index"), code=303)


# Large bodies: in, and out


@app.post("/upload")
def upload():
    """A file of a multipart form. Flask has spooled a large one to disk: read in blocks, it is never in memory."""
    file = request.files.get("file")
    if file is None or not file.filename:
        abort(400, "choose a file")
    return jsonify(name=file.filename, **digest(file.stream))


@app.put("/upload/<name>")
def upload_raw(name):
    """The same for a bare body: ``curl -T photo.jpg http://127.0.0.1:8000/upload/``."""
    return jsonify(name=name, **digest(request.stream))


def digest(file):
    sha256, size = hashlib.sha256(), 0
    while block := file.read(BLOCK):
        sha256.update(block)
        size += len(block)
    return {"size": size, "sha256": sha256.hexdigest()}


@app.get("/download")
def download():
    """A CSV made on the spot, in a temporary file that the server can pass to the kernel (sendfile)."""
    rows = bounded("rows", default=1000, limit=1_000_000)
    file = tempfile.TemporaryFile()  # noqa: SIM115 (the server closes it, with the response)
    text = io.TextIOWrapper(file, newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(["number", "square", "cube"])
    writer.writerows((number, number**2, number**3) for number in range(1, rows + 1))
    text.detach()
    size = file.tell()
    file.seek(0)
    response = send_file(file, mimetype="text/csv", as_attachment=True, download_name="powers.csv")
    response.content_length = size
    return response


@app.get("/stream")
def stream():
    """``mb`` megabytes of the bytes 0 to 255, made while they are sent."""
    size = bounded("mb", default=1, limit=10_000) * MEGABYTE
    return Response((PATTERN for _ in range(size // BLOCK)), mimetype="application/octet-stream")


@app.get("/slow")
def slow():
    """An app that takes its time: at a reload the old worker finishes this, while the new one serves."""
    seconds = request.args.get("seconds", default=1.0, type=float)
    if not 0 <= seconds <= 600:
        abort(400, "seconds must be between 0 and 600")
    time.sleep(seconds)
    return jsonify(slept=seconds, pid=os.getpid(), version=VERSION)


def bounded(name, default, limit):
    """The whole number ``name`` of the query string, from 0 to ``limit``; anything else is answered with 400."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 12 and int(text) <= limit):
        abort(400, f"{name} must be a whole number from 0 to {limit}")
    return int(text)
