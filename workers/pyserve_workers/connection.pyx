# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""One client connection: receives requests, has them answered, sends what is ready, and never waits.

The states, and what ends each:

    IDLE     no byte of a request        a byte; keep_alive
    HEAD     a head is incomplete        its end; header_timeout
    BODY     a body is incomplete        its end; body_timeout without a byte
    READY    a request is complete       run()
    RUNNING  it is in the app
    FLUSH    the client reads slowly     everything sent; write_timeout without progress
    LINGER   half-closed, input dropped  the client closes; LINGER_TIME, LINGER_BYTES
    CLOSED   for ever

A fault of the client is answered in one place, refuse(): a short response, a line in the log, LINGER. Without the half-close
and the draining, a client that is still sending would get a reset instead of the answer (RFC 9112, 9.6).
"""

cimport cython
from cpython.dict cimport PyDict_Next
from cpython.object cimport PyObject
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, ENOSPC, EPERM, EPROTO, errno
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memmove
from posix.unistd cimport close as close_fd

from pyserve_workers.accesslog cimport log_entry, log_text
from pyserve_workers.body cimport EMPTY, Body, whole_body
from pyserve_workers.context cimport BLOCK_SIZE, Context, clock_now
from pyserve_workers.environ cimport learn_fields, make_environ
from pyserve_workers.exchange cimport exchange
from pyserve_workers.http1 cimport (
    H1_CHUNKED_DONE, H1_KNOWN_FIELDS, H1_MORE, H1_PHASE_FIELDS, h1_chunked_init, h1_decode_chunked, h1_head, h1_head_init,
    h1_known_fields, h1_limits, h1_parse_head, h1_reason, h1_span, h1_status,
)
from pyserve_workers.outbox cimport OUT_BLOCKED, OUT_EMPTY, OUT_GONE, Outbox
from pyserve_workers.response cimport Response

from os import strerror


cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <errno.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <stdio.h>
    #include <sys/socket.h>

    /* accept4(); host (INET6_ADDRSTRLEN bytes) and port of the peer, port -1 for a unix socket. */
    static int connection_accept(int listener, char *host, int *port)
    {
        struct sockaddr_storage address;
        socklen_t size = sizeof address;
        int fd, one = 1;
        do
            fd = accept4(listener, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        while (fd < 0 && errno == EINTR);
        if (fd < 0)
            return -1;
        *port = -1;
        if (address.ss_family == AF_INET) {
            struct sockaddr_in *in = (struct sockaddr_in *)&address;
            inet_ntop(AF_INET, &in->sin_addr, host, INET6_ADDRSTRLEN);
            *port = ntohs(in->sin_port);
        } else if (address.ss_family == AF_INET6) {
            struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&address;
            if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
                inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, INET6_ADDRSTRLEN);
            else
                inet_ntop(AF_INET6, &in6->sin6_addr, host, INET6_ADDRSTRLEN);
            *port = ntohs(in6->sin6_port);
        }
        if (*port >= 0)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        return fd;
    }
    """
    int connection_accept(int listener, char *host, int *port) nogil
    int SHUT_WR
    int shutdown(int fd, int how) nogil
    ssize_t recv(int fd, void *data, size_t size, int flags) nogil


IDLE, HEAD, BODY, READY, RUNNING, FLUSH, LINGER, CLOSED = range(8)
WANT_READ, WANT_WRITE, REQUEST = 1, 4, 256   # the first two are EPOLLIN and EPOLLOUT; 0 is closed

cdef enum:
    S_IDLE = 0
    S_HEAD = 1
    S_BODY = 2
    S_READY = 3
    S_RUNNING = 4
    S_FLUSH = 5
    S_LINGER = 6
    S_CLOSED = 7

cdef enum:
    N_CLOSED = 0
    N_READ = 1
    N_WRITE = 4
    N_REQUEST = 256

