# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""What waits behind a long request of a worker's one thread goes to workers that have time.

A native thread sleeps until the master rings (pyserve/fairness.py). It has no thread state of Python's while it sleeps, so
that nothing notices it. Rung, it takes the GIL, which is the lock: if the worker's thread has given it up in the middle of
a request, then every other connection is at rest, and those that have sent something are given to the hand-off queue.
The connection of the request stays, and what has not sent anything too. C code of the app's that holds the GIL keeps
everything where it is. Without a GIL there is no such lock, and the worker does not start it (sync.py).
"""

from cpython.dict cimport PyDict_GetItem
from cpython.exc cimport PyErr_SetFromErrno
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from posix.unistd cimport read

from pyserve_workers.native.connection cimport Connection
from pyserve_workers.native.context cimport Context
from pyserve_workers.native.exchange cimport described
from pyserve_workers.native.parcel cimport may_travel, send
from pyserve_workers.native.states cimport S_READY


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout_ms)

cdef extern from *:
    """
    #include <pthread.h>
    #include <signal.h>

    /* A thread that gets no signal: they are to interrupt what the worker's own thread waits for. */
    static int relief_start(void *(*run)(void *), void *argument)
    {
        sigset_t all, usual;
        pthread_attr_t attributes;
        pthread_t thread;
        int failure;
        sigfillset(&all);
        pthread_attr_init(&attributes);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        pthread_attr_setstacksize(&attributes, 256 << 10);
        pthread_sigmask(SIG_SETMASK, &all, &usual);
        failure = pthread_create(&thread, &attributes, run, argument);
        pthread_sigmask(SIG_SETMASK, &usual, NULL);
        pthread_attr_destroy(&attributes);
        return failure;
    }
    """
    int relief_start(void *(*run)(void *) noexcept nogil, void *argument)


cdef enum:
    MOST = 256   # events of one look


cdef class Relief:
    """``Relief(worker)``: ``start()`` begins to listen to the worker's bell, and ``stop()`` has it give nothing more."""

    cdef object worker
    cdef Context context
    cdef int bell, epoll, queue
    cdef bint on
    cdef readonly uint64_t given

    def __init__(self, worker, int queue):
        self.worker = worker
        self.context = worker.context
        self.bell = worker.bell_fd
        self.epoll = worker.epoll.fileno()
        self.queue = queue

    def start(self):
        """OSError if there can be no more threads."""
        cdef int failure
        self.on = True
        Py_INCREF(self)   # the thread's
        failure = relief_start(listen, <void *>self)
        if failure:
            self.on = False
            raise OSError(failure, "no thread can be started")

    def stop(self):
        self.on = False

    cdef int give(self) except -1:
        cdef epoll_event events[MOST]
        cdef dict connections = self.worker.connections
        cdef int index, ready
        cdef PyObject *found
        cdef Connection connection
        if not self.on or not self.context.running or self.context.slot.takers == 0:
            return 0
        for connection in list(self.worker.table.pending):
            if connections.get(connection.fd) is connection and not self.give_one(connection, connections):
                return 0
        ready = epoll_wait(self.epoll, events, MOST, 0)   # not a moment: who waits in it is woken by new clients
        for index in range(ready):
            found = PyDict_GetItem(connections, events[index].data.fd)
            if found is NULL:
                continue
            connection = <Connection>found
            # One that is complete, and not pending, has been served in this turn, and its worker is still at it.
            if connection.state != S_READY and not self.give_one(connection, connections):
                return 0
        return 0

    cdef bint give_one(self, Connection connection, dict connections) except -1:
        """False if the queue takes no more."""
        cdef epoll_event event
        cdef int fd = connection.fd
        if not may_travel(connection):
            return True
        if epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, NULL) < 0:
            PyErr_SetFromErrno(OSError)
        if send(self.queue, connection, self.worker.ways_in) != 0:
            event.events = EPOLLIN
            event.data.fd = fd
            if epoll_ctl(self.epoll, EPOLL_CTL_ADD, fd, &event) < 0:
                PyErr_SetFromErrno(OSError)
            return False
        del connections[fd]
        self.worker.table.interest.pop(fd, None)
        self.context.slot.connections = len(connections)
        self.given += 1
        return True


cdef void *listen(void *argument) noexcept nogil:
    cdef char rings[4096]
    cdef ssize_t n
    cdef int bell
    with gil:
        bell = (<Relief>argument).bell
    while True:
        n = read(bell, rings, sizeof(rings))   # all that there have been meanwhile
        if n > 0:
            ring(argument)
        elif n == 0 or errno != EINTR:   # 0: the master is gone
            return NULL


cdef void ring(void *argument) noexcept with gil:
    cdef Relief relief = <Relief>argument
    try:
        relief.give()
    except BaseException as error:
        relief.on = False
        relief.context.log.error(f"BUG: connections behind a long request stay there\n{described(error)}")
