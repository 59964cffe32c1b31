# What a connection is doing, and what it wants next: the numbers of connection.pyx's names, for C.

cdef enum:
    S_IDLE = 0
    S_HEAD = 1
    S_BODY = 2
    S_READY = 3
    S_RUNNING = 4
    S_FLUSH = 5
    S_LINGER = 6
    S_CLOSED = 7

cdef enum:
    N_CLOSED = 0
    N_READ = 1
    N_WRITE = 4
    N_REQUEST = 256
    N_BUSY = 512
