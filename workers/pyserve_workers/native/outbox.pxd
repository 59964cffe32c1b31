from libc.stdint cimport uint64_t

from pyserve_workers.native.context cimport Context


cdef extern from "<sys/uio.h>":
    cdef struct iovec:
        void *iov_base
        size_t iov_len


cdef enum:
    OUT_EMPTY = 0      # everything has been given to the kernel
    OUT_BLOCKED = 1    # the kernel takes no more now
    OUT_GONE = -1      # the client is gone, or a file ended early: nothing more can be sent


ctypedef struct text:
    const char *data
    size_t size


cdef class Outbox:
    cdef Context context
    cdef int fd
    cdef bint doomed               # it was closed while it was busy
    cdef bint owns_fd              # its connection has closed while it was busy
    cdef readonly int failure      # errno of what made it OUT_GONE
    cdef readonly uint64_t sent    # bytes that the kernel has taken, over the connection's life
    cdef bint bunch                # a whole response may wait in the kernel for others
    cdef bint whole                # what is sent now completes the response
    cdef bint last                 # the connection is (half-)closed as soon as all is sent
    cdef bint blocked              # the last attempt found the kernel's buffer full
    cdef size_t untried            # bytes that came since then
    cdef bint busy                 # a response is adding to it: see Response.occupy()
    cdef bint waiting              # a writer waits for the client
    cdef uint64_t waited           # ns that writers have waited for it during this request
    cdef uint64_t credit           # ns that are left of what the client has earned meanwhile: see rate.h
    cdef uint64_t taken            # bytes that the client had taken when progress() was last asked for
    cdef uint64_t held             # what the context has been told of

    # in the order in which they are sent:
    cdef char *data                # 1. memory: data[start:end]
    cdef size_t start, end, capacity
    cdef object pinned             # 2. the rest of one bytes object
    cdef const char *pinned_data
    cdef size_t pinned_left
    cdef int spool_fd              # 3. a ring in an unlinked file: positions count on, modulo response_spool
    cdef uint64_t spool_start, spool_end
    cdef uint64_t spooled          # the file's size, of which the context has been told
    cdef bint spool_failed
    cdef int file_fd               # 4. a part of the app's own file
    cdef uint64_t file_offset, file_left

    cdef void close(self) noexcept
    cdef void leave(self) noexcept
    cdef void strand(self) noexcept
    cdef void rest(self) noexcept
    cdef bint is_empty(self) noexcept
    cdef bint holds_only_memory(self) noexcept
    cdef int must_hold_only_memory(self) except -1
    cdef uint64_t pending(self) noexcept
    cdef char *reserve(self, size_t size) except NULL
    cdef int add(self, const char *data, size_t size) except -1
    cdef int pin(self, bytes data) except -1
    cdef int attach(self, int fd, uint64_t offset, uint64_t size) except -1
    cdef int write(self, text prefix, text data, text suffix) except -2
    cdef int send(self, text prefix, text data, text suffix, size_t *taken) noexcept
    cdef int keep_rest(self, text piece, size_t *taken) except -2
    cdef ssize_t push(self, iovec *parts, int count, int flags) noexcept
    cdef int keep(self, const char *data, size_t size) except -2
    cdef bint wait(self) except -1
    cdef uint64_t progress(self) noexcept
    cdef int complain(self, str why) except -1
    cdef size_t spool(self, const char *data, size_t size) except? 0
    cdef int flush(self) noexcept
    cdef int more(self) noexcept
    cdef int flush_memory(self) noexcept
    cdef int flush_spool(self) noexcept
    cdef int send_file(self, int source, uint64_t offset, uint64_t *size) noexcept
    cdef void count_held(self) noexcept
    cdef int relieve(self) except -1
    cdef int lost(self, int failure) noexcept
