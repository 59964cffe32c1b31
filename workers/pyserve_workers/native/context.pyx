# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""What all connections of one worker share: the app, the limits, the scoreboard slot, the buffers and today's date.

A Context belongs to one worker process and is made after the fork. It knows nothing of single requests.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from pyserve_workers.native.accesslog cimport AccessLog
from pyserve_workers.native.body cimport EMPTY
from pyserve_workers.native.complaints import Complaints
from pyserve_workers.native.filewrapper import FileWrapper
from pyserve_workers.http1.http1 cimport H1_MEMORY_PLACES
from pyserve_workers.native.trust import TrustedPeers
from pyserve import __version__

import os


cdef extern from "clock.h" nogil:
    int CLOCK_HTTP_DATE_LENGTH
    void clock_http_date(char *out, uint64_t wall_seconds)

cdef extern from *:
    """
    /* The one counter that must not drift when threads write at once; with the GIL they do not. */
    #ifdef Py_GIL_DISABLED
    #define context_add(counter, n) __atomic_fetch_add(&(counter), (uint64_t)(n), __ATOMIC_SEQ_CST)
    #define CONTEXT_REMEMBERS 0
    #else
    #define context_add(counter, n) ((counter) += (uint64_t)(n))
    #define CONTEXT_REMEMBERS 1
    #endif
    """
    bint CONTEXT_REMEMBERS
    void context_add(uint64_t counter, int n) nogil

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    short POLLOUT


SOFTWARE = f"pyserve/{__version__}"


cdef uint64_t nanoseconds(object seconds) except? 0:
    return 0 if not seconds else <uint64_t>(float(seconds) * 1e9)


