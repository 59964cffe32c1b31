/* accept4() for everybody who accepts. */
#ifndef PYSERVE_ACCEPTING_H
#define PYSERVE_ACCEPTING_H

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

/* A new connection's descriptor, non-blocking and close-on-exec, or -1 with errno. */
static inline int accept_flagged(int listener, struct sockaddr *address, socklen_t *size)
{
    const socklen_t room = *size;
    int fd;
    do {
        *size = room;
        fd = accept4(listener, address, size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd >= 0 || (errno != EPERM && errno != ENOSYS))
        return fd;
    /* Denied, as by a seccomp profile. */
    do {
        *size = room;
        fd = accept(listener, address, size);
    } while (fd < 0 && errno == EINTR);
    if (fd >= 0) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
        fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
    }
    return fd;
}

#endif
