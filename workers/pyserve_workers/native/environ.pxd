from pyserve_workers.native.body cimport Body
from pyserve_workers.native.context cimport Context
from pyserve_workers.http1.http1 cimport h1_head


cdef dict make_environ(
    Context context, dict template, const h1_head *head, const char *base, Body body, str remote_addr, str remote_port
)