@cython.final
cdef class Context:
    """``Context(app, settings, slot, errors, log, access_log)``: ``settings`` is a Config (or has its attributes),
    ``slot`` a writable buffer of one scoreboard slot, ``errors`` the text stream that apps see as ``wsgi.errors``.

    ``running`` is True exactly while code of the app may run; ``draining`` makes every further response the last one of
    its connection, and ``draining_event``, set before there are connections, is what apps see of that;
    ``wait_writable(fd, seconds or None) -> bool`` replaces the wait for a client that reads slowly.

    ``spool_dir`` of the settings is None where nothing can be put into files.

    ``gatekeeper`` answers for requests that come while the slot's ``gate`` is not 0 (see gatekeeper.py).

    ``concurrent``: several requests may be in the app at once. Then ``running`` means nothing, the slot has no
    request_start, and each connection answers for its own request (``Connection.running``, ``overdue()``).
    """

    def __init__(
        self, app, settings, slot, errors, log, access_log=None, multithread=False, concurrent=False
    ):
        cdef Py_buffer view
        self.epoll = -1
        self.app = app
        self.settings = settings
        self.errors = errors
        self.log = log
        self.complaints = Complaints(log)
        self.access_log = access_log
        self.multithread = multithread
        self.concurrent = concurrent
        PyObject_GetBuffer(slot, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            if view.len < PYSERVE_SLOT_SIZE:
                raise ValueError(f"a scoreboard slot has {PYSERVE_SLOT_SIZE} bytes, not {view.len}")
            # The map behind a slot lives as long as the process; the reference keeps an anonymous one of a test alive.
            self.slot = <pyserve_slot *>view.buf
            self.slot_memory = slot
        finally:
            PyBuffer_Release(&view)
        self.read_settings(settings)
        self.wants_response_fields = access_log is not None and self.access_log.wants_response_fields
        self.templates = {}
        self.bunch = Bunch()
        self.remember()
        self.script_name = os.environ.get("SCRIPT_NAME", "").rstrip("/")
        self.trusted = TrustedPeers(settings.forwarded_allow_ips)
        server = b"Server: pyserve\r\n"
        self.server_length = len(server)
        memcpy(self.server_date, <const char *>server, self.server_length)

    cdef read_settings(self, settings):
        self.header_timeout = nanoseconds(settings.header_timeout)
        self.body_timeout = nanoseconds(settings.body_timeout)
        self.write_timeout = nanoseconds(settings.write_timeout)
        self.keep_alive = nanoseconds(settings.keep_alive)
        self.limit_body = settings.limit_request_body
        self.body_buffer = settings.body_buffer
        self.response_buffer = max(<int>BLOCK_SIZE, settings.response_buffer)
        self.response_spool = settings.response_spool
        self.body_min_rate = settings.body_min_rate
        self.response_min_rate = settings.response_min_rate
        self.buffer_memory = settings.buffer_memory
        self.head_limits.line = settings.limit_request_line
        self.head_limits.fields = settings.limit_request_fields
        self.head_limits.field_size = settings.limit_request_field_size
        self.head_limits.head = settings.limit_request_head
        self.head_limits.raw_target = settings.permit_raw_target
        self.spools = settings.spool_dir is not None
        self.spool_dir = os.fsencode(settings.spool_dir or "")
        self.spool_limit = settings.spool_limit

    cdef int remember(self) except -1:
        """Makes room for what is used again."""
        if not CONTEXT_REMEMBERS:
            return 0
        self.memory = <h1_memory *>calloc(1, sizeof(h1_memory))
        if self.memory is NULL:
            raise MemoryError
        self.environs = [None] * H1_MEMORY_PLACES
        self.seen_head = SeenHead()
        return 0

    def __dealloc__(self):
        free(self.memory)
        while self.block_count > 0:
            self.block_count -= 1
            free(self.blocks[self.block_count])

    # Buffers: a connection has one only while bytes are in it, so that an idle one costs nothing.

    cdef char *take_block(self) except NULL:
        cdef char *block = NULL
        with cython.critical_section(self):
            if self.block_count > 0:
                self.block_count -= 1
                block = self.blocks[self.block_count]
        if block is NULL:
            block = <char *>malloc(BLOCK_SIZE)
            if block is NULL:
                raise MemoryError
        return block

    cdef void give_block(self, char *block) noexcept:
        """Takes a block of BLOCK_SIZE back."""
        with cython.critical_section(self):
            if self.block_count < 64:
                self.blocks[self.block_count] = block
                self.block_count += 1
                block = NULL
        free(block)

    cdef void hold(self, uint64_t *mine, uint64_t size) noexcept:
        """A connection's part, `mine`, of what waits in memory is now `size` bytes. Its blocks are not counted."""
        with cython.critical_section(self):
            self.held += size - mine[0]
            mine[0] = size

    cdef bint is_full(self) noexcept:
        """Must what waits for clients go to files, and not grow in memory?"""
        return self.held >= self.buffer_memory

    cdef void spool(self, uint64_t *mine, uint64_t size) noexcept:
        """A connection's part, `mine`, of what is in files is now `size` bytes."""
        with cython.critical_section(self):
            self.spooled += size - mine[0]
            mine[0] = size
            self.slot.spooled = self.spooled

    cdef uint64_t spool_room(self) noexcept:
        """How many bytes more may go to files."""
        return self.spool_limit - self.spooled if self.spools and self.spooled < self.spool_limit else 0

    cdef void tick(self, uint64_t now) noexcept:
        """Prepares the Server and Date lines of this second."""
        cdef uint64_t wall
        cdef char *date
        if now < self.date_until:
            return
        wall = clock_wall()
        date = self.server_date + self.server_length
        memcpy(date, b"Date: ", 6)
        clock_http_date(date + 6, wall // 1000000000)
        memcpy(date + 6 + CLOCK_HTTP_DATE_LENGTH, b"\r\n", 2)
        self.server_date_length = self.server_length + 8 + CLOCK_HTTP_DATE_LENGTH
        self.date_until = now + 1000000000 - wall % 1000000000

    cdef dict template(self, listener):
        """The environ entries that all requests of one listener have in common."""
        known = self.templates.get(id(listener))
        if known is None:
            known = self.templates[id(listener)] = (listener, self.make_template(listener))
        return <dict>known[1]

    cdef dict make_template(self, listener):
        entries = {
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": listener.scheme,
            "wsgi.input": EMPTY,
            "wsgi.errors": self.errors,
            "wsgi.multithread": bool(self.multithread),
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
            "SERVER_SOFTWARE": SOFTWARE,
            "SERVER_NAME": listener.server_name or "localhost",
            "SERVER_PORT": str(listener.server_port or 80),
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "RAW_URI": "/",
            "REQUEST_URI": "/",
            "REMOTE_ADDR": "",
            # A dict with 22 keys or more has room for 20 others before it must grow, and its copies have it too.
            "pyserve.version": __version__,
            "pyserve.draining": self.draining_event,
        }
        # Again, one by one: Cython makes a literal a table for keys of any type, and all its copies would be such, half
        # as large again and slower than one for texts.
        return {key: value for key, value in entries.items()}

    cdef bint trusts(self, str host):
        """May this peer (None: a unix socket) say that its client came over https?"""
        return host is None or host in self.trusted

    cdef bint wait_for_client(self, int fd, uint64_t patience) except -1:
        """Waits until the descriptor is writable; False when `patience` ns (0: no limit) passed first. Meanwhile no
        request is in the app, so that its timeout does not count a slow client's time."""
        cdef bint running = self.running
        cdef uint64_t started = self.slot.request_start
        cdef uint64_t left = self.left
        cdef uint64_t began = clock_now()
        self.running = False
        self.slot.request_start = 0
        try:
            if self.wait_writable is not None:
                return self.wait_writable(fd, patience / 1e9 if patience else None)
            return self.poll_writable(fd, began, patience)
        finally:
            if self.left == left:   # else a thread of the app's has waited, longer than its request has run
                self.running = running
                if started:
                    self.slot.request_start = started + (clock_now() - began)

    cdef bint poll_writable(self, int fd, uint64_t began, uint64_t patience) except -1:
        cdef pollfd entry
        cdef int ready, timeout = -1
        cdef uint64_t passed
        entry.fd = fd
        entry.events = POLLOUT
        while True:
            if patience:
                passed = clock_now() - began
                if passed >= patience:
                    return False
                timeout = <int>min((patience - passed) // 1000000 + 1, 3600000)
            with nogil:
                ready = poll(&entry, 1, timeout)
            if ready > 0:
                return True
            if ready < 0 and errno != EINTR:
                return False
            PyErr_CheckSignals()

    # The scoreboard: plain stores, read by the master.

    cdef uint64_t enter(self, const h1_head *head, const char *base) noexcept:
        """A request enters the app; returns the time. `base` is where the head's spans count from."""
        cdef pyserve_slot *slot = self.slot
        cdef size_t method = head.method.length   # at most H1_MAX_METHOD, which leaves room
        cdef size_t target = min(<size_t>head.target.length, PYSERVE_REQUEST_LINE - 1 - method)
        cdef uint64_t now = clock_now()
        cdef int place = self.claim(now) if self.concurrent else 0
        cdef char *line = slot.request_line[place]
        memcpy(line, base + head.method.offset, method)
        line[method] = c" "
        memcpy(line + method + 1, base + head.target.offset, target)
        slot.request_line_length[place] = method + 1 + target
        context_add(slot.active, 1)
        if not self.concurrent:
            slot.request_start = now
        return now

    cdef void retreat(self, uint64_t started) noexcept:
        """The request that has just entered must not: the gate is closed."""
        context_add(self.slot.active, -1)
        self.slot.request_start = 0
        if self.concurrent:
            self.release(started)

    cdef int claim(self, uint64_t started) noexcept:
        """The place for the line of a request that enters: a free one, else that of the request that entered first."""
        cdef pyserve_slot *slot = self.slot
        cdef int place, oldest = 0
        with cython.critical_section(self):
            for place in range(1, PYSERVE_REQUEST_LINES):
                if slot.request_since[place] < slot.request_since[oldest]:
                    oldest = place
            slot.request_line_length[oldest] = 0
            slot.request_since[oldest] = started
        return oldest

    cdef void release(self, uint64_t started) noexcept:
        """The request that entered then has left. Its place may be another's by now."""
        cdef pyserve_slot *slot = self.slot
        cdef int place
        with cython.critical_section(self):
            for place in range(PYSERVE_REQUEST_LINES):
                if slot.request_since[place] == started:
                    slot.request_line_length[place] = 0
                    slot.request_since[place] = 0
                    break

    cdef void leave(self, uint64_t started, uint64_t now) noexcept:
        """The request that entered at `started` has left the app."""
        cdef pyserve_slot *slot = self.slot
        cdef uint64_t took = now - started, bound = 64000
        cdef int bucket = 0
        context_add(slot.active, -1)
        slot.request_start = 0
        if self.concurrent:
            self.release(started)
        slot.latency_sum += took
        self.left = now
        self.bunch.learn(took, now)
        while took >= bound and bucket < PYSERVE_LATENCY_BUCKETS - 1:
            bound <<= 1
            bucket += 1
        slot.latency[bucket] += 1

    cdef void count(self, int status) noexcept:
        """A request is over. `status` is that of its response; 0: there was none. Above 599 it counts as a failure, as
        clients are to take it (RFC 9110, 15)."""
        self.slot.requests += 1
        if status:
            self.slot.status[min(status // 100, 5) - 1] += 1
