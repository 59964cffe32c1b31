# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""One client connection: receives requests, has them answered, sends what is ready, and never waits.

The states, and what ends each:

    IDLE     no byte of a request        a byte; keep_alive
    HEAD     a head is incomplete        its end; header_timeout
    BODY     a body is incomplete        its end; body_timeout without a byte, or less than body_min_rate
    READY    a request is complete       run()
    HELD     the gate is closed to it    resume(), when it opens; the gatekeeper's patience
    RUNNING  it is in the app            the app's end; nothing that the client or the worker does meanwhile
    FLUSH    the client reads slowly     everything sent; write_timeout without progress, or less than response_min_rate
    LINGER   half-closed, input dropped  the client closes; LINGER_TIME, LINGER_BYTES (client.pyx)
    CLOSED   for ever

A fault of the client is answered in one place, refuse(): a short response, a line in the log, LINGER. Without the
half-close and the draining, a client that is still sending would get a reset instead of the answer (RFC 9112, 9.6).
"""

cimport cython
from cpython.object cimport PyObject
from libc.errno cimport EAGAIN, ECONNABORTED, ECONNRESET, ETIMEDOUT
from libc.string cimport memcmp

from pyserve_workers.native.accesslog cimport log_entry, log_request
from pyserve_workers.native.body cimport EMPTY
from pyserve_workers.native.client cimport Client
from pyserve_workers.native.clientsocket import ENVIRON_KEY, ClientSocket
from pyserve_workers.native.context cimport Context, clock_now
from pyserve_workers.native.environ cimport make_environ
from pyserve_workers.native.exchange cimport described, exchange, interrupt
from pyserve_workers.http1.http1 cimport h1_head
from pyserve_workers.native.inbox cimport IN_COMPLETE, IN_FAULT, Inbox
from pyserve_workers.native.outbox cimport OUT_BLOCKED, OUT_EMPTY, OUT_GONE, Outbox
from pyserve_workers.native.response cimport Response
from pyserve_workers.native.states cimport (
    N_BUSY, N_CLOSED, N_HELD, N_READ, N_REQUEST, N_WRITE, S_BODY, S_CLOSED, S_FLUSH, S_HEAD, S_HELD, S_IDLE, S_LINGER,
    S_READY, S_RUNNING,
)

from os import strerror


cdef extern from "<errno.h>":
    int ECANCELED

cdef extern from "<sys/socket.h>" nogil:
    int SHUT_WR
    int SHUT_RDWR
    int shutdown(int fd, int how)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    ssize_t send(int fd, const void *data, size_t size, int flags)

cdef extern from "<fcntl.h>" nogil:
    int F_SETFL
    int O_NONBLOCK
    int O_RDWR
    int fcntl(int fd, int command, ...)

cdef extern from "rate.h" nogil:
    uint64_t rate_earned(uint64_t earned, uint64_t now, uint64_t bytes, uint64_t rate, uint64_t timeout)
    uint64_t rate_due(uint64_t earned, uint64_t last, uint64_t timeout)

cdef extern from "Python.h":
    Py_ssize_t refcount "Py_REFCNT"(PyObject *value)
    const char *utf8 "PyUnicode_AsUTF8AndSize"(object text, Py_ssize_t *size) except NULL


IDLE, HEAD, BODY, READY, HELD, RUNNING, FLUSH, LINGER, CLOSED = range(9)
WANT_READ, WANT_WRITE, REQUEST, BUSY = 1, 4, 256, 512   # the first two are EPOLLIN and EPOLLOUT; 0 is closed

cdef enum:
    RECEIVES_A_TURN = 16         # so that one upload does not hold the loop
    REQUESTS_A_TURN = 32         # nor a client that sends requests without waiting for answers
    COALESCED = 16384            # answers to such requests are sent together up to this size

cdef uint64_t LINGER_TIME = 2000000000
cdef bytes TOO_LATE = (
    b"HTTP/1.1 504 Gateway Timeout\r\n%bConnection: close\r\nContent-Type: text/plain; charset=iso-8859-1\r\n"
    b"Content-Length: 27\r\n\r\nThe request took too long.\n"
)

globals()["Context"] = Context   # a cimported class is not an attribute of the module by itself


@cython.final
cdef class Connection(Client):
    """``Connection(context, fd, listener, peer)`` owns the descriptor, which is in non-blocking mode. ``listener`` has
    ``scheme``, ``server_name`` and ``server_port``; ``peer`` is (host, port), or None for a unix socket.

    ``serve()`` does all that can be done without waiting and returns the epoll events that it wants next, or 0 when it
    has closed itself. ``receive()``, ``run()`` and ``flush()`` are its parts, for workers that run the app elsewhere:
    they return WANT_READ, WANT_WRITE, REQUEST (call run()), other events while the gate holds the request back, or 0.

    While one thread or greenlet is in run(), others may call everything else: a connection whose request is in the app
    answers BUSY and stays as it is. close() and gone() then cut its response, and run() closes it in the end.
    """

    def __init__(self, Context context not None, int fd, listener, peer=None):
        self.begin(context, fd, listener)
        if peer is None:
            self.names(None, None)
        else:
            self.names(peer[0], str(peer[1]))

    cdef int begin(self, Context context, int fd, object listener) except -1:
        self.context = context
        self.fd = fd
        self.is_open = True
        self.template = context.template(listener)
        self.inbox = Inbox.__new__(Inbox)
        self.inbox.context = context
        self.outbox = Outbox.__new__(Outbox)
        self.outbox.context = context
        self.outbox.fd = fd
        self.state = S_HEAD
        self.wait_until(context.header_timeout)
        return 0

    def __cinit__(self):
        self.state = S_CLOSED

    # What the worker's loop may ask

    @property
    def deadline(self):
        """When expire() must be called, in seconds of CLOCK_MONOTONIC; inf if never."""
        return self.due / 1e9 if self.due else float("inf")

    @property
    def idle(self):
        """Nothing of a request has arrived, and nothing is unsent."""
        return self.state == S_IDLE or self.state == S_HEAD and not self.inbox.has_begun()

    @property
    def pending(self):
        """A complete request waits in the buffer: serve() must be called again, though epoll may report nothing."""
        return self.state == S_READY

    @property
    def unfinished(self):
        """A request has begun to arrive and is not answered to its end. One that the app has taken over is none any more."""
        if self.state == S_RUNNING:
            return not self.response.given_up and not self.response.taken
        return S_HEAD <= self.state <= S_FLUSH and (self.state != S_HEAD or self.inbox.has_begun())

    @property
    def running(self):
        """May code of the app run for this connection? Not while the server waits for the client, on the app's behalf."""
        return self.is_running()

    @property
    def streaming(self):
        """Its request is in the app, and the head of the response has been sent."""
        return self.state == S_RUNNING and self.response.head_is_sent() and not self.response.taken

    @property
    def started(self):
        """When its request entered the app, in seconds of CLOCK_MONOTONIC, later by what it waited for the client."""
        return (self.entered + self.outbox.waited) / 1e9

    @property
    def request_line(self):
        """Of the request that is in the app: ``"GET /path"``, the client's bytes as Latin-1; empty if none is."""
        cdef h1_head *head
        if self.state != S_RUNNING:
            return ""
        with cython.critical_section(self.response):
            if not self.response.running:
                return ""
            head = self.inbox.head
            line = self.inbox.data + self.inbox.start
            method = line[head.method.offset:head.method.offset + head.method.length]
            target = line[head.target.offset:head.target.offset + head.target.length]
        return f"{method.decode('latin-1')} {target.decode('latin-1')}"

    cdef bint is_running(self) noexcept:
        return self.state == S_RUNNING and self.response.running and not self.outbox.waiting

    # What it may do

    def serve(self, int events=0):
        """All that can be done now; returns EPOLLIN, EPOLLOUT or 0 (closed)."""
        return self.step_serve()

    cdef int step_serve(self) except -1:
        cdef int step, turns = REQUESTS_A_TURN
        try:
            step = self.step_receive()
            while step == N_REQUEST:
                if turns == 0:
                    step = self.step_flush()
                    return N_READ if step == N_REQUEST else step
                turns -= 1
                step = self.step_run()
            return step
        except BaseException as error:
            return self.broken(error)

    cdef bint is_flushing(self) noexcept:
        return self.state == S_FLUSH

    cdef bint is_pending(self) noexcept:
        return self.state == S_READY

    def receive(self):
        try:
            return self.step_receive()
        except BaseException as error:
            return self.broken(error)

    def run(self):
        try:
            return self.step_run() if self.state == S_READY else self.step_receive()
        except BaseException as error:
            return self.broken(error)

    def flush(self):
        try:
            return N_BUSY if self.state == S_RUNNING else self.step_flush()
        except BaseException as error:
            return self.broken(error)

    def resume(self):
        """The gate has opened, or the master says something new of it: a request that is held tries again."""
        if self.state == S_HELD:
            self.state = S_READY
            self.due = 0

    def expire(self):
        """The deadline is over."""
        try:
            return self.step_expire()
        except BaseException as error:
            return self.broken(error)

    def retire(self):
        """The worker ends: an idle connection is half-closed, drained and closed; others go on."""
        try:
            if self.idle:
                return self.half_close()
            if self.state == S_RUNNING:
                return N_BUSY
            return N_WRITE if self.state == S_FLUSH else N_READ
        except BaseException as error:
            return self.broken(error)

    def turn_away(self, bytes answer not None):
        """This client is not served: sends a whole response without reading the request, then half-closes."""
        try:
            self.context.count(503)
            self.outbox.add(answer, len(answer))
            self.state = S_LINGER
            self.closing = True
            return self.step_flush()
        except BaseException as error:
            return self.broken(error)

    def close(self):
        """At once, whatever is unfinished. From a request in the app its client is cut off; run() does the rest."""
        if self.state == S_RUNNING:
            self.abandon(ECONNABORTED)
            shutdown(self.fd, SHUT_RDWR)
        else:
            self.shut()

    cdef int step_expire(self) except -1:
        cdef uint64_t due = self.due
        cdef int step
        if self.state < S_READY:   # while this worker was busy something may have come that it has not heard
            step = self.step_receive()
            if self.state >= S_READY or self.is_put_off(due):
                return N_READ if step == N_REQUEST else step
        if self.state == S_BODY:
            return self.refuse(408, "the body did not arrive in time")
        if self.state == S_HEAD and self.inbox.has_begun():
            return self.refuse(408, "the request head did not arrive in time")
        if self.state == S_HELD:
            self.resume()
        if self.state == S_READY or self.state == S_RUNNING:
            return N_BUSY if self.state == S_RUNNING else N_READ
        if self.state == S_FLUSH:
            self.await_reader()
            if self.is_put_off(due):
                return N_WRITE
            self.outbox.lost(ETIMEDOUT)
            self.report_loss()
            self.context.slot.cut += 1
        # An idle connection, used or not, is closed without a word: a client that sends its request just now would
        # take a 408 for the answer to it.
        return self.shut()

    cdef bint is_put_off(self, uint64_t due) noexcept:
        """Has the client a new deadline, which is not over already?"""
        return self.due != due and (self.due == 0 or self.due > clock_now())

    def interrupt(self, unsigned long thread):
        """Have RequestTimeout raised in the app, which that thread runs for this connection; False if it does not."""
        return self.state == S_RUNNING and interrupt(self.response, thread)

    def give_up(self):
        """The app does not come back: its client gets a 504, and what the app gives later is not sent. False if it has
        given something already. Only with the GIL, which keeps the app's thread from sending at the same time."""
        cdef Context context = self.context
        cdef bytes answer
        if self.state != S_RUNNING or self.response.head_is_sent() or not self.outbox.is_empty() or self.outbox.failure:
            return False
        context.tick(clock_now())
        answer = TOO_LATE % context.server_date[:context.server_date_length]
        if self.response.head_request:
            answer = answer[:answer.index(b"\r\n\r\n") + 4]
        send(self.fd, <const char *>answer, len(answer), MSG_NOSIGNAL | MSG_DONTWAIT)
        shutdown(self.fd, SHUT_WR)
        self.response.given_up = True
        self.abandon(ECANCELED)
        return True

    def hang_up(self):
        """Ends a connection that the app has taken over, so that the app hears of it; False if this is none."""
        if self.state != S_RUNNING or not self.response.taken:
            return False
        self.response.hung_up = True
        shutdown(self.fd, SHUT_RDWR)
        return True

    def gone(self):
        """The client was seen to be gone while its request is in the app: its response is not sent."""
        if self.state == S_RUNNING and not self.response.taken:
            self.abandon(ECONNRESET)

    cdef void abandon(self, int failure) noexcept:
        """Nothing more is sent. What the outbox holds stays until run() is over, which may be using it."""
        if not self.outbox.failure:
            self.outbox.failure = failure

    # Receiving

    cdef int step_receive(self) except -1:
        """Reads while there is something to read, until a request is complete."""
        cdef ssize_t n
        cdef int step = N_READ, turns = RECEIVES_A_TURN
        cdef bint short_read = False
        if self.state >= S_READY:
            if self.state == S_READY:
                return N_REQUEST
            if self.state == S_HELD:
                return N_HELD if self.is_there() else self.shut()
            if self.state == S_FLUSH:
                return self.step_flush()
            if self.state == S_RUNNING:
                return N_BUSY
            return self.linger() if self.state == S_LINGER else N_CLOSED
        while turns and not short_read:
            turns -= 1
            n = self.inbox.receive(self.fd, &short_read)
            if n <= 0:
                if n == -EAGAIN:
                    break
                return self.ended() if n == 0 else self.lost(<int>-n)
            step = self.advance()
            if self.state > S_BODY:   # also one that lingers: what it sends is dropped, and never understood
                return step
        if self.state == S_BODY or self.inbox.is_empty():
            return self.settle()
        return step

    cdef int advance(self) except -1:
        """Understands what has been received. The response before it must have left, or be whole in the outbox's memory:
        what is said to this request is said behind it."""
        cdef int result
        if self.closing or self.state > S_BODY:
            raise AssertionError("BUG: bytes behind the last request were to be understood")
        result = self.inbox.advance()
        if result == IN_COMPLETE:
            self.state = S_READY
            self.due = 0
            return N_REQUEST
        if result == IN_FAULT:
            return self.refuse(self.inbox.status, self.inbox.reason, self.inbox.detail)
        if self.inbox.in_body:
            if self.state != S_BODY:
                self.state = S_BODY
                self.await_body()
            if self.inbox.expects:
                self.inbox.expects = False
                self.outbox.add(b"HTTP/1.1 100 Continue\r\n\r\n", 25)
                return self.step_flush()
        elif self.state == S_IDLE and not self.inbox.is_empty():
            self.state = S_HEAD
            self.wait_until(self.context.header_timeout)
        return N_READ

    cdef int ended(self) except -1:
        """The client has half-closed or closed."""
        if self.state == S_BODY:
            self.client_closes = True
            return self.refuse(400, "the connection was closed before the body was complete")
        if not self.inbox.is_empty():
            self.context.log.debug(f"{self.name()}: closed in the middle of a request head")
        return self.shut()

    cdef int lost(self, int failure) except -1:
        if not self.inbox.is_empty():
            self.context.log.debug(f"{self.name()}: lost in the middle of a request: {strerror(failure)}")
        return self.shut()

    # Running

    cdef int step_run(self) except -1:
        cdef Context context = self.context
        cdef Inbox inbox = self.inbox
        cdef h1_head *head = inbox.head
        cdef const char *base = inbox.data + inbox.start
        cdef uint64_t started, now
        cdef dict environ
        cdef int step
        self.prepare_response(head.keep_alive != 0 and context.keep_alive != 0 and not context.draining)
        self.state = S_RUNNING
        self.entered = started = context.enter(head, base)
        context.client = self.fd
        if context.slot.gate and context.gatekeeper is not None:
            context.retreat(started)   # first entered, then looked: so no request slips in when the gate closes
            step = self.knock()
            if step != N_REQUEST or self.state != S_RUNNING:   # a REQUEST may be the next one, behind a 503
                return step
            self.entered = started = context.enter(head, base)
        context.tick(started)
        self.client_closes = not head.keep_alive
        self.had_body = inbox.body is not EMPTY
        environ = make_environ(context, self.template, head, base, inbox.body, self.remote_addr, self.remote_port)
        if head.upgrade and context.concurrent:
            environ[ENVIRON_KEY] = ClientSocket(self.response)
        try:
            exchange(context, self.response, self.start_response, environ)
        finally:
            now = clock_now()
            context.leave(started, now)
            if context.slot.gate and context.gatekeeper is not None:
                context.gatekeeper.left(self.fd)
        self.record(now - started, environ, True)
        return self.after_response(now)

    cdef int knock(self) except -1:
        """The gate is closed: REQUEST, if this request may enter all the same; else it is held, or answered with 503."""
        cdef uint64_t now = clock_now()
        cdef double patience
        cdef int step
        self.state = S_READY
        if not self.outbox.is_empty():   # its client waits for answers to the requests before
            step = self.step_flush()
            if step != N_REQUEST:
                return step
        self.held_since = self.held_since or now
        self.state = S_HELD   # before the gatekeeper knows it, who may call resume() in another thread at once
        patience = self.context.gatekeeper.patience(self, self.asked(), (now - self.held_since) / 1e9)
        if self.state == S_CLOSED:   # meanwhile
            return N_CLOSED
        if patience > 0 and self.state == S_HELD:
            self.due = now + <uint64_t>(patience * 1e9)
            return N_HELD
        self.due = 0
        if patience > 0:
            self.state = S_READY
            return N_HELD
        self.held_since = 0
        if patience == 0:
            self.state = S_READY
            return self.shut_out()
        self.prepare_response(self.inbox.head.keep_alive != 0 and self.context.keep_alive != 0 and not self.context.draining)
        self.state = S_RUNNING
        return N_REQUEST

    cdef str asked(self):
        """Method and path of its complete request: ``"GET /path"``, the client's bytes as Latin-1."""
        cdef h1_head *head = self.inbox.head
        line = self.inbox.data + self.inbox.start
        method = line[head.method.offset:head.method.offset + head.method.length]
        target = line[head.target.offset:head.target.offset + head.target.length]
        return f"{method.decode('latin-1')} {target.partition(b'?')[0].decode('latin-1')}"

    cdef int shut_out(self) except -1:
        """Answers 503, as the gatekeeper words it; nobody enters the app."""
        cdef h1_head *head = self.inbox.head
        cdef const char *base = self.inbox.data + self.inbox.start
        cdef dict environ
        environ = make_environ(
            self.context, self.template, head, base, self.inbox.body, self.remote_addr, self.remote_port
        )
        status, fields, page = self.context.gatekeeper.refusal()
        self.client_closes = not head.keep_alive
        self.had_body = self.inbox.body is not EMPTY
        self.prepare_response(head.keep_alive != 0 and self.context.keep_alive != 0 and not self.context.draining)
        self.context.tick(clock_now())
        self.start_response(status, fields)
        self.response.put_sequence([page])
        self.response.finish()
        self.record(0, environ, True)
        return self.after_response(clock_now())

    cdef int prepare_response(self, bint keep_alive) except -1:
        cdef h1_head *head = self.inbox.head
        cdef bint http11 = True, head_request = False
        cdef const char *method
        if self.response is None or self.response_is_kept():
            self.drop_response()
            self.response = Response.__new__(Response)
            self.response.writer = self.response.write
            self.start_response = self.response.start_response
        if self.inbox.has_line():
            http11 = head.minor_version > 0
            method = self.inbox.data + self.inbox.start + head.method.offset
            head_request = head.method.length == 4 and memcmp(method, b"HEAD", 4) == 0
        self.response.begin(self.context, self.outbox, http11, head_request, keep_alive)
        self.outbox.bunch = self.context.bunch.is_worth() and self.remote_addr is not None
        return 0

    cdef bint response_is_kept(self) noexcept:
        """Has the app kept one of its callables, or the response by way of them?"""
        return (
            refcount(<PyObject *>self.response) > 3   # ours, and those of the two bound methods
            or refcount(<PyObject *>self.start_response) > 1
            or refcount(<PyObject *>self.response.writer) > 1
        )

    cdef void drop_response(self):
        if self.response is not None:
            self.response.drop()
        self.response = self.start_response = None

    cdef int after_response(self, uint64_t now) except -1:
        """What comes next: the client's next request, or the end."""
        cdef int step
        self.closing = not self.response.keep_alive
        self.taken = self.response.taken
        self.response.end()
        if self.taken:
            fcntl(self.fd, F_SETFL, O_RDWR | O_NONBLOCK)   # the app's copy has had it in blocking mode
        if self.outbox.failure:
            self.report_loss()
            return self.shut()
        self.inbox.next()
        self.held_since = 0
        self.state = S_IDLE
        self.due = now + self.context.keep_alive if self.context.keep_alive else 0
        if self.closing or self.inbox.is_empty() or not self.outbox.holds_only_memory():
            return self.step_flush()
        step = self.advance()
        if step == N_REQUEST and self.outbox.pending() < COALESCED:
            return step
        return self.step_flush()

    # Sending

    cdef int step_flush(self) except -1:
        cdef int step, result = OUT_EMPTY
        if self.state == S_CLOSED:
            return N_CLOSED
        if not self.outbox.is_empty():
            self.outbox.last = self.closing
            result = self.outbox.flush()
        if result == OUT_GONE:
            self.report_loss()
            self.context.slot.cut += 1
            return self.shut()
        if result == OUT_BLOCKED:
            self.outbox.relieve()
            if self.state == S_FLUSH:
                self.await_reader()
            else:
                self.earned = 0
                self.earn(self.outbox.progress(), self.context.response_min_rate, self.context.write_timeout)
                self.behind_flush = self.state
                self.state = S_FLUSH
                if self.behind_flush == S_IDLE and self.inbox.is_empty():
                    self.inbox.close()
            return N_WRITE
        if self.state == S_FLUSH:
            self.state = self.behind_flush
            if self.state == S_HEAD:   # until now the client could not be heard
                self.wait_until(self.context.header_timeout)
            elif self.state == S_BODY:
                self.await_body()
            elif self.state == S_IDLE:
                self.outbox.rest()
                self.wait_until(self.context.keep_alive)
        if self.closing:
            return self.half_close()
        if self.state == S_IDLE and not self.inbox.is_empty():   # a request that has waited for the end of that response
            step = self.advance()
            if self.state > S_BODY:
                return step
        return self.settle()

    cdef int settle(self) except -1:
        """Sets the deadline of the state, gives back what it does not need, and says what it waits for."""
        if self.state == S_READY:
            return N_REQUEST
        if self.state == S_IDLE:           # IDLE keeps its deadline: it counts from the end of the last response
            if self.inbox.head is not NULL:
                self.inbox.close()
                self.outbox.rest()
        elif self.state == S_BODY:
            if self.inbox.arrived:
                self.earn(self.inbox.arrived, self.context.body_min_rate, self.context.body_timeout)
                self.inbox.arrived = 0
        elif self.inbox.is_empty():
            self.inbox.close()   # a new connection that was woken for nothing
        return N_READ            # HEAD keeps its deadline: it counts from the head's first byte

    cdef void wait_until(self, uint64_t timeout) noexcept:
        self.due = clock_now() + timeout if timeout else 0

    cdef int await_body(self) except -1:
        """A body begins, or can be heard again. Before its first byte only body_timeout counts."""
        self.earned = 0
        self.wait_until(self.context.body_timeout)
        return 0

    cdef int await_reader(self) except -1:
        """What the client has taken of its response gives it more time."""
        cdef uint64_t taken = self.outbox.progress()
        if taken:
            self.earn(taken, self.context.response_min_rate, self.context.write_timeout)
        return 0

    cdef void earn(self, uint64_t size, uint64_t rate, uint64_t timeout) noexcept:
        cdef uint64_t now = clock_now()
        self.earned = rate_earned(self.earned, now, size, rate, timeout)
        self.due = rate_due(self.earned, now, timeout)

    # Ending

    cdef int refuse(self, int status, str reason, str detail=None) except -1:
        """Answers a fault of the client's, or of ours in receiving: bytes, a line in the log, the connection's end."""
        if detail is None:
            self.complain(self.context.complaints, "info", f"refused with {status}: {reason}")
        else:
            self.complain(self.context.complaints, "error", f"refused with {status}: {detail}")
        self.context.tick(clock_now())
        self.prepare_response(False)
        self.response.plain(status, reason[0].upper() + reason[1:] + ".")
        self.record(0, None, False)
        self.response.end()
        self.inbox.close()
        self.state = S_LINGER
        self.closing = True
        return self.step_flush()

    cdef int half_close(self) except -1:
        """Nothing more will be sent. A client that may still be sending must be read to its end before the close."""
        if self.client_closes and self.inbox.is_empty() and not (self.had_body and self.has_unread()):
            return self.shut()
        self.inbox.close()
        self.outbox.close()
        self.closing = False
        if not self.stop_sending():
            return self.shut()
        self.state = S_LINGER
        self.wait_until(LINGER_TIME)
        return self.linger()

    cdef int linger(self) except -1:
        return N_READ if self.drain() else self.shut()

    cdef int shut(self) except -1:
        """Closes the descriptor, once."""
        if self.state == S_CLOSED:
            return N_CLOSED
        self.state = S_CLOSED
        self.due = 0
        self.inbox.close()
        self.outbox.close()
        self.drop_response()
        if self.outbox.busy:   # a thread of the app's may be waiting for the descriptor
            self.is_open = False
            self.outbox.owns_fd = True
        self.part(self.context.epoll)
        return N_CLOSED

    # Telling

    cdef int record(self, uint64_t duration, dict environ, bint understood) except -1:
        """Counts the response and writes its line in the access log."""
        cdef log_entry entry
        cdef Response response = self.response
        cdef Inbox inbox = self.inbox
        cdef h1_head *head
        cdef Py_ssize_t size
        if response.given_up:
            response.status, response.sent = 504, 0
        self.context.count(response.status)
        entry.cut = not response.given_up and (response.cut or response.short or self.outbox.failure != 0)
        if entry.cut:
            self.context.slot.cut += 1
        if self.context.access_log is None:
            return 0
        entry.peer.data = utf8(self.remote_addr if self.remote_addr is not None else "unix", &size)
        entry.peer.size = size
        entry.status = response.status
        entry.sent = response.sent
        entry.duration = duration
        entry.kept = response.keep_alive
        head = inbox.head if inbox.has_line() else NULL
        log_request(&entry, head, understood, inbox.data + inbox.start, inbox.end - inbox.start)
        return self.context.access_log.add(&entry, response.fields, environ)

    cdef int report_loss(self) except -1:
        """The outbox cannot send any more."""
        if self.outbox.failure == ETIMEDOUT:
            self.forget()
        return self.explain(self.context.complaints, self.outbox.failure)

    cdef int broken(self, object error) except -1:
        """Something raised that never should: the connection is lost, the worker is not."""
        self.context.running = False
        self.context.log.error(f"BUG: {self.name()}: closed in state {self.state}\n{described(error)}")
        return self.shut()
