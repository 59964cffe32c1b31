from libc.stdint cimport uint64_t

from pyserve_workers.native.context cimport Context
from pyserve_workers.native.outbox cimport Outbox


cdef enum:
    FRESH = 0       # start_response has not been called
    STAGED = 1      # it has; the head may be replaced
    COMMITTED = 2   # the head is in the outbox for good
    DONE = 3        # so is the body

cdef class Response:
    cdef Context context
    cdef Outbox outbox            # None: the request is over
    cdef object writer            # self.write, made once
    cdef bint running             # code of the app may run for it, unless the outbox waits for the client
    cdef bint hung_up             # the connection, which the app has taken over, was ended from here
    cdef bint given_up            # the client was answered with 504: nothing of this is sent
    cdef unsigned long interrupted   # the thread in which RequestTimeout is to be raised; 0: none
    cdef int stage                # one of the above
    cdef int status
    cdef bint http11
    cdef bint head_request
    cdef bint keep_alive          # will the connection be used again?
    cdef bint has_date, has_server
    cdef bint bodiless            # by the method or the status
    cdef bint declared            # the app gave a Content-Length, or it was computed
    cdef bint single              # the iterable said that it has one item only: its length is the Content-Length
    cdef bint excess              # the app sent more than that
    cdef bint short               # the app sent less
    cdef bint chunked
    cdef bint taken               # the app has the connection for another protocol: nothing of ours is sent
    cdef bint cut                 # the app raised after the head was sent: the body is not whole
    cdef uint64_t length          # that Content-Length
    cdef uint64_t sent            # body bytes of the app that were passed on
    cdef size_t staged            # bytes of the head, at the outbox's end, that may still be replaced
    cdef bytes fields             # the app's header lines, if the access log wants them

    cdef void begin(self, Context context, Outbox outbox, bint http11, bint head_request, bint keep_alive)
    cdef void end(self)
    cdef void drop(self)
    cdef void stop(self) noexcept
    cdef Outbox occupy(self, str what)
    cdef bint head_is_sent(self) noexcept
    cdef bint repeat_head(self, object status, list headers) except -1
    cdef int remember_head(self, object status, list headers) except -1
    cdef void head_is_staged(self) noexcept
    cdef int set_head(self, object status, list headers) except -1
    cdef int set_status(self, str status) except -1
    cdef int note_field(self, int kind, const char *value, size_t size, item) except -1
    cdef int commit(self) except -1
    cdef int head_only(self) except -1
    cdef int put(self, object data) except -2
    cdef int put_part(self, Outbox outbox, object data) except -2
    cdef int put_sequence(self, object chunks) except -2
    cdef bint put_whole(self, Outbox outbox, object chunks, uint64_t total) except -1
    cdef int put_file(self, int fd, uint64_t offset, uint64_t size) except -2
    cdef int put_part_of_file(self, Outbox outbox, int fd, uint64_t offset, uint64_t size) except -2
    cdef int finish(self) except -2
    cdef void end_body(self, Outbox outbox) noexcept
    cdef int plain(self, int status, str text) except -1
    cdef void drop_head(self) noexcept
