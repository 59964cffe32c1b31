# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""The bytes that a connection has received, and how much of a request they are.

The head is parsed where it lies, and stays there until its request is over; body bytes go on to a Body as they arrive.
What is behind a request belongs to the next one. The buffer exists only while something is in it.
"""

cimport cython
from libc.errno cimport EINTR, ENOSPC, errno
from libc.stdint cimport UINT64_MAX, int32_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from pyserve_workers.native.body cimport EMPTY, Body, whole_body
from pyserve_workers.native.context cimport BLOCK_SIZE, Context
from pyserve_workers.http1.http1 cimport (
    H1_CHUNKED_DONE, H1_MORE, H1_PHASE_FIELDS, H1_PHASE_REQUEST_LINE, h1_chunked_init, h1_decode_chunked, h1_head,
    h1_head_init, h1_known_field, h1_known_fields, h1_parse_familiar, h1_parse_head, h1_reason, h1_status,
)


cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    ssize_t recv(int fd, void *data, size_t size, int flags)


cdef enum:
    HEAD_SIZE = (sizeof(h1_head) + 63) // 64 * 64
    BODY_CAPACITY = 65536        # receive buffer for large bodies
    LEAST_BODY = 16384           # bodies up to this are in memory, however much of it others hold


NO_PLACE = "there is no room for so large a body now"


cdef const h1_known_field *known_fields() noexcept:
    """The field names that the parser knows by number, H1_KNOWN_FIELDS of them."""
    return h1_known_fields


@cython.final
cdef class Inbox:
    """Made by a connection. Knows the framing of requests, nothing of answers."""

    def __dealloc__(self):
        self.close()

    cdef bint is_empty(self) noexcept:
        return self.start == self.end and not self.in_body

    cdef bint has_begun(self) noexcept:
        """Is there a byte of a request? An empty line before it is none yet: old clients end a body with one."""
        if self.head is NULL or self.in_body:
            return self.in_body
        return self.end - self.start > (2 if <int>self.head.phase == H1_PHASE_REQUEST_LINE else 0)

    cdef void close(self) noexcept:
        """Drops everything that has not become a request."""
        if self.body is not None:
            self.drop_body()
        self.in_body = False
        if self.head is NULL:
            return
        if self.data != <char *>self.head + HEAD_SIZE:
            free(self.data)
        if self.held:
            self.context.hold(&self.held, 0)
        self.context.give_block(<char *>self.head)
        self.head = NULL
        self.data = NULL
        self.start = self.end = self.place = self.capacity = 0

    cdef ssize_t receive(self, int fd, bint *short_read) except? -1:
        """recv() once: how many bytes, 0 at the end, or -errno. A short read means that the kernel has no more now."""
        cdef ssize_t n
        cdef size_t room
        self.make_room()
        room = self.capacity - self.end
        while True:
            n = recv(fd, self.data + self.end, room, MSG_DONTWAIT)
            if n >= 0:
                break
            if errno != EINTR:
                return -errno
        short_read[0] = <size_t>n < room
        self.end += n
        self.arrived += n
        self.context.slot.bytes_in += n
        return n

    cdef int make_room(self) except -1:
        cdef char *grown
        cdef size_t capacity
        if self.head is NULL:
            self.head = <h1_head *>self.context.take_block()
            self.data = <char *>self.head + HEAD_SIZE
            self.capacity = BLOCK_SIZE - HEAD_SIZE
            h1_head_init(self.head)
            return 0
        if (
            self.in_body
            and self.capacity < BODY_CAPACITY
            and max(self.awaited, self.body.size()) > self.capacity
            and not self.context.is_full()
        ):
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
        self.count_held()
        return 0

    cdef void count_held(self) noexcept:
        """What this request holds in memory beyond its block."""
        cdef uint64_t size = 0
        if self.data != <char *>self.head + HEAD_SIZE:
            size = self.capacity
        if self.in_body:
            size += self.body.held()
        if size != self.held:
            self.context.hold(&self.held, size)

    cdef bint has_line(self) noexcept:
        """Is the request line understood, if not the whole head?"""
        return self.head is not NULL and <int>self.head.phase >= H1_PHASE_FIELDS

    cdef int advance(self) except -1:
        """Understands what has arrived: IN_MORE, IN_COMPLETE or IN_FAULT."""
        cdef const uint8_t *data
        cdef int32_t size
        if self.in_body:
            return self.read_body()
        if self.start == self.end:
            return IN_MORE
        data = <const uint8_t *>self.data + self.start
        if self.context.memory is NULL:
            size = h1_parse_head(self.head, data, self.end - self.start, &self.context.head_limits)
        else:
            size = h1_parse_familiar(
                self.head, data, self.end - self.start, &self.context.head_limits, self.context.memory
            )
        if size < 0:
            return self.fault(h1_status(size), h1_reason(size).decode())
        if size == H1_MORE:
            if self.end == self.capacity and self.start == 0 and self.context.is_full():
                return self.fault(503, "there is no memory for so long a head")
            return IN_MORE
        self.body_start = self.place = self.start + size
        return self.begin_body()

    cdef int begin_body(self) except -1:
        """The head is complete: is there a body, and may it come?"""
        cdef h1_head *head = self.head
        cdef uint64_t length = head.content_length if head.has_content_length else 0
        if self.body is not None:   # it has come with the connection, from another worker
            self.count_spooled()
            return IN_COMPLETE
        if not head.chunked and length == 0:
            self.body = EMPTY
            return IN_COMPLETE
        if self.context.limit_body and length > self.context.limit_body:
            return self.fault(413, f"a body larger than limit_request_body, {self.context.limit_body}")
        if not head.chunked and length <= self.end - self.place and length <= self.context.body_buffer:
            self.body = whole_body(self.data + self.place, length)
            self.place += length
            return IN_COMPLETE
        if not self.has_place(length):
            return self.fault(503, NO_PLACE)
        self.in_body = True
        self.awaited = length
        self.arrived = self.end - self.place
        self.body = Body.__new__(Body)
        if head.chunked:
            h1_chunked_init(&self.chunked)
        # No 100 when the body is on its way already (RFC 9110, 10.1.1).
        self.expects = head.expect_continue and self.place == self.end
        return self.read_body() if self.place < self.end else IN_MORE

    cdef int read_body(self) except -1:
        """Moves what has arrived of the body to where the app will read it."""
        cdef size_t size = self.end - self.place, produced = 0
        cdef uint8_t *data
        cdef int32_t result
        cdef bint done
        cdef Context context = self.context
        if self.head.chunked:
            data = <uint8_t *>self.data + self.place
            result = h1_decode_chunked(&self.chunked, data, self.end - self.place, &size, &produced)
            if result < 0:
                return self.fault(h1_status(result), h1_reason(result).decode())
            done = result == H1_CHUNKED_DONE
            if context.limit_body and self.body.size() + produced > context.limit_body:
                return self.fault(413, f"a body larger than limit_request_body, {context.limit_body}")
        else:
            size = produced = min(<uint64_t>size, self.awaited)
            self.awaited -= size
            done = self.awaited == 0
        if not self.has_place(self.body.size() + produced):
            return self.fault(503, NO_PLACE)
        try:
            self.body.feed(self.data + self.place, produced, self.most_in_memory(), context.spool_dir)
            self.count_spooled()
            if done:
                self.body.finish()
        except OSError as error:
            return self.fault(
                507 if error.errno == ENOSPC else 500,
                "the body cannot be stored",
                f"the body cannot be spooled to {context.spool_dir.decode(errors='replace')}: {error.strerror}",
            )
        self.place += size
        if done:
            self.in_body = False
            self.count_held()
            return IN_COMPLETE
        self.count_held()
        self.end = self.place = self.body_start   # only the head is kept
        return IN_MORE

    cdef uint64_t most_in_memory(self) noexcept:
        """Bodies with more bytes go to a file."""
        cdef Context context = self.context
        if not context.spools:
            return UINT64_MAX
        return min(<uint64_t>LEAST_BODY, context.body_buffer) if context.is_full() else context.body_buffer

    cdef bint has_place(self, uint64_t size) noexcept:
        """Is there room for a body of so many bytes, of which those that have come may have a place already?"""
        cdef Context context = self.context
        if context.spools:
            return size <= self.spooled + context.spool_room() or not self.spooled and size <= self.most_in_memory()
        return size <= LEAST_BODY or context.held - self.held + size <= context.buffer_memory

    cdef void count_spooled(self) noexcept:
        if self.body.fd >= 0:
            self.context.spool(&self.spooled, self.body.spooled)

    cdef void drop_body(self) noexcept:
        """Gives its file back, too, whoever has kept the object."""
        self.body.release()
        self.body = None
        if self.spooled:
            self.context.spool(&self.spooled, 0)

    cdef int fault(self, int status, str reason, str detail=None) except -1:
        self.status = status
        self.reason = reason
        self.detail = detail
        return IN_FAULT

    cdef int next(self) except -1:
        """The request is over: what is behind it is the next one's."""
        self.drop_body()
        self.start = self.place
        if self.start == self.end:
            self.start = self.end = self.place = 0
        h1_head_init(self.head)
        return 0
