from libc.stdint cimport uint64_t

from pyserve_workers.native.body cimport Body
from pyserve_workers.native.context cimport Context
from pyserve_workers.http1.http1 cimport h1_chunked, h1_head, h1_known_field


cdef enum:
    IN_MORE = 0        # what has arrived is the beginning of a request, or nothing
    IN_COMPLETE = 1    # head and body are there
    IN_FAULT = 2       # status, reason and detail say what is wrong


cdef const h1_known_field *known_fields() noexcept


cdef class Inbox:
    cdef Context context
    cdef bint in_body          # the head is complete, the body is not
    cdef bint expects          # the client waits for 100 Continue
    cdef Body body             # of the complete request
    cdef int status            # the fault's
    cdef str reason            # for the client and the log
    cdef str detail            # for the log only: a fault of ours

    # A block of the context's pool holds the parsed head and, until they outgrow it, the bytes.
    cdef h1_head *head         # NULL: there is no buffer, and nothing in it
    cdef char *data
    cdef size_t start, end, capacity   # data[start:end] are the bytes of the current request, and what follows it
    cdef size_t place          # behind the head: where the unread bytes of the body, or the next request, begin
    cdef size_t body_start
    cdef uint64_t awaited      # bytes of a body with Content-Length that are still to come
    cdef h1_chunked chunked
    cdef uint64_t arrived      # bytes of this body, as they came, for which its client was not yet given time
    cdef uint64_t held, spooled   # what the context has been told of

    cdef ssize_t receive(self, int fd, bint *short_read) except? -1
    cdef bint is_empty(self) noexcept
    cdef bint has_begun(self) noexcept
    cdef int make_room(self) except -1
    cdef void count_held(self) noexcept
    cdef void close(self) noexcept
    cdef int advance(self) except -1
    cdef int begin_body(self) except -1
    cdef int read_body(self) except -1
    cdef uint64_t most_in_memory(self) noexcept
    cdef bint has_place(self, uint64_t size) noexcept
    cdef void count_spooled(self) noexcept
    cdef void drop_body(self) noexcept
    cdef int fault(self, int status, str reason, str detail=*) except -1
    cdef int next(self) except -1
    cdef bint has_line(self) noexcept
