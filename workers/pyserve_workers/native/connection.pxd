from libc.stdint cimport uint64_t

from pyserve_workers.native.client cimport Client
from pyserve_workers.native.context cimport Context
from pyserve_workers.native.inbox cimport Inbox
from pyserve_workers.native.outbox cimport Outbox
from pyserve_workers.native.response cimport Response


cdef class Connection(Client):
    cdef readonly Context context
    cdef readonly int state
    cdef int behind_flush            # the state behind FLUSH
    cdef uint64_t due                # the deadline, monotonic ns; 0: none
    cdef uint64_t earned             # until when its bytes last at the least rate: see rate.h
    cdef uint64_t entered            # when its request entered the app, monotonic ns
    cdef uint64_t noted, progress    # bytes of the body that were there at the last look, and the last look that found more
    cdef uint64_t held_since         # when its request first found the gate closed, monotonic ns; 0: it has not
    cdef bint closing                # after what is in the outbox: half-close, drain and close
    cdef bint client_closes          # the client has said that it sends nothing more
    cdef bint had_body               # its last request: old clients send an empty line behind one
    cdef dict template

    cdef Inbox inbox
    cdef Outbox outbox
    cdef Response response
    cdef object start_response

    cdef int step_expire(self) except -1
    cdef bint is_put_off(self, uint64_t due) noexcept
    cdef int begin(self, Context context, int fd, object listener) except -1
    cdef int step_serve(self) except -1
    cdef bint is_flushing(self) noexcept
    cdef bint is_pending(self) noexcept
    cdef int step_receive(self) except -1
    cdef int advance(self) except -1
    cdef int ended(self) except -1
    cdef int lost(self, int failure) except -1
    cdef int step_run(self) except -1
    cdef int knock(self) except -1
    cdef int shut_out(self) except -1
    cdef str asked(self)
    cdef bint is_running(self) noexcept
    cdef int prepare_response(self, bint keep_alive) except -1
    cdef bint response_is_kept(self) noexcept
    cdef void drop_response(self)
    cdef int after_response(self, uint64_t now) except -1
    cdef int step_flush(self) except -1
    cdef int settle(self) except -1
    cdef void wait_until(self, uint64_t timeout) noexcept
    cdef void earn(self, uint64_t size, uint64_t rate, uint64_t timeout) noexcept
    cdef int await_body(self) except -1
    cdef int await_reader(self) except -1
    cdef int refuse(self, int status, str reason, str detail=*) except -1
    cdef int half_close(self) except -1
    cdef int linger(self) except -1
    cdef int shut(self) except -1
    cdef void abandon(self, int failure) noexcept
    cdef int record(self, uint64_t duration, dict environ, bint understood) except -1
    cdef int report_loss(self) except -1
    cdef int broken(self, object error) except -1
