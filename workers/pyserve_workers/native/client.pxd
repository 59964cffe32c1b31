from libc.stdint cimport uint64_t


cdef class Client:
    cdef readonly int fd             # keeps its number when it has been closed
    cdef bint is_open
    cdef bint taken                  # by the app, for another protocol: its duplicates of the descriptor may live on
    cdef bint given                  # to another worker, where the connection goes on
    cdef bint received               # from another worker, which may have its own copy for a moment longer
    cdef uint64_t lingered           # bytes thrown away since the half-close
    cdef str remote_addr, remote_port, peer_name

    cdef void names(self, str host, str port)
    cdef str name(self)
    cdef bint stop_sending(self) noexcept
    cdef bint drain(self) noexcept
    cdef bint is_there(self) noexcept
    cdef void forget(self) noexcept
    cpdef bint has_unread(self) noexcept
    cdef void part(self, int epoll) noexcept
    cdef int complain(self, object complaints, str level, str what) except -1
    cdef int explain(self, object complaints, int failure) except -1
