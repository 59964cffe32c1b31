# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""One response: start_response and write() of PEP 3333, and the framing of RFC 9112.

The head is staged in the outbox, where start_response may still replace it, and committed when the first byte of the
body comes or the iterable ends. Framing: the app's Content-Length, else the one that a whole list gives, else chunked,
or until the close for HTTP/1.0. An app that gives more than its Content-Length is cut to it; one that gives less costs
the connection.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_SIZE, PyList_GetSlice
from libc.errno cimport errno
from libc.string cimport memcpy
from posix.unistd cimport pread

from pyserve_workers.native.outbox cimport OUT_EMPTY, OUT_GONE, Outbox
from pyserve_workers.native.outbox cimport text as Text
from pyserve_workers.native.seenhead cimport SeenHead, is_kept, is_same


cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030C0000
    #define response_text_ready(text) PyUnicode_READY(text)
    #else
    #define response_text_ready(text) 0
    #endif
    /* The characters of a str that has none above U+00FF, else NULL. */
    static const char *response_latin1(PyObject *text, Py_ssize_t *size)
    {
        if (response_text_ready(text) < 0 || PyUnicode_KIND(text) != PyUnicode_1BYTE_KIND)
            return NULL;
        *size = PyUnicode_GET_LENGTH(text);
        return (const char *)PyUnicode_1BYTE_DATA(text);
    }
    """
    const char *response_latin1(object text, Py_ssize_t *size)

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int command, ...)
    int F_DUPFD_CLOEXEC

cdef extern from "octets.h" nogil:
    bint octets_is_token(const char *data, size_t size)
    bint octets_is_text(const char *data, size_t size)
    bint octets_equal(const char *data, size_t size, const char *name, size_t name_size)
    bint octets_list_has(const char *data, size_t size, const char *token, size_t token_size)
    int octets_number(const char *data, size_t size, uint64_t *value)
    size_t octets_decimal(char *out, uint64_t value)
    size_t octets_chunk_line(char *out, uint64_t value)


cdef enum:
    COMMIT_ROOM = 256       # what commit() adds to a head
    ONE_SEND = 16384        # up to this a body is copied behind its head, above it is sent from where it is
    CONTENT_LENGTH = 1
    DATE = 2
    SERVER = 3
    CONNECTION = 4
    HOP_BY_HOP = 5

PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    507: "Insufficient Storage",
}


cdef int kind_of(const char *name, size_t size) noexcept:
    """Which fields the server has a say in."""
    if size == 4:
        return DATE if octets_equal(name, size, b"date", 4) else 0
    if size == 6:
        return SERVER if octets_equal(name, size, b"server", 6) else 0
    if size == 14:
        return CONTENT_LENGTH if octets_equal(name, size, b"content-length", 14) else 0
    if size == 10:
        if octets_equal(name, size, b"connection", 10):
            return CONNECTION
        return HOP_BY_HOP if octets_equal(name, size, b"keep-alive", 10) else 0
    if (
        size == 2 and octets_equal(name, size, b"te", 2)
        or size == 7 and (octets_equal(name, size, b"trailer", 7) or octets_equal(name, size, b"upgrade", 7))
        or size == 16 and octets_equal(name, size, b"proxy-connection", 16)
        or size == 17 and octets_equal(name, size, b"transfer-encoding", 17)
        or size == 18 and octets_equal(name, size, b"proxy-authenticate", 18)
        or size == 19 and octets_equal(name, size, b"proxy-authorization", 19)
    ):
        return HOP_BY_HOP
    return 0


cdef int refuse_second(str what) except -1:
    raise RuntimeError(f"{what} while another thread was sending a part of the response")


@cython.final
cdef class Response:
    """Lives for one request; a connection uses it again if the app has kept no reference."""

    cdef void begin(self, Context context, Outbox outbox, bint http11, bint head_request, bint keep_alive):
        self.context = context
        self.outbox = outbox
        outbox.waited = 0
        outbox.whole = False
        self.given_up = self.hung_up = False
        self.http11 = http11
        self.head_request = head_request
        self.keep_alive = keep_alive
        self.stage = FRESH
        self.status = 0
        self.has_date = self.has_server = self.bodiless = self.declared = self.single = self.chunked = False
        self.excess = self.short = self.cut = self.taken = False
        self.length = self.sent = self.staged = 0
        self.fields = None

    cdef void end(self):
        self.outbox = None

    cdef void drop(self):
        """It is not used again by the server."""
        self.writer = None   # which refers to this object

    cdef void stop(self) noexcept:
        """Nothing that the app says from here on is sent."""
        self.stage = DONE
        if self.outbox.busy:   # by a thread of the app's
            self.keep_alive = False
            self.cut = True
            self.outbox.strand()

    cdef Outbox occupy(self, str what):
        """The outbox, for the caller alone until it leaves it: who spools or waits for the client gives up the GIL.
        RuntimeError if another thread or greenlet of the app's is in there."""
        cdef Outbox outbox = self.outbox
        with cython.critical_section(outbox):
            if outbox.busy:
                refuse_second(what)
            outbox.busy = True
        return outbox

    cdef bint head_is_sent(self) noexcept:
        return self.stage >= COMMITTED

    # The app's side

    def start_response(self, status, headers, exc_info=None):
        """PEP 3333's callable; returns write(). TypeError or ValueError for a status or header that cannot be sent.

        A list's and a tuple's items are what they hold, whatever the methods of a subclass say: nothing of the app's
        runs between the look at a head and its writing.
        """
        cdef Outbox outbox
        if self.outbox is None:
            raise RuntimeError("start_response was called after its request had ended")
        if exc_info is not None:
            try:
                if self.stage >= COMMITTED:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        elif self.stage != FRESH:
            if self.taken:
                return self.writer   # what is said now is not sent
            raise RuntimeError("start_response was called a second time without exc_info")
        if not isinstance(headers, list):
            raise TypeError(f"the response headers must be a list, not {type(headers).__name__}")
        if self.context.seen_head is None:   # without a GIL the list may change meanwhile
            headers = PyList_GetSlice(headers, 0, PyList_GET_SIZE(headers))
        with cython.critical_section(self.outbox):   # where nothing runs the app's code, the look alone will do
            if self.outbox.busy:
                refuse_second("start_response was called")
            self.stage = FRESH   # until the new head has proved to be sound
            if self.repeat_head(status, <list>headers):
                return self.writer
        outbox = self.occupy("start_response was called")
        try:
            self.set_head(status, <list>headers)
            self.remember_head(status, <list>headers)
        finally:
            outbox.leave()
        return self.writer

    def write(self, data):
        """PEP 3333's imperative way to send a part of the body."""
        if self.outbox is None:
            raise RuntimeError("write() was called after its request had ended")
        if self.stage == DONE and not self.taken:
            raise RuntimeError("write() was called after its response had ended")
        if self.context.forked:
            raise RuntimeError("write() was called in a process that the app has forked: only the worker answers")
        self.put(data)

    def take_over(self):
        """A duplicate of the client's descriptor, for an app that goes on in another protocol. RuntimeError if it is too
        late for that."""
        cdef int fd, state
        cdef Outbox outbox
        if self.outbox is None:
            raise RuntimeError("the client's socket was used after its request had ended")
        if self.context.forked:
            raise RuntimeError("the client's socket was used in a process that the app has forked")
        if self.stage >= COMMITTED:
            raise RuntimeError("the client's socket was used after the response had begun")
        outbox = self.occupy("the client's socket was used")
        try:
            state = outbox.flush()   # responses to requests before this one
            if state == OUT_GONE:
                self.drop_head()   # which lay behind them
            if state != OUT_EMPTY:
                raise RuntimeError("the client's socket was used before the client had read the earlier responses")
            fd = fcntl(outbox.fd, F_DUPFD_CLOEXEC, 3)
            if fd < 0:
                raise OSError(errno, "the client's socket cannot be duplicated")
            self.taken = self.bodiless = True
            self.stage = DONE
            self.keep_alive = False
            self.status = 101
        finally:
            outbox.leave()
        return fd

    # The head

    cdef bint repeat_head(self, object status, list headers) except -1:
        """Stages the head that was remembered, if it is this one."""
        cdef SeenHead seen = self.context.seen_head
        cdef Py_ssize_t size
        if seen is None or not is_same(seen, status, headers):
            return False
        size = PyBytes_GET_SIZE(seen.text)
        memcpy(self.outbox.reserve(size + COMMIT_ROOM), PyBytes_AS_STRING(seen.text), size)
        self.staged = size
        self.status = seen.code
        self.has_date = seen.has_date
        self.has_server = seen.has_server
        self.declared = seen.declared
        self.length = seen.length
        self.fields = seen.fields
        self.head_is_staged()
        return True

    cdef int remember_head(self, object status, list headers) except -1:
        """The head that is staged may come again. One that ends the connection is not worth it."""
        cdef SeenHead seen, before = self.context.seen_head
        if before is None or not self.keep_alive or not is_kept(headers):
            return 0
        seen = SeenHead.__new__(SeenHead)
        seen.status = status
        seen.headers = PyList_GetSlice(headers, 0, PyList_GET_SIZE(headers))   # list() would ask a subclass's __iter__
        seen.text = PyBytes_FromStringAndSize(self.outbox.data + self.outbox.end, self.staged)
        seen.fields = self.fields
        seen.code = self.status
        seen.has_date = self.has_date
        seen.has_server = self.has_server
        seen.declared = self.declared
        seen.length = self.length
        self.context.seen_head = seen   # `before` goes only now: what it held may have a __del__ that comes back here
        return 0

    cdef void head_is_staged(self) noexcept:
        self.bodiless = self.head_request or self.status == 204 or self.status == 304 or self.status == 205
        self.stage = STAGED

    cdef int set_head(self, object status, list headers) except -1:
        cdef size_t total = 64
        cdef Py_ssize_t size = 0, name_size = 0
        cdef const char *value
        cdef const char *key
        cdef char *out
        cdef int kind
        if not isinstance(status, str):
            raise TypeError(f"the response status must be a str such as '200 OK', not {type(status).__name__}")
        self.staged = 0
        self.has_date = self.has_server = self.declared = False
        self.length = 0
        total += len(<str>status)
        for item in headers:
            if not isinstance(item, tuple) or len(<tuple>item) != 2:
                raise TypeError(f"a response header must be a tuple (name, value), not {item!r}")
            for text in <tuple>item:
                if not isinstance(text, str):
                    kind_of_text = type(text).__name__
                    raise TypeError(f"a response header's name and value must be str, not {kind_of_text}: {item!r}")
                total += len(<str>text) + 2
        self.outbox.reserve(total + COMMIT_ROOM)
        self.set_status(<str>status)
        out = self.outbox.data + self.outbox.end + self.staged
        for item in headers:
            key = response_latin1((<tuple>item)[0], &name_size)
            if key is NULL or not octets_is_token(key, name_size):
                raise ValueError(f"a response header's name is not an HTTP token: {item!r}")
            value = response_latin1((<tuple>item)[1], &size)
            if value is NULL:
                raise ValueError(f"a response header's value has a character that is not Latin-1: {item!r}")
            if not octets_is_text(value, size):
                raise ValueError(f"a response header's value has a control character: {item!r}")
            kind = kind_of(key, name_size)
            if kind:
                if kind == HOP_BY_HOP:
                    continue   # the connection is the server's own (PEP 3333, "other HTTP features")
                self.note_field(kind, value, size, item)
                if kind == CONNECTION or kind == CONTENT_LENGTH:
                    continue   # commit() writes what holds in the end
            memcpy(out, key, name_size)
            out += name_size
            out[0], out[1] = c":", c" "
            memcpy(out + 2, value, size)
            out += size + 2
            out[0], out[1] = c"\r", c"\n"
            out += 2
        total = self.staged
        self.staged = out - (self.outbox.data + self.outbox.end)
        if self.context.wants_response_fields:
            self.fields = PyBytes_FromStringAndSize(self.outbox.data + self.outbox.end + total, self.staged - total)
        self.head_is_staged()
        return 0

    cdef int set_status(self, str status) except -1:
        cdef Py_ssize_t size = 0
        cdef const char *text = response_latin1(status, &size)
        cdef char *out = self.outbox.data + self.outbox.end
        cdef int i
        if text is NULL or size < 4 or text[3] != c" " or not octets_is_text(text, size):
            raise ValueError(f"the response status is not three digits, a space and a Latin-1 reason: {status!r}")
        self.status = 0
        for i in range(3):
            if not c"0" <= text[i] <= c"9":
                raise ValueError(f"the response status is not three digits, a space and a Latin-1 reason: {status!r}")
            self.status = self.status * 10 + (text[i] - c"0")
        if self.status < 200:
            raise ValueError(f"the response status of an app must be 200 or more: {status!r}")
        memcpy(out, b"HTTP/1.1 ", 9)
        memcpy(out + 9, text, size)
        memcpy(out + 9 + size, b"\r\n", 2)
        self.staged = size + 11
        return 0

    cdef int note_field(self, int kind, const char *value, size_t size, item) except -1:
        cdef uint64_t length = 0
        if kind == DATE:
            self.has_date = True
        elif kind == SERVER:
            self.has_server = True
        elif kind == CONNECTION:
            if octets_list_has(value, size, b"close", 5):
                self.keep_alive = False
        elif octets_number(value, size, &length) < 0:
            raise ValueError(f"the response's Content-Length is not a number: {item!r}")
        elif self.declared and self.length != length:
            raise ValueError(f"the response has two different Content-Lengths, {self.length} and {length}")
        else:
            self.declared = True
            self.length = length
        return 0

    cdef int commit(self) except -1:
        """Adds the server's own fields to the staged head and puts it into the outbox for good."""
        cdef Context context = self.context
        cdef char *start = self.outbox.data + self.outbox.end
        cdef char *out = start + self.staged
        cdef size_t skip
        if not self.has_date and not self.has_server:
            memcpy(out, context.server_date, context.server_date_length)
            out += context.server_date_length
        elif not self.has_server:
            memcpy(out, context.server_date, context.server_length)
            out += context.server_length
        elif not self.has_date:
            skip = context.server_length
            memcpy(out, context.server_date + skip, context.server_date_length - skip)
            out += context.server_date_length - skip
        if self.status == 205:
            self.declared = True
            self.length = 0
        if self.declared:
            if self.status != 204:
                memcpy(out, b"Content-Length: ", 16)
                out += 16 + octets_decimal(out + 16, self.length)
                out[0], out[1] = c"\r", c"\n"
                out += 2
        elif not self.bodiless:   # RFC 9110 9.3.2: to HEAD, what only the content could tell may be left out
            if self.http11:
                self.chunked = True
                memcpy(out, b"Transfer-Encoding: chunked\r\n", 28)
                out += 28
            else:
                self.keep_alive = False
        if context.draining:
            self.keep_alive = False
        if not self.keep_alive:
            memcpy(out, b"Connection: close\r\n", 19)
            out += 19
        elif not self.http11:
            memcpy(out, b"Connection: keep-alive\r\n", 24)
            out += 24
        out[0], out[1] = c"\r", c"\n"
        self.outbox.end += out + 2 - start
        self.stage = COMMITTED
        return 0

    cdef void drop_head(self) noexcept:
        """The staged head is not wanted any more."""
        self.stage = FRESH
        self.staged = 0

    # The body

    cdef int put(self, object data) except -2:
        """A part of the body. 1 when no more is wanted: the client is gone, or the response has no room for it."""
        cdef Outbox outbox
        if not isinstance(data, bytes):
            raise TypeError(f"the body must consist of bytes, not {type(data).__name__}")
        if self.stage == FRESH:
            raise RuntimeError("the app gave a part of the body before it called start_response")
        if PyBytes_GET_SIZE(data) == 0:
            return 0
        outbox = self.occupy("a part of the body was given")
        try:
            return self.put_part(outbox, data)
        finally:
            outbox.leave()

    cdef int put_part(self, Outbox outbox, object data) except -2:
        cdef char line[20]
        cdef Text before, part, after
        cdef size_t size = PyBytes_GET_SIZE(data)
        if self.stage == STAGED:
            if self.single and not self.declared:
                self.declared = True
                self.length = size
            self.commit()
        if self.bodiless:
            return 1
        before.data, before.size = line, 0
        after.data, after.size = b"\r\n", 0
        if self.chunked:
            before.size = octets_chunk_line(line, size)
            after.size = 2
        elif self.declared and size > self.length - self.sent:
            size = self.length - self.sent
            self.excess = True
        self.sent += size
        part.data = PyBytes_AS_STRING(data)
        part.size = size
        outbox.whole = self.declared and self.sent == self.length
        if size and outbox.write(before, part, after) == OUT_GONE:
            return 1
        return self.excess

    cdef int put_sequence(self, object chunks) except -2:
        """The whole body, as a list or tuple."""
        cdef uint64_t total = 0
        cdef Outbox outbox = self.outbox
        cdef bint whole
        if self.stage == FRESH:
            raise RuntimeError("the app did not call start_response")
        if self.context.seen_head is None:   # as in start_response
            chunks = tuple(chunks)
        for data in chunks:
            if not isinstance(data, bytes):
                raise TypeError(f"the body must consist of bytes, not {type(data).__name__}")
            total += PyBytes_GET_SIZE(data)
        with cython.critical_section(outbox):   # nothing in there waits, or runs the app's code
            if outbox.busy:
                refuse_second("the body was given")
            whole = self.put_whole(outbox, chunks, total)
        if not whole:
            for data in chunks:
                if self.put(data):
                    return 1
        return 0

    cdef bint put_whole(self, Outbox outbox, object chunks, uint64_t total) except -1:
        """The same without a look at the client; False if the items have to be put one by one."""
        cdef size_t size
        cdef bint continued = self.stage == COMMITTED   # the app has used write() before
        if self.stage == STAGED:
            # To HEAD an empty list may mean no more than that: GET's length is not known (RFC 9110 8.6).
            if not self.declared and (total or not self.head_request):
                self.declared = True
                self.length = total
            self.commit()
        if self.bodiless:
            return True
        if continued or len(chunks) != 1 and total > ONE_SEND:
            return False
        for data in chunks:
            size = min(<uint64_t>PyBytes_GET_SIZE(data), self.length - self.sent)
            self.sent += size
            if size < <size_t>PyBytes_GET_SIZE(data):
                self.excess = True
            if size <= ONE_SEND or not PyBytes_CheckExact(data):
                outbox.add(PyBytes_AS_STRING(data), size)
            else:
                outbox.pin(<bytes>data)
                outbox.pinned_left = size
        return True

    cdef int put_file(self, int fd, uint64_t offset, uint64_t size) except -2:
        """The whole body, as a part of a file whose descriptor stays the app's own."""
        cdef Outbox outbox = self.occupy("the body was given")
        try:
            return self.put_part_of_file(outbox, fd, offset, size)
        finally:
            outbox.leave()

    cdef int put_part_of_file(self, Outbox outbox, int fd, uint64_t offset, uint64_t size) except -2:
        cdef ssize_t n
        cdef int copy
        if not self.declared:
            self.declared = True
            self.length = size
        self.commit()
        if self.bodiless:
            return 1
        size = min(size, self.length)
        if size == 0:
            return 0
        if size <= ONE_SEND:
            n = pread(fd, outbox.reserve(size), size, offset)
            if n < 0:
                raise OSError(errno, "the file of the response cannot be read")
            outbox.end += n
            self.sent += n
            return 0
        copy = fcntl(fd, F_DUPFD_CLOEXEC, 3)
        if copy < 0:
            raise OSError(errno, "the file of the response cannot be duplicated")
        self.sent += size
        return outbox.attach(copy, offset, size)

    cdef int head_only(self) except -1:
        """A HEAD request whose head is known: what the body would be is not asked."""
        if self.stage == STAGED:
            self.commit()
        return 0

    cdef int finish(self) except -2:
        """The body has ended."""
        cdef Outbox outbox = self.outbox
        if self.stage == FRESH:
            raise RuntimeError("the app did not call start_response")
        with cython.critical_section(outbox):
            if outbox.busy:
                refuse_second("the response ended")
            if self.stage == STAGED:
                if not self.head_request:
                    self.declared = True   # with the app's Content-Length or none, which is 0
                self.commit()
            if self.bodiless or not self.chunked:
                self.end_body(outbox)
                return 0
        self.occupy("the response ended")
        try:
            if outbox.keep(b"0\r\n\r\n", 5) == OUT_GONE:   # sent when the connection flushes
                return 1
            self.end_body(outbox)
        finally:
            outbox.leave()
        return 0

    cdef void end_body(self, Outbox outbox) noexcept:
        if not self.bodiless and self.declared and self.sent < self.length and not outbox.failure:
            self.short = True
            self.keep_alive = False
        self.stage = DONE
        outbox.whole = True

    cdef int plain(self, int status, str text) except -1:
        """A whole response of the server's own."""
        cdef bytes body = text.encode("latin-1", "replace") + b"\n"
        self.has_date = self.has_server = self.excess = self.short = self.chunked = self.cut = False
        self.set_head(f"{status} {PHRASES[status]}", [("Content-Type", "text/plain; charset=iso-8859-1")])
        self.declared = True
        self.length = len(body)
        self.put_sequence([body])
        self.stage = DONE
        return 0
