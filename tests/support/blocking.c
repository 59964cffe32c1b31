/* Preloaded into a server: notes each system call that may wait and is made by a thread that holds the GIL.
 *
 * Whoever waits then stops every thread of the process. A call on a socket or pipe counts if neither the call nor the
 * descriptor says that it is not to wait, whether it would have had to or not; one for a time (poll) if that is not 0.
 * A line in the file $BLOCKING_REPORT names the call and who made it, if the name of that library has $BLOCKING_OWNER in it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static int holds_gil(void)
{
    static int (*check)(void), (*initialized)(void), (*finalizing)(void);
    if (check == NULL) {
        finalizing = (int (*)(void))dlsym(RTLD_DEFAULT, "_Py_IsFinalizing");
        initialized = (int (*)(void))dlsym(RTLD_DEFAULT, "Py_IsInitialized");
        check = (int (*)(void))dlsym(RTLD_DEFAULT, "PyGILState_Check");
    }
    return check != NULL && initialized() && !(finalizing != NULL && finalizing()) && check();
}

static void note(const char *call, const void *caller)
{
    const char *path = getenv("BLOCKING_REPORT"), *owner = getenv("BLOCKING_OWNER");
    Dl_info who;
    char line[512];
    int fd, size;
    if (path == NULL || dladdr(caller, &who) == 0 || who.dli_fname == NULL)
        return;
    if (strstr(who.dli_fname, owner ? owner : "pyserve") == NULL)   /* Python's and libraries' calls are theirs */
        return;
    fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    size = snprintf(line, sizeof line, "%s in %s+%#lx\n", call, who.dli_fname,
                    (unsigned long)((const char *)caller - (const char *)who.dli_fbase));
    if (fd >= 0) {
        if (syscall(SYS_write, fd, line, size) < 0)
            abort();
        syscall(SYS_close, fd);
    }
}

static int may_wait(int fd)
{
    struct stat about;
    return fstat(fd, &about) == 0 && (S_ISSOCK(about.st_mode) || S_ISFIFO(about.st_mode))
        && !(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

#define LOOK(name, condition)                                                                        \
    do {                                                                                             \
        int before = errno;                                                                          \
        if (holds_gil() && (condition))                                                              \
            note(name, __builtin_return_address(0));                                                 \
        errno = before;                                                                              \
    } while (0)

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t recv(int fd, void *data, size_t size, int flags)
{
    LOOK("recv", !(flags & MSG_DONTWAIT) && may_wait(fd));
    return NEXT(recv)(fd, data, size, flags);
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    LOOK("recvmsg", !(flags & MSG_DONTWAIT) && may_wait(fd));
    return NEXT(recvmsg)(fd, message, flags);
}

ssize_t send(int fd, const void *data, size_t size, int flags)
{
    LOOK("send", !(flags & MSG_DONTWAIT) && may_wait(fd));
    return NEXT(send)(fd, data, size, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    LOOK("sendmsg", !(flags & MSG_DONTWAIT) && may_wait(fd));
    return NEXT(sendmsg)(fd, message, flags);
}

ssize_t sendfile(int fd, int source, off_t *offset, size_t size)
{
    LOOK("sendfile", may_wait(fd));
    return NEXT(sendfile)(fd, source, offset, size);
}

int accept4(int fd, struct sockaddr *address, socklen_t *size, int flags)
{
    LOOK("accept4", may_wait(fd));
    return NEXT(accept4)(fd, address, size, flags);
}

ssize_t read(int fd, void *data, size_t size)
{
    LOOK("read", may_wait(fd));
    return NEXT(read)(fd, data, size);
}

ssize_t write(int fd, const void *data, size_t size)
{
    LOOK("write", may_wait(fd));
    return NEXT(write)(fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    LOOK("writev", may_wait(fd));
    return NEXT(writev)(fd, parts, count);
}

int poll(struct pollfd *entries, nfds_t count, int timeout)
{
    LOOK("poll", timeout != 0);
    return NEXT(poll)(entries, count, timeout);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int timeout)
{
    LOOK("epoll_wait", timeout != 0);
    return NEXT(epoll_wait)(epoll, events, most, timeout);
}

int nanosleep(const struct timespec *time, struct timespec *left)
{
    LOOK("nanosleep", 1);
    return NEXT(nanosleep)(time, left);
}
