from pyserve_workers.native.connection cimport Connection
from pyserve_workers.native.context cimport Context


cpdef Connection accept(Context context, int listener, object about)
