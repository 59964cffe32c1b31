from libc.stdint cimport uint64_t

from pyserve_workers.body cimport Body
from pyserve_workers.context cimport Context
from pyserve_workers.http1 cimport h1_chunked, h1_head
from pyserve_workers.outbox cimport Outbox
from pyserve_workers.response cimport Response


cdef class Connection:
    cdef readonly Context context
    cdef readonly int fd             # keeps its number when it has been closed
    cdef readonly int state
    cdef int resume                  # the state behind FLUSH
    cdef uint64_t due                # the deadline, monotonic ns; 0: none
    cdef bint fresh                  # no request has been read yet
    cdef bint closing                # after what is in the outbox: half-close, drain and close
    cdef bint client_closes          # the client has said that it sends nothing more
    cdef dict template
    cdef str remote_addr, remote_port
    cdef str peer_name

    cdef Outbox outbox
    cdef Response response
    cdef object start_response
    cdef Body body

    # received bytes; a block of the context's pool holds h1_head and, until a head outgrows it, the bytes
    cdef h1_head *head
    cdef char *data
    cdef size_t start, end, capacity
    cdef size_t place                # BODY and READY: where the body's unread bytes (the next request) begin
    cdef size_t body_start
    cdef uint64_t awaited            # bytes of the body still to come
    cdef bint announced              # 100 Continue has been sent
    cdef h1_chunked chunked
    cdef uint64_t lingered           # bytes thrown away in LINGER

    cdef int step_receive(self) except -1
    cdef int make_room(self) except -1
    cdef int advance(self) except -1
    cdef int parse(self) except -1
    cdef int begin_body(self) except -1
    cdef int read_body(self) except -1
    cdef int step_run(self) except -1
    cdef int prepare_response(self, bint keep_alive) except -1
    cdef int after_response(self) except -1
    cdef int step_flush(self) except -1
    cdef int settle(self) except -1
    cdef int half_close(self) except -1
    cdef int drain(self) except -1
    cdef int refuse(self, int status, str reason) except -1
    cdef int record(self, uint64_t duration, dict environ, bint understood) except -1
    cdef int ended(self) except -1
    cdef int lost(self, int failure) except -1
    cdef int shut(self) except -1
    cdef void drop_input(self) noexcept
    cdef str name(self)
