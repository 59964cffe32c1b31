# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""Who is at the other end of a descriptor, and how one parts from it without a reset.

A close while input is unread resets the connection, and the reset can overtake the last response. So one says that no
more will be sent, reads to the end, and closes then (RFC 9112, 9.6).
"""

from libc.errno cimport EAGAIN, EINTR, ENODATA, ETIMEDOUT, errno
from posix.unistd cimport close as close_fd

from os import strerror


cdef extern from "<errno.h>":
    int ECANCELED

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT
    int MSG_PEEK
    int SHUT_WR
    int SHUT_RDWR
    int shutdown(int fd, int how)
    int SOL_SOCKET
    int SO_LINGER
    struct linger:
        int l_onoff
        int l_linger
    int setsockopt(int fd, int level, int name, const void *value, unsigned int size)
    ssize_t recv(int fd, void *data, size_t size, int flags)


cdef extern from "<sys/epoll.h>" nogil:
    struct epoll_event:
        pass
    int EPOLL_CTL_DEL
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)

cdef extern from *:
    """
    #include <pthread.h>

    static int client_copies = 0;   /* may another process have copies of connections? */

    static void client_before_fork(void)
    {
        client_copies = 1;
    }
    """
    int client_copies
    void client_before_fork() noexcept nogil
    int pthread_atfork(void (*before)() noexcept nogil, void (*parent)() noexcept nogil, void (*child)() noexcept nogil)


pthread_atfork(client_before_fork, NULL, NULL)


def no_copies_yet() -> None:
    """The forks until now were before there were connections."""
    global client_copies
    client_copies = 0


cdef enum:
    READS_A_TURN = 16            # so that one client does not hold the loop
    LINGER_BYTES = 16 << 20


cdef class Client:
    """Owns the descriptor, which is in non-blocking mode."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.is_open:
            close_fd(self.fd)

    @property
    def peer(self):
        """(host, port) of the client, None for one of a unix socket."""
        return None if self.remote_addr is None else (self.remote_addr, int(self.remote_port))

    def disown(self):
        """This process is not the worker, where the connection goes on."""
        if self.is_open:
            self.is_open = False
            close_fd(self.fd)

    cdef void names(self, str host, str port):
        """Its address; None and None for one of a unix socket."""
        self.remote_addr = host
        self.remote_port = port
        if host is None:
            self.peer_name = "a unix socket"

    cdef str name(self):
        """For the log."""
        if self.peer_name is None:
            host = f"[{self.remote_addr}]" if ":" in self.remote_addr else self.remote_addr
            self.peer_name = f"{host}:{self.remote_port}"
        return self.peer_name

    cdef bint stop_sending(self) noexcept:
        """Half-closes; False if the connection is gone already."""
        self.lingered = 0
        return shutdown(self.fd, SHUT_WR) == 0

    cdef bint drain(self) noexcept:
        """Drops what has arrived; False if no more can come, or too much has."""
        cdef char dropped[16384]
        cdef ssize_t n
        cdef int turns = READS_A_TURN
        while turns:
            turns -= 1
            n = recv(self.fd, dropped, sizeof(dropped), MSG_DONTWAIT)
            if n < 0 and errno == EINTR:
                continue
            if n < 0 and errno == EAGAIN:
                return True
            if n > 0:
                self.lingered += n
            if n <= 0 or self.lingered > LINGER_BYTES:
                return False
            if <size_t>n < sizeof(dropped):
                return True
        return True

    cdef bint is_there(self) noexcept:
        """Has nothing been heard of its end? One that has only half-closed may well wait for an answer."""
        cdef char one
        return recv(self.fd, &one, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 or errno == EAGAIN or errno == EINTR

    cdef void forget(self) noexcept:
        """The close will be a reset: the kernel drops what it still has for the client, and would else keep it for as
        long as that goes on reading slowly."""
        cdef linger now
        now.l_onoff, now.l_linger = 1, 0
        setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now))

    cpdef bint has_unread(self) noexcept:
        """Would a close reset it? Old clients end a body with an empty line too many, also their last one."""
        cdef char one
        return recv(self.fd, &one, 1, MSG_PEEK | MSG_DONTWAIT) > 0

    cdef void part(self, int epoll) noexcept:
        """Closes the descriptor, once. Where an app, a process that it has forked or the worker that it came from may have a
        copy, the connection is ended, too, and leaves `epoll`, from which it would report as long as the copy is open, as
        the next of its number."""
        if self.is_open:
            self.is_open = False
            if (self.taken or self.received or client_copies) and not self.given:
                epoll_ctl(epoll, EPOLL_CTL_DEL, self.fd, NULL)
                shutdown(self.fd, SHUT_RDWR)
            close_fd(self.fd)

    cdef int complain(self, object complaints, str level, str what) except -1:
        """Tells the log what clients can bring about at will."""
        complaints.note(level, what, self.remote_addr, self.name())
        return 0

    cdef int explain(self, object complaints, int failure) except -1:
        """Tells the log why nothing more can be sent."""
        if failure == ECANCELED:
            self.complain(complaints, "info", "the app has come back after its client was answered with 504")
        elif failure == ENODATA:
            self.complain(complaints, "error", "cut: the file of its response became shorter while it was sent")
        elif failure == ETIMEDOUT:
            self.complain(complaints, "info", "cut: it has not read its response in time")
        else:
            complaints.log.debug(f"{self.name()}: went away before its response was complete: {strerror(failure)}")
        return 0
