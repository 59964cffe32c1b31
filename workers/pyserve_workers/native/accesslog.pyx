# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""The access log: one line for every response, formatted natively and written once a turn of the loop.

Formats: "combined" (Apache's), "json" (one object a line), or a text with gunicorn's atoms. No client can forge a
line: in a text, quotes, backslashes, control characters and bytes beyond ASCII appear as \\xNN; in JSON, as its own
escapes.
A log that cannot be written, or that nobody reads, costs its lines, never a request.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcpy, memmove
from posix.unistd cimport getpid

from binascii import Error as Base64Error
from binascii import a2b_base64

from pyserve.errors import ConfigError

from pyserve_workers.http1.http1 cimport h1_field, h1_head, h1_span


cdef extern from "clock.h" nogil:
    uint64_t clock_wall()
    void clock_log_date(char *out, uint64_t wall_seconds)
    void clock_iso_date(char *out, uint64_t wall_seconds)

cdef extern from "writing.h" nogil:
    const size_t WRITING_ATOMIC
    int WRITING_FILE
    int writing_way(int fd)
    ssize_t writing_now(int fd, int way, const void *data, size_t size)

cdef extern from "octets.h" nogil:
    bint octets_equal(const char *data, size_t size, const char *name, size_t name_size)
    size_t octets_decimal(char *out, uint64_t value)


COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

cdef extern from "<string.h>" nogil:
    void *memrchr(const void *data, int byte, size_t size)


cdef enum:
    WRITE_AT = 32768    # bytes that do not wait for the turn's end

cdef enum:
    LITERAL = 0
    PEER = 1
    NOTHING = 2
    USER = 3
    DATE = 4
    LINE = 5
    METHOD = 6
    PATH = 7
    QUERY = 8
    PROTOCOL = 9
    STATUS = 10
    SIZE = 11
    SIZE_OR_DASH = 12
    REFERER = 13
    AGENT = 14
    SECONDS = 15
    MICROSECONDS = 16
    MILLISECONDS = 17
    DECIMAL_SECONDS = 18
    PID = 19
    REQUEST_FIELD = 20
    RESPONSE_FIELD = 21
    VARIABLE = 22
    FATE = 23

# gunicorn's letters
ATOMS = {
    "h": PEER, "l": NOTHING, "u": USER, "t": DATE, "r": LINE, "m": METHOD, "U": PATH, "q": QUERY, "H": PROTOCOL,
    "s": STATUS, "B": SIZE, "b": SIZE_OR_DASH, "f": REFERER, "a": AGENT, "T": SECONDS, "D": MICROSECONDS,
    "M": MILLISECONDS, "L": DECIMAL_SECONDS, "p": PID,
    "X": FATE,   # Apache's
}
NAMED = {"i": REQUEST_FIELD, "o": RESPONSE_FIELD, "e": VARIABLE}


def compile_format(str text):
    """The steps [(atom, argument as bytes)] that write a line. Raises ConfigError naming what it does not know."""
    steps = []
    literal = ""
    position = 0
    while position < len(text):
        mark = text.find("%", position)
        if mark < 0:
            literal += text[position:]
            break
        literal += text[position:mark]
        if text.startswith("%%", mark):
            literal += "%"
            position = mark + 2
            continue
        end = text.find(")s", mark)
        if not text.startswith("%(", mark) or end < 0:
            raise ConfigError(
                f"access_logformat: {text[mark:mark + 12]!r} is not of the form %(name)s; a percent sign itself is %%"
            )
        name = text[mark + 2:end]
        if literal:
            steps.append((LITERAL, literal.encode()))
            literal = ""
        steps.append(atom_of(name))
        position = end + 2
    if not steps:
        raise ConfigError(
            f"access_logformat: {text!r} says nothing of a request; give combined, json, or a format with atoms, such as %(r)s"
        )
    steps.append((LITERAL, literal.encode() + b"\n"))
    return steps


def atom_of(str name):
    if name in ATOMS:
        return ATOMS[name], b""
    argument, brace, kind = name[1:].rpartition("}")
    if name.startswith("{") and argument and kind in NAMED:
        atom = NAMED[kind]
        return atom, (argument if atom == VARIABLE else argument.lower()).encode()
    known = " ".join(f"%({atom})s" for atom in [*ATOMS, "{Header}i", "{Header}o", "{variable}e"])
    raise ConfigError(f"access_logformat: unknown atom %({name})s; there are {known}")


@cython.final
cdef class AccessLog:
    """``AccessLog(fd, format)``; the descriptor stays the caller's, who may dup2() another file over it."""

    def __init__(self, int fd, str format="combined"):
        self.fd = fd
        self.way = writing_way(fd)
        self.format = format
        self.json = format == "json"
        self.kept = [] if self.json else compile_format(COMBINED if format == "combined" else format)
        self.steps = <log_step *>malloc(max(1, len(self.kept)) * sizeof(log_step))
        if self.steps is NULL:
            raise MemoryError
        for atom, text in self.kept:
            self.steps[self.step_count].atom = atom
            self.steps[self.step_count].text = <const char *><bytes>text
            self.steps[self.step_count].size = len(text)
            self.step_count += 1
            if atom == RESPONSE_FIELD:
                self.wants_response_fields = True

    def __dealloc__(self):
        free(self.steps)
        free(self.data)

    cpdef flush(self):
        """Writes what has come together. Never raises: lines that cannot be written are counted in ``dropped``. What
        another thread is at work on is written by that thread, or the next time."""
        if not self.occupy():
            return
        self.write_out()
        if self.twin is not None:
            self.twin.flush()
            self.dropped += self.twin.dropped
            self.twin.dropped = 0
        self.busy = False

    cdef bint occupy(self) noexcept:
        """True for the one who may use the buffer, until he is not busy any more."""
        with cython.critical_section(self):
            if self.busy:
                return False
            self.busy = True
        return True

    cdef void write_out(self) noexcept:
        cdef size_t done = 0
        cdef ssize_t n
        while done < self.length:
            n = self.piece(done)
            with nogil:
                n = writing_now(self.fd, self.way, self.data + done, n)
            if n < 0 and errno == EINTR:
                continue
            if n <= 0:
                self.error = errno if n < 0 else EAGAIN
                self.dropped += self.lines_from(done)
                self.torn = self.data[done - 1] != c"\n" if done else self.torn
                break
            self.error = 0
            self.torn = False
            done += n
        self.length = 0

    cdef size_t piece(self, size_t start) noexcept:
        """How many bytes from there are written together: into anything but a file, whole lines that stay whole."""
        cdef size_t size = self.length - start
        cdef const char *end
        if self.way == WRITING_FILE or size <= WRITING_ATOMIC:
            return size
        end = <const char *>memrchr(self.data + start, c"\n", WRITING_ATOMIC)
        if end is NULL:   # a line that is longer than that
            end = <const char *>memchr(self.data + start, c"\n", size)
        return end + 1 - (self.data + start) if end is not NULL else size

    cdef uint64_t lines_from(self, size_t start) noexcept:
        """How many lines end there or later."""
        cdef uint64_t lines = 0
        cdef const char *at = self.data + start
        cdef const char *end = self.data + self.length
        while at < end:
            at = <const char *>memchr(at, c"\n", end - at)
            if at is NULL:
                break
            lines += 1
            at += 1
        return lines

    cdef int add(self, log_entry *entry, bytes response_fields, dict environ) except -1:
        """Adds one line. `environ` is None for a request that no app has seen, and `response_fields` unless
        wants_response_fields."""
        if not self.occupy():
            if self.twin is None:
                self.twin = AccessLog(self.fd, self.format)
            return self.twin.add(entry, response_fields, environ)
        try:
            return self.compose(entry, response_fields, environ)
        finally:
            self.busy = False

    cdef int compose(self, log_entry *entry, bytes response_fields, dict environ) except -1:
        cdef int i
        cdef uint64_t wall = clock_wall()
        if wall // 1000000000 != self.dated:
            self.set_dates(wall // 1000000000)
        if self.torn and self.length == 0:
            self.put(b"\n", 1)
        if self.json:
            self.add_json(entry, wall)
        else:
            for i in range(self.step_count):
                self.add_step(&self.steps[i], entry, response_fields, environ)
        if self.length > WRITE_AT:
            self.write_out()
        return 0

    cdef void set_dates(self, uint64_t second) noexcept:
        self.dated = second
        clock_log_date(self.log_date, second)
        clock_iso_date(self.iso_date, second)

    cdef int add_step(self, const log_step *step, log_entry *entry, bytes response_fields, dict environ) except -1:
        cdef int atom = step.atom
        if atom == LITERAL:
            return self.put(step.text, step.size)
        if atom == PEER:
            return self.put_escaped(entry.peer.data, entry.peer.size)
        if atom == USER:
            return self.put_user(entry)
        if atom == DATE:
            self.put(b"[", 1)
            self.put(self.log_date, sizeof(self.log_date))
            return self.put(b"]", 1)
        if atom == LINE:
            return self.put_escaped(entry.line.data, entry.line.size)
        if atom == METHOD:
            return self.put_escaped(entry.method.data, entry.method.size)
        if atom == PATH:
            return self.put_escaped(entry.path.data, entry.path.size)
        if atom == QUERY:
            return self.put_escaped(entry.query.data, entry.query.size) if entry.query.size else 0
        if atom == PROTOCOL:
            if entry.minor_version < 0:
                return self.put(b"-", 1)
            return self.put(b"HTTP/1.0" if entry.minor_version == 0 else b"HTTP/1.1", 8)
        if atom == STATUS:
            return self.put_number(entry.status, 3)
        if atom == SIZE or atom == SIZE_OR_DASH and entry.sent:
            return self.put_number(entry.sent, 1)
        if atom == FATE:
            return self.put(b"X" if entry.cut else b"+" if entry.kept else b"-", 1)
        if atom == REFERER:
            return self.put_request_field(entry, b"referer", 7)
        if atom == AGENT:
            return self.put_request_field(entry, b"user-agent", 10)
        if atom == SECONDS:
            return self.put_number(entry.duration // 1000000000, 1)
        if atom == MILLISECONDS:
            return self.put_number(entry.duration // 1000000, 1)
        if atom == MICROSECONDS:
            return self.put_number(entry.duration // 1000, 1)
        if atom == DECIMAL_SECONDS:
            self.put_number(entry.duration // 1000000000, 1)
            self.put(b".", 1)
            return self.put_number(entry.duration % 1000000000 // 1000, 6)
        if atom == PID:
            self.put(b"<", 1)
            self.put_number(getpid(), 1)
            return self.put(b">", 1)
        if atom == REQUEST_FIELD:
            return self.put_request_field(entry, step.text, step.size)
        if atom == RESPONSE_FIELD:
            return self.put_response_field(response_fields, step.text, step.size)
        if atom == VARIABLE:
            return self.put_variable(environ, step.text[:step.size])
        return self.put(b"-", 1)

    cdef int add_json(self, log_entry *entry, uint64_t wall) except -1:
        self.put(b'{"time":"', 9)
        self.put(self.iso_date, sizeof(self.iso_date))
        self.put(b".", 1)
        self.put_number(wall % 1000000000 // 1000000, 3)
        self.put(b"Z\"", 2)
        self.put_json(b"peer", entry.peer.data, entry.peer.size)
        if entry.minor_version >= 0:
            self.put_json(b"method", entry.method.data, entry.method.size)
            self.put_json(b"path", entry.path.data, entry.path.size)
            self.put_json(b"query", entry.query.data, entry.query.size)
            self.put_json(b"protocol", b"HTTP/1.0" if entry.minor_version == 0 else b"HTTP/1.1", 8)
        else:
            self.put_json(b"line", entry.line.data, entry.line.size)
        self.put(b',"status":', 10)
        self.put_number(entry.status, 3)
        self.put(b',"bytes":', 9)
        self.put_number(entry.sent, 1)
        self.put(b',"duration":', 12)
        self.put_number(entry.duration // 1000000000, 1)
        self.put(b".", 1)
        self.put_number(entry.duration % 1000000000 // 1000, 6)
        if entry.cut:
            self.put(b',"cut":true', 11)
        self.put_json_field(b"referer", entry, b"referer", 7)
        self.put_json_field(b"user_agent", entry, b"user-agent", 10)
        self.put_json_field(b"host", entry, b"host", 4)
        return self.put(b"}\n", 2)

    cdef int put_json_field(self, const char *key, log_entry *entry, const char *name, size_t size) except -1:
        cdef const h1_field *field = request_field(entry, name, size)
        if field is not NULL:
            return self.put_json(key, entry.base + field.value.offset, field.value.length)
        return 0

    # Writing into the buffer

    cdef int room(self, size_t size) except -1:
        cdef char *grown
        cdef size_t capacity
        if self.length + size > self.capacity:
            capacity = max(2 * self.capacity, max(self.length + size, <size_t>(2 * WRITE_AT)))
            grown = <char *>realloc(self.data, capacity)
            if grown is NULL:
                raise MemoryError
            self.data = grown
            self.capacity = capacity
        return 0

    cdef int put(self, const char *data, size_t size) except -1:
        self.room(size)
        memcpy(self.data + self.length, data, size)
        self.length += size
        return 0

    cdef int put_number(self, uint64_t value, int width) except -1:
        """In decimal, with zeros before it up to the width."""
        cdef char digits[24]
        cdef size_t size = octets_decimal(digits, value)
        while <size_t>width > size:
            self.put(b"0", 1)
            width -= 1
        return self.put(digits, size)

    cdef int put_escaped(self, const char *data, size_t size) except -1:
        """A client's bytes within a line; "-" for none."""
        cdef char *out
        cdef size_t i
        cdef unsigned char c
        if size == 0:
            return self.put(b"-", 1)
        self.room(4 * size)
        out = self.data + self.length
        for i in range(size):
            c = data[i]
            if c < 0x20 or c >= 0x7f or c == c'"' or c == c"\\":
                memcpy(out, b"\\x", 2)
                out[2] = HEX[c >> 4]
                out[3] = HEX[c & 15]
                out += 4
            else:
                out[0] = c
                out += 1
        self.length = out - self.data
        return 0

    cdef int put_json(self, const char *key, const char *data, size_t size) except -1:
        ""","key":"value" with the value's bytes taken as Latin-1."""
        cdef char *out
        cdef size_t i, length = 0
        cdef unsigned char c
        while key[length]:
            length += 1
        self.room(6 * size + length + 6)
        out = self.data + self.length
        memcpy(out, b',"', 2)
        memcpy(out + 2, key, length)
        memcpy(out + 2 + length, b'":"', 3)
        out += length + 5
        for i in range(size):
            c = data[i]
            if c == c'"' or c == c"\\":
                out[0] = c"\\"
                out[1] = c
                out += 2
            elif c < 0x20 or c >= 0x7f:
                memcpy(out, b"\\u00", 4)
                out[4] = HEX[c >> 4]
                out[5] = HEX[c & 15]
                out += 6
            else:
                out[0] = c
                out += 1
        out[0] = c'"'
        self.length = out + 1 - self.data
        return 0

    cdef int put_request_field(self, log_entry *entry, const char *name, size_t size) except -1:
        cdef const h1_field *field = request_field(entry, name, size)
        if field is NULL:
            return self.put(b"-", 1)
        return self.put_escaped(entry.base + field.value.offset, field.value.length)

    cdef int put_response_field(self, bytes fields, const char *name, size_t size) except -1:
        """From the app's header lines, "Name: value" CRLF."""
        cdef const char *line
        cdef const char *end
        cdef const char *stop
        if fields is not None:
            line = fields
            stop = line + len(fields)
            while line < stop:
                end = <const char *>memchr(line, c"\r", stop - line)
                if <size_t>(end - line) > size and line[size] == c":" and octets_equal(line, size, name, size):
                    return self.put_escaped(line + size + 2, end - line - size - 2)
                line = end + 2
        return self.put(b"-", 1)

    cdef int put_variable(self, dict environ, bytes name) except -1:
        cdef bytes text
        try:
            value = None if environ is None else environ.get(name.decode())
            text = b"" if value is None else str.encode(str(value), "utf-8", "replace")
        except BaseException:   # an object of the app's, whose fault must not cost the response that has been made
            text = b""
        return self.put_escaped(text, len(text))

    cdef int put_user(self, log_entry *entry) except -1:
        """The user name of basic authentication."""
        cdef const h1_field *field = request_field(entry, b"authorization", 13)
        cdef const char *value
        cdef bytes user
        if field is NULL:
            return self.put(b"-", 1)
        value = entry.base + field.value.offset
        if field.value.length < 7 or not octets_equal(value, 6, b"basic ", 6):
            return self.put(b"-", 1)
        try:
            user = a2b_base64(value[6:field.value.length]).partition(b":")[0]
        except Base64Error:
            user = b""
        return self.put_escaped(user, len(user))


cdef void log_request(log_entry *entry, const h1_head *head, bint understood, const char *data, size_t size) noexcept:
    """The request's part of an entry. `head` is NULL if not even the request line was valid, and of a head that is not
    understood only that line is used; the bytes are what came of the request."""
    cdef const char *end
    entry.base = data
    entry.head = head if understood else NULL
    entry.minor_version = -1 if head is NULL else head.minor_version
    set_text(&entry.method, &head.method if head is not NULL else NULL, data)
    set_text(&entry.target, &head.target if head is not NULL else NULL, data)
    set_text(&entry.path, &head.path if head is not NULL else NULL, data)
    set_text(&entry.query, &head.query if head is not NULL else NULL, data)
    while size and (data[0] == c"\r" or data[0] == c"\n"):   # an empty line may precede the request line
        data += 1
        size -= 1
    end = <const char *>memchr(data, c"\r", size)
    entry.line.data = data
    entry.line.size = end - data if end is not NULL else min(size, <size_t>256)


cdef void set_text(log_text *text, const h1_span *span, const char *base) noexcept:
    text.data = base
    text.size = 0
    if span is not NULL:
        text.data += span.offset
        text.size = span.length


cdef const char *HEX = b"0123456789abcdef"


cdef const h1_field *request_field(log_entry *entry, const char *name, size_t size) noexcept:
    """The first field of this name (lower case); NULL without one."""
    cdef const h1_field *field
    cdef size_t i
    if entry.head is not NULL:
        for i in range(entry.head.field_count):
            field = &entry.head.fields[i]
            if field.name.length == size and octets_equal(entry.base + field.name.offset, size, name, size):
                return field
    return NULL