cdef enum:
    HEAD_SIZE = (sizeof(h1_head) + 63) // 64 * 64
    BODY_CAPACITY = 65536        # receive buffer for the large bodies
    RECEIVES_A_TURN = 16         # so that one upload does not hold the loop
    REQUESTS_A_TURN = 32         # nor a client that sends requests without waiting for answers
    COALESCED = 16384            # answers to such requests are sent together up to this size
    LINGER_BYTES = 16 << 20

cdef uint64_t LINGER_TIME = 2000000000

cdef extern from "Python.h":
    Py_ssize_t refcount "Py_REFCNT"(object value)
    const char *utf8 "PyUnicode_AsUTF8AndSize"(object text, Py_ssize_t *size) except NULL


cdef inline void set_text(log_text *text, const h1_span *span, const char *base) noexcept:
    text.data = base + span.offset
    text.size = span.length


globals()["Context"] = Context   # a cimported class is not an attribute of the module by itself
learn_fields(h1_known_fields, H1_KNOWN_FIELDS)


@cython.final
cdef class Connection:
    """``Connection(context, fd, listener, peer)`` owns the descriptor, which is in non-blocking mode. ``listener`` has ``scheme``,
    ``server_name`` and ``server_port``; ``peer`` is (host, port), or None for a unix socket.

    ``serve(events)`` does all that can be done without waiting and returns the epoll events that it wants next, or 0 when it has
    closed itself. ``receive()``, ``run()`` and ``flush()`` are its parts: they return WANT_READ, WANT_WRITE, REQUEST (call run())
    or 0.
    """

    def __init__(self, Context context not None, int fd, listener, peer=None):
        self.context = context
        self.fd = fd
        self.template = context.template(listener)
        if peer is None:
            self.peer_name = "a unix socket"
        else:
            self.remote_addr = peer[0]
            self.remote_port = str(peer[1])
        self.outbox = Outbox.__new__(Outbox)
        self.outbox.context = context
        self.outbox.fd = fd
        self.fresh = True
        self.state = S_HEAD
        if context.header_timeout:
            self.due = clock_now() + context.header_timeout

    def __cinit__(self):
        self.fd = -1
        self.state = S_CLOSED

    def __dealloc__(self):
        self.drop_input()
        if self.state != S_CLOSED and self.fd >= 0:
            close_fd(self.fd)

    # What the worker's loop may ask

    @property
    def deadline(self):
        """When expire() must be called, in seconds of CLOCK_MONOTONIC; inf if never."""
        return self.due / 1e9 if self.due else float("inf")

    @property
    def idle(self):
        """Nothing of a request has arrived, and nothing is unsent."""
        return self.state == S_IDLE or self.state == S_HEAD and self.end == self.start

    @property
    def pending(self):
        """A complete request waits in the buffer: serve() must be called again, though epoll may report nothing."""
        return self.state == S_READY

    @property
    def unfinished(self):
        """A request has begun to arrive and is not answered to its end."""
        return S_HEAD <= self.state <= S_FLUSH and not (self.state == S_HEAD and self.end == self.start)

    # What it may do

    def serve(self, int events=0):
        """All that can be done now; returns EPOLLIN, EPOLLOUT or 0 (closed)."""
        cdef int step, turns = REQUESTS_A_TURN
        if self.state == S_READY:
            step = N_REQUEST
        elif self.state == S_FLUSH:
            step = self.step_flush()
        else:
            step = self.step_receive()
        while step == N_REQUEST:
            if turns == 0:
                step = self.step_flush()
                return N_READ if step == N_REQUEST else step
            turns -= 1
            step = self.step_run()
        return step

    def receive(self):
        return self.step_receive()

    def run(self):
        return self.step_run()

    def flush(self):
        return self.step_flush()

    def expire(self):
        """The deadline is over."""
        if self.state == S_BODY:
            return self.refuse(408, "the body did not arrive in time")
        if self.state == S_HEAD and self.end != self.start:
            return self.refuse(408, "the request head did not arrive in time")
        if self.state == S_FLUSH:
            self.context.log.info(f"{self.name()}: closed, it has not read its response for {self.context.write_timeout / 1e9:g} s")
        # An idle connection, used or not, is closed without a word: a 408 would be taken for the answer to the next request.
        return self.shut()

    def retire(self):
        """The worker ends: an idle connection is half-closed, drained and closed; others go on."""
        if self.idle:
            return self.half_close()
        return N_WRITE if self.state == S_FLUSH else N_READ

    def close(self):
        """At once, whatever is unfinished."""
        self.shut()

    # Receiving

    cdef int step_receive(self) except -1:
        cdef size_t room
        cdef ssize_t n
        cdef int step, turns = RECEIVES_A_TURN
        if self.state >= S_READY:
            if self.state == S_LINGER:
                return self.drain()
            if self.state == S_FLUSH:
                return self.step_flush()
            return N_REQUEST if self.state == S_READY else N_CLOSED
        while turns:
            turns -= 1
            self.make_room()
            room = self.capacity - self.end
            n = recv(self.fd, self.data + self.end, room, 0)
            if n <= 0:
                if n == 0:
                    return self.ended()
                if errno == EINTR:
                    continue
                if errno != EAGAIN:
                    return self.lost(errno)
                break
            self.context.slot.bytes_in += n
            self.end += n
            step = self.advance()
            if step != N_READ or <size_t>n < room:   # a short read: the kernel has no more
                return step
        return self.settle()

    cdef int make_room(self) except -1:
        """A buffer with room for more bytes."""
        cdef char *grown
        cdef size_t capacity
        if self.head is NULL:
            self.head = <h1_head *>self.context.take_block()
            self.data = <char *>self.head + HEAD_SIZE
            self.capacity = BLOCK_SIZE - HEAD_SIZE
            self.start = self.end = 0
            h1_head_init(self.head)
            return 0
        if self.state == S_BODY and self.awaited > self.capacity and self.capacity < BODY_CAPACITY:
            capacity = BODY_CAPACITY
        elif self.end < self.capacity:
            return 0
        elif self.start:
            memmove(self.data, self.data + self.start, self.end - self.start)
            self.end -= self.start
            self.place -= self.start
            self.body_start -= self.start
            self.start = 0
            return 0
        else:
            capacity = 2 * self.capacity
        if self.data == <char *>self.head + HEAD_SIZE:
            grown = <char *>malloc(capacity)
            if grown is not NULL:
                memcpy(grown, self.data, self.end)
        else:
            grown = <char *>realloc(self.data, capacity)
        if grown is NULL:
            raise MemoryError
        self.data = grown
        self.capacity = capacity
        return 0

    cdef void drop_input(self) noexcept:
        if self.head is NULL:
            return
        if self.data != <char *>self.head + HEAD_SIZE:
            free(self.data)
        self.context.give_block(<char *>self.head)
        self.head = NULL
        self.data = NULL
        self.start = self.end = self.capacity = 0

    cdef int advance(self) except -1:
        """Understands what has been received: N_REQUEST when a request is complete."""
        if self.state == S_BODY:
            return self.read_body()
        return self.parse()

    cdef int parse(self) except -1:
        cdef h1_limits limits
        cdef int32_t size
        limits.line = self.context.limit_line
        limits.fields = self.context.limit_fields
        limits.field_size = self.context.limit_field_size
        limits.head = self.context.limit_head
        size = h1_parse_head(self.head, <const uint8_t *>self.data + self.start, self.end - self.start, &limits)
        if size < 0:
            return self.refuse(h1_status(size), h1_reason(size).decode())
        if size == 0:
            if self.state == S_IDLE:
                self.state = S_HEAD
                self.due = clock_now() + self.context.header_timeout if self.context.header_timeout else 0
            return N_READ
        self.fresh = False
        self.body_start = self.place = self.start + size
        return self.begin_body()

    cdef int begin_body(self) except -1:
        """The head is complete: is there a body, and may it come?"""
        cdef h1_head *head = self.head
        cdef uint64_t length = head.content_length if head.has_content_length else 0
        self.awaited = length
        if not head.chunked and length == 0:
            self.body = EMPTY
            self.state = S_READY
            return N_REQUEST
        if self.context.limit_body and length > self.context.limit_body:
            return self.refuse(413, f"a body of {length} bytes, limit_request_body is {self.context.limit_body}")
        if not head.chunked and length <= self.end - self.place and length <= self.context.body_buffer:
            self.body = whole_body(self.data + self.place, length)
            self.place += length
            self.state = S_READY
            return N_REQUEST
        self.state = S_BODY
        self.body = Body.__new__(Body)
        if head.chunked:
            h1_chunked_init(&self.chunked)
        if self.end > self.place:
            return self.read_body()
        if head.expect_continue:   # not when the body is on its way already (RFC 9110, 10.1.1)
            self.outbox.add(b"HTTP/1.1 100 Continue\r\n\r\n", 25)
            return self.step_flush()
        return self.settle()

    cdef int read_body(self) except -1:
        """Moves what has arrived of the body from the buffer to where the app will read it."""
        cdef size_t size = self.end - self.place, produced
        cdef int32_t result = H1_MORE
        cdef bint done
        if self.head.chunked:
            produced = 0
            result = h1_decode_chunked(&self.chunked, <uint8_t *>self.data + self.place, self.end - self.place, &size, &produced)
            if result < 0:
                return self.refuse(h1_status(result), h1_reason(result).decode())
            done = result == H1_CHUNKED_DONE
            if self.context.limit_body and self.body.size() + produced > self.context.limit_body:
                return self.refuse(413, f"a body of more than limit_request_body, {self.context.limit_body} bytes")
        else:
            size = produced = min(<uint64_t>size, self.awaited)
            self.awaited -= size
            done = self.awaited == 0
        try:
            self.body.feed(self.data + self.place, produced, self.context.body_buffer, self.context.spool_dir)
            if done:
                self.body.finish()
        except OSError as error:
            self.context.log.error(f"{self.name()}: its body cannot be spooled to {self.context.spool_dir.decode(errors='replace')}: {error.strerror}")
            return self.refuse(507 if error.errno == ENOSPC else 500, "the body cannot be stored")
        self.place += size
        if done:
            self.state = S_READY
            self.due = 0
            return N_REQUEST
        self.end = self.place = self.body_start   # only the head is kept
        return self.settle()

    cdef int ended(self) except -1:
        """The client has half-closed or closed."""
        if self.state == S_BODY:
            self.client_closes = True
            return self.refuse(400, "the connection was closed before the body was complete")
        if self.end != self.start:
            self.context.log.debug(f"{self.name()}: closed in the middle of a request head")
        return self.shut()

    cdef int lost(self, int failure) except -1:
        if self.state >= S_BODY or self.end != self.start:
            self.context.log.debug(f"{self.name()}: lost: {strerror(failure)}")
        return self.shut()

    # Running

    cdef int step_run(self) except -1:
        cdef Context context = self.context
        cdef h1_head *head = self.head
        cdef const char *base = self.data + self.start
        cdef uint64_t started, now
        cdef dict environ
        if self.state != S_READY:
            return self.settle()
        self.state = S_RUNNING
        self.due = 0
        started = context.enter(base + head.method.offset, head.method.length, base + head.target.offset, head.target.length)
        context.tick(started)
        self.client_closes = not head.keep_alive
        self.prepare_response(head.keep_alive and context.keep_alive and not context.draining)
        environ = make_environ(context, self.template, head, base, self.body, self.remote_addr, self.remote_port)
        exchange(context, self.response, self.start_response, environ)
        now = clock_now()
        context.leave(started, now)
        self.record(now - started, environ, True)
        self.body.release()
        self.body = None
        return self.after_response()

    cdef int prepare_response(self, bint keep_alive) except -1:
        cdef h1_head *head = self.head
        cdef bint http11 = True, head_request = False
        cdef const char *method
        # Used again unless the app has kept it: a reference of ours, and one of the bound method.
        if self.response is None or refcount(self.response) > 2 or refcount(self.start_response) > 1:
            self.response = Response.__new__(Response)
            self.start_response = self.response.start_response
        if head.phase >= H1_PHASE_FIELDS:
            http11 = head.minor_version > 0
            method = self.data + self.start + head.method.offset
            head_request = head.method.length == 4 and method[0] == c"H" and method[1] == c"E" and method[2] == c"A" and method[3] == c"D"
        self.response.begin(self.context, self.outbox, http11, head_request, keep_alive)
        return 0

    cdef int after_response(self) except -1:
        """What comes next: the client's next request, or the end."""
        cdef Response response = self.response
        cdef int step
        self.closing = not response.keep_alive
        if response.outbox.failure:
            self.context.log.debug(f"{self.name()}: went away before its response was complete: {strerror(self.outbox.failure)}")
        response.end()
        if self.outbox.failure:
            return self.shut()
        self.start = self.place
        self.state = S_IDLE
        h1_head_init(self.head)
        if self.closing or self.start == self.end:
            return self.step_flush()
        step = self.parse()
        if step == N_REQUEST and self.outbox.holds_only_memory() and self.outbox.pending() < COALESCED:
            return step
        return self.step_flush()

    # Sending

    cdef int step_flush(self) except -1:
        cdef uint64_t before = self.outbox.sent
        cdef int step = OUT_EMPTY
        if self.state == S_CLOSED:
            return N_CLOSED
        if not self.outbox.is_empty():
            step = self.outbox.flush()
        if step == OUT_GONE:
            self.context.log.debug(f"{self.name()}: went away before its response was complete: {strerror(self.outbox.failure)}")
            return self.shut()
        if step == OUT_BLOCKED:
            if self.state != S_FLUSH:
                self.resume = self.state
                self.state = S_FLUSH
                before = ~self.outbox.sent
            if self.outbox.sent != before:
                self.due = clock_now() + self.context.write_timeout if self.context.write_timeout else 0
            return N_WRITE
        if self.state == S_FLUSH:
            self.state = self.resume
        if self.closing:
            return self.half_close()
        return self.settle()

    cdef int settle(self) except -1:
        """Waits for what the state waits for: sets the deadline, gives back what is not needed, and says what is wanted."""
        cdef Context context = self.context
        cdef uint64_t limit = 0
        if self.state == S_READY:
            return N_REQUEST
        if self.state == S_IDLE:
            if self.end == self.start:
                self.drop_input()
                self.outbox.rest()
            limit = context.keep_alive
        elif self.state == S_BODY:
            limit = context.body_timeout
        elif self.state == S_HEAD:
            return N_READ   # the deadline stays: it counts from the head's first byte
        self.due = clock_now() + limit if limit else 0
        return N_READ

    # Ending

    cdef int refuse(self, int status, str reason) except -1:
        """Answers a fault of the client's (or of ours, in receiving) with bytes, a line in the log and the end of the connection."""
        self.context.log.info(f"{self.name()}: refused with {status}: {reason}")
        if not self.outbox.holds_only_memory():
            return self.shut()
        self.context.tick(clock_now())
        self.prepare_response(False)
        self.response.plain(status, reason[0].upper() + reason[1:] + ".")
        self.record(0, None, False)
        self.response.end()
        self.state = S_LINGER
        self.closing = True
        self.body = None
        return self.step_flush()

    cdef int half_close(self) except -1:
        """Nothing more will be sent. A client that may still be sending must be read to its end before the close."""
        if self.client_closes and self.start == self.end:
            return self.shut()
        self.drop_input()
        self.outbox.close()
        self.closing = False
        if shutdown(self.fd, SHUT_WR) < 0:
            return self.shut()
        self.state = S_LINGER
        self.lingered = 0
        self.due = clock_now() + LINGER_TIME
        return self.drain()

    cdef int drain(self) except -1:
        cdef char dropped[16384]
        cdef ssize_t n
        cdef int turns = RECEIVES_A_TURN
        while turns:
            turns -= 1
            n = recv(self.fd, dropped, sizeof(dropped), 0)
            if n < 0 and errno == EINTR:
                continue
            if n < 0 and errno == EAGAIN:
                return N_READ
            if n > 0:
                self.lingered += n
            if n <= 0 or self.lingered > LINGER_BYTES:
                return self.shut()
            if <size_t>n < sizeof(dropped):
                return N_READ
        return N_READ

    cdef int shut(self) except -1:
        """Closes the descriptor, once."""
        if self.state == S_CLOSED:
            return N_CLOSED
        if self.state == S_FLUSH:
            self.context.slot.cut += 1
        self.state = S_CLOSED
        self.due = 0
        self.drop_input()
        self.outbox.close()
        self.body = None
        self.response = self.start_response = None
        close_fd(self.fd)
        return N_CLOSED

    # Telling

    cdef str name(self):
        """The peer, for the log."""
        if self.peer_name is None:
            self.peer_name = f"[{self.remote_addr}]:{self.remote_port}" if ":" in self.remote_addr else f"{self.remote_addr}:{self.remote_port}"
        return self.peer_name

    cdef int record(self, uint64_t duration, dict environ, bint understood) except -1:
        """Counts the response and writes its line in the access log."""
        cdef log_entry entry
        cdef h1_head *head = self.head
        cdef const char *base = self.data + self.start
        cdef Response response = self.response
        cdef Py_ssize_t size
        cdef const char *end
        self.context.count(response.status, response.sent)
        if response.cut or response.short or self.outbox.failure:
            self.context.slot.cut += 1
        if self.context.access_log is None:
            return 0
        if self.remote_addr is not None:
            entry.peer.data = utf8(self.remote_addr, &size)
            entry.peer.size = size
        else:
            entry.peer.data, entry.peer.size = b"unix", 4
        entry.status = response.status
        entry.sent = response.sent
        entry.duration = duration
        entry.minor_version = -1
        entry.head = NULL
        entry.base = base
        entry.line.data = base
        end = <const char *>memchr(base, c"\r", self.end - self.start)
        entry.line.size = min(end - base, 8192) if end is not NULL else min(self.end - self.start, 256)
        entry.method.size = entry.target.size = entry.path.size = entry.query.size = 0
        entry.method.data = entry.target.data = entry.path.data = entry.query.data = base
        if head is not NULL and head.phase >= H1_PHASE_FIELDS:
            entry.minor_version = head.minor_version
            set_text(&entry.method, &head.method, base)
            set_text(&entry.target, &head.target, base)
            set_text(&entry.path, &head.path, base)
            set_text(&entry.query, &head.query, base)
            if understood:
                entry.head = head
        return self.context.access_log.add(&entry, response.fields, environ)


def expired(dict connections, double now):
    """The connections, out of {fd: connection}, whose deadline is not after `now` (seconds of CLOCK_MONOTONIC)."""
    cdef PyObject *key
    cdef PyObject *value
    cdef Py_ssize_t position = 0
    cdef uint64_t limit = <uint64_t>(now * 1e9)
    cdef Connection connection
    late = []
    while PyDict_Next(connections, &position, &key, &value):
        connection = <Connection>value
        if connection.due and connection.due <= limit:
            late.append(connection)
    return late


def accept(int listener):
    """(descriptor, peer) of a new connection, ready for Connection(); None if there is none now. OSError, as for EMFILE, is the caller's."""
    cdef char host[64]
    cdef int port = -1
    cdef int fd = connection_accept(listener, host, &port)
    if fd < 0:
        # EPROTO, EPERM (a firewall rule) and the like concern one connection that is gone (accept(2)).
        if errno in (EAGAIN, ECONNABORTED, EPROTO, EPERM):
            return None
        PyErr_SetFromErrno(OSError)
    return fd, None if port < 0 else (host.decode("ascii"), port)
