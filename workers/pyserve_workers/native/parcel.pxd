from pyserve_workers.native.connection cimport Connection


cdef bint may_travel(Connection connection) noexcept
cpdef int send(int queue, Connection connection, list listeners) except -1
