from pyserve_workers.connection cimport Connection
from pyserve_workers.context cimport Context


cpdef Connection accept(Context context, int listener, object about)
