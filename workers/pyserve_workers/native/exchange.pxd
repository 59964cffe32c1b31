from pyserve_workers.native.context cimport Context
from pyserve_workers.native.response cimport Response


cdef str described(object error)
cdef int exchange(Context context, Response response, object start_response, dict environ) except -1
cdef bint interrupt(Response response, unsigned long thread) noexcept
