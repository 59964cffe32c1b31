# cython: language_level=3, boundscheck=False, freethreading_compatible=True
"""The few Linux calls that the standard library does not offer, and the signal handlers that must work while Python cannot run.

Nothing here knows of HTTP or of the app. The handlers are installed in zygotes and workers only. A process that the app
forks inherits them; they then act as the signal's default, so that ``multiprocessing.Process.terminate()`` ends it.
"""

from cpython.exc cimport PyErr_SetFromErrno
from libc.stdlib cimport malloc

from os import listdir, strerror

cdef extern from "writing.h" nogil:
    int WRITING_SHARED
    int WRITING_SOCKET
    int writing_way(int fd)
    ssize_t writing_now(int fd, int way, const void *data, size_t size)

cdef extern from "accepting.h" nogil:
    ctypedef unsigned int socklen_t
    cdef struct sockaddr_storage:
        pass
    cdef struct sockaddr:
        pass
    int accept_flagged(int listener, sockaddr *address, socklen_t *size)

cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <errno.h>
    #include <fcntl.h>
    #include <linux/filter.h>
    #include <pthread.h>
    #include <signal.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/syscall.h>
    #include <sys/socket.h>
    #include <sys/wait.h>
    #include <time.h>
    #include <unistd.h>

    #define PYSERVE_NOTICE_SIZE 256

    static volatile pid_t guarded_pid = 0;
    static volatile unsigned int guarded_seconds = 0;
    static volatile int guarded_wake_fd = -1;
    static volatile int guarded_channel_fd = -1;
    typedef struct {
        char bytes[PYSERVE_NOTICE_SIZE];
        volatile size_t size;
    } notice;

    static notice leaving, let_go;
    static int *volatile listeners = NULL;
    static volatile size_t listener_count = 0;
    static int end_timer = -1;
    static pid_t end_timer_pid = 0;

    static void act_as_default(int number)
    {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, NULL);
        raise(number);  /* delivered when this handler returns */
    }

    static int send_notice(const notice *what)
    {
        return guarded_channel_fd < 0 ? 0 : (int)send(guarded_channel_fd, what->bytes, what->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    }

    static int set_notice(notice *what, const char *bytes, size_t size)
    {
        if (size > PYSERVE_NOTICE_SIZE) {
            errno = EMSGSIZE;
            return -1;
        }
        memcpy(what->bytes, bytes, size);
        what->size = size;
        return 0;
    }

    /* The kernel's own calls: older C libraries have these in a library of their own, and not all may be called here. */
    static int end_after_(unsigned int seconds)
    {
        struct itimerspec when;
        memset(&when, 0, sizeof when);
        when.it_value.tv_sec = (time_t)seconds;
        return (int)syscall(SYS_timer_settime, end_timer, 0, &when, NULL);
    }

    /* A signal whose default action needs no Python, and which is not the app's: SIGALRM is. */
    static int prepare_end_(int number)
    {
        struct sigevent event;
        if (end_timer_pid == getpid())
            return 0;
        memset(&event, 0, sizeof event);
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = number;
        if (signal(number, SIG_DFL) == SIG_ERR || syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &end_timer))
            return -1;
        end_timer_pid = getpid();
        return 0;
    }

    static void on_term(int number)
    {
        int saved = errno;
        ssize_t ignored;
        if (getpid() != guarded_pid) {
            act_as_default(number);
            errno = saved;
            return;
        }
        if (end_timer_pid == guarded_pid)
            end_after_(guarded_seconds);
        ignored = send_notice(&leaving);
        ignored = write(guarded_wake_fd, "T", 1);
        (void)ignored;
        errno = saved;
    }

    /* Not closed: the numbers must not become somebody else's before the loop has heard of it. */
    static void on_give_up(int number)
    {
        int saved = errno, ignored = 0;
        size_t index;
        (void)number;
        if (getpid() == guarded_pid && listener_count) {  /* else the loop is about to say so itself */
            for (index = 0; index < listener_count; index++)
                ignored = dup3(guarded_wake_fd, listeners[index], O_CLOEXEC);
            ignored = send_notice(&let_go);
        }
        (void)ignored;
        errno = saved;
    }

    static void close_in_child(void)
    {
        size_t index;
        for (index = 0; index < listener_count; index++)
            close(listeners[index]);
        listener_count = 0;
    }

    static int hold_listeners_(int *fds, size_t count)
    {
        static int registered = 0;
        listener_count = 0;
        free(listeners);
        listeners = fds;
        listener_count = count;
        if (!registered && (errno = pthread_atfork(NULL, NULL, close_in_child)))
            return -1;
        registered = 1;
        return 0;
    }

    static void on_quit(int number)
    {
        if (getpid() != guarded_pid) {
            act_as_default(number);
            return;
        }
        _exit(128 + SIGQUIT);
    }

    static void on_ignored(int number)
    {
        int saved = errno;
        if (getpid() != guarded_pid)
            act_as_default(number);
        errno = saved;
    }

    static int handle(int number, void (*handler)(int))
    {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = handler;
        action.sa_flags = SA_RESTART;
        sigfillset(&action.sa_mask);  /* one at a time: they may come to the small stack that Python's handlers run on */
        return sigaction(number, &action, NULL);
    }

    static int ignore_signal_(int number, int only_default)
    {
        struct sigaction action;
        guarded_pid = getpid();
        if (sigaction(number, NULL, &action))
            return -1;
        return only_default && action.sa_handler != SIG_DFL ? 0 : handle(number, on_ignored);
    }

    static int guard_worker_(int wake_fd, int channel_fd, unsigned int seconds)
    {
        guarded_wake_fd = wake_fd;
        guarded_channel_fd = channel_fd;
        guarded_seconds = seconds;
        guarded_pid = getpid();
        /* A handler, not SIG_IGN, for INT and HUP: an ignored signal would stay ignored in every program the app starts. */
        if (handle(SIGTERM, on_term) || handle(SIGQUIT, on_quit) || handle(SIGINT, on_ignored) || handle(SIGHUP, on_ignored))
            return -1;
        return 0;
    }

    #ifndef sigev_notify_thread_id
    #define sigev_notify_thread_id _sigev_un._tid
    #endif

    static int the_timer = -1;

    static int start_timer_(int number, double seconds)
    {
        struct sigevent event;
        struct itimerspec when;
        memset(&event, 0, sizeof event);
        memset(&when, 0, sizeof when);
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = number;
        event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
        if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &the_timer))
            return -1;
        when.it_value.tv_sec = (time_t)seconds;
        when.it_value.tv_nsec = 1 + (long)((seconds - (double)when.it_value.tv_sec) * 999999998.0);
        return (int)syscall(SYS_timer_settime, the_timer, 0, &when, NULL);
    }

    static void stop_timer_(void)
    {
        syscall(SYS_timer_delete, the_timer);
    }

    static void (*marked_handler)(int) = NULL;
    static volatile int marked_fd = -1;

    static void on_marked(int number)
    {
        int saved = errno;
        ssize_t ignored;
        marked_handler(number);
        ignored = write(marked_fd, "", 1);
        (void)ignored;
        errno = saved;
    }

    static int mark_end_(int number, int fd)
    {
        struct sigaction action;
        if (sigaction(number, NULL, &action))
            return -1;
        if (marked_handler == NULL) {
            if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN || (action.sa_flags & SA_SIGINFO)) {
                errno = EINVAL;
                return -1;
            }
            marked_handler = action.sa_handler;
        }
        marked_fd = fd;
        action.sa_handler = on_marked;
        return sigaction(number, &action, NULL);
    }

    /* Classic BPF on a listening socket sees the TCP header first: the flags are its byte 13. */
    static int drop_new_handshakes_(int fd)
    {
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
            BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12),          /* SYN | ACK */
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),    /* SYN alone? */
            BPF_STMT(BPF_RET | BPF_K, 0),                       /* dropped: the client's SYN is sent again, to our successor */
            BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
        };
        struct sock_fprog program = { sizeof code / sizeof code[0], code };
        return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    }

    /* Forks twice. Returns 0 in the new process, what the one in between was called here, or -errno. That one dies with
     * its parent, which may be killed. Signals wait meanwhile: a handler that ran in between could run in our memory.
     *
     * When we are alone, it borrows our memory until it has ended (vfork), so that it costs nothing. Libraries with
     * threads stop them in fork handlers, and start them again (pthread_atfork): those would then be threads of a process
     * that ends. So for these both forks are forks.
     *
     * If the app has made this process a subreaper, it is none meanwhile: it would adopt the worker. */
    static pid_t __attribute__((noinline)) fork_twice_(int alone)
    {
        sigset_t all, usual;
        volatile int failure = 0;
        int adopts = 0;
        pid_t between;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &usual);
        if (prctl(PR_GET_CHILD_SUBREAPER, &adopts, 0, 0, 0) == 0 && adopts)
            prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0);
        between = alone ? vfork() : fork();
        if (between == 0) {
            pid_t pid;
            prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
            pid = fork();
            if (pid != 0) {
                if (pid < 0)
                    failure = errno;
                _exit(failure);
            }
        } else if (between < 0) {
            failure = errno;
        } else {
            int status = 0;
            /* ECHILD: the app has SIGCHLD ignored, or waits for everybody's children. */
            if (waitpid(between, &status, 0) == between && status != 0 && failure == 0)
                failure = WIFEXITED(status) ? WEXITSTATUS(status) : EAGAIN;
        }
        if (between != 0 && adopts)
            prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        pthread_sigmask(SIG_SETMASK, &usual, NULL);
        return failure ? -failure : between;
    }

    /* The C library asks by prlimit64(), which a seccomp profile may deny. */
    static int descriptor_limit_(struct rlimit *limit)
    {
        int result = getrlimit(RLIMIT_NOFILE, limit);
    #ifdef SYS_getrlimit
        if (result)
            result = (int)syscall(SYS_getrlimit, RLIMIT_NOFILE, limit);
    #endif
        return result;
    }

    static int set_descriptor_limit_(const struct rlimit *limit)
    {
        int result = setrlimit(RLIMIT_NOFILE, limit);
    #ifdef SYS_setrlimit
        if (result)
            result = (int)syscall(SYS_setrlimit, RLIMIT_NOFILE, limit);
    #endif
        return result;
    }

    static int set_child_subreaper_(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); }
    static int set_parent_death_signal_(int number) { return prctl(PR_SET_PDEATHSIG, number, 0, 0, 0); }
    """
    ctypedef struct notice:
        pass
    notice leaving, let_go
    int set_notice(notice *what, const char *text, size_t size) nogil
    int guard_worker_(int wake_fd, int channel_fd, unsigned int seconds) nogil
    int handle(int number, void (*handler)(int) noexcept nogil) nogil
    void on_give_up(int number) noexcept nogil
    int hold_listeners_(int *fds, size_t count) nogil
    int ignore_signal_(int number, int only_default) nogil
    int prepare_end_(int number) nogil
    int end_after_(unsigned int seconds) nogil
    int drop_new_handshakes_(int fd) nogil
    int fork_twice_(int alone) nogil
    int set_child_subreaper_() nogil
    int set_parent_death_signal_(int number) nogil
    int start_timer_(int number, double seconds) nogil
    void stop_timer_() nogil
    int mark_end_(int number, int fd) nogil


cdef int _check(int result) except -1:
    if result != 0:
        PyErr_SetFromErrno(OSError)
    return 0

cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Parent()
    void PyOS_AfterFork_Child()

cdef extern from "<sys/resource.h>" nogil:
    cdef struct rlimit:
        unsigned long rlim_cur
        unsigned long rlim_max
    int descriptor_limit_(rlimit *limit)
    int set_descriptor_limit_(const rlimit *limit)


def set_child_subreaper() -> None:
    """Make orphans among this process's descendants its own children (prctl(2), PR_SET_CHILD_SUBREAPER)."""
    _check(set_child_subreaper_())


def fork_orphan() -> bool:
    """Fork a process whose parent has ended by then: whoever adopts orphans is its parent soon. True in it, False here.

    To Python and the app it is one fork: hooks (os.register_at_fork) run once, none of them in the process in between.
    OSError: there can be no more processes.
    """
    cdef int result
    cdef bint alone = len(listdir("/proc/self/task")) == 1  # asked for before the hooks, which may stop threads
    PyOS_BeforeFork()
    result = fork_twice_(alone)
    if result == 0:
        PyOS_AfterFork_Child()
        return True
    PyOS_AfterFork_Parent()
    if result < 0:
        raise OSError(-result, strerror(-result))
    return False


def set_parent_death_signal(int number) -> None:
    """Have the kernel send this process ``number`` when its parent ends. Check getppid() afterwards: the parent may be gone already."""
    _check(set_parent_death_signal_(number))


def guard_worker(int wake_fd, int channel_fd, bytes notice, unsigned int seconds) -> None:
    """Install a worker's signal handlers, in C, so that they act even while the app is stuck in C code.

    TERM: sends ``notice`` on ``channel_fd`` (so that the master starts a replacement at once), writes a byte to ``wake_fd``
    (so that the worker's loop wakes) and begins ``end_after(seconds)``, if ``prepare_end`` was called.
    QUIT: ends the process at once, with status 131. INT and HUP: nothing; the master alone decides.
    """
    _check(set_notice(&leaving, notice, <size_t>len(notice)))
    _check(guard_worker_(wake_fd, channel_fd, seconds))


def ignore_signals(numbers, bint only_default) -> None:
    """Have these signals do nothing, or those of them that have their default action; in what this process forks they have it
    again."""
    for number in numbers:
        _check(ignore_signal_(number, only_default))


def hold_listeners(fds) -> None:
    """These are listening sockets: nothing that this process forks from now on keeps them open."""
    cdef size_t count = 0
    cdef int *copy = <int *>malloc(max(1, <size_t>len(fds)) * sizeof(int))
    if copy is NULL:
        raise MemoryError
    for fd in fds:
        copy[count] = fd
        count += 1
    _check(hold_listeners_(copy, count))


def give_up_listeners(int number, bytes notice) -> None:
    """Have a guarded worker close its ``hold_listeners()`` on the signal ``number``, and send ``notice``, also while the app is
    stuck. The descriptors' numbers stay taken, by its ``wake_fd``."""
    _check(set_notice(&let_go, notice, <size_t>len(notice)))
    _check(handle(number, on_give_up))


def mark_end(int number, int fd) -> None:
    """Have the handler that ``number`` has now write a NUL to ``fd`` when it has ended; one signal of a process only.

    faulthandler's leaves no sign of where its output is complete.
    """
    _check(mark_end_(number, fd))


def start_timer(int number, double seconds) -> None:
    """Send the calling thread the signal ``number`` once, after ``seconds``. A process has one such timer at a time, and
    those that it forks have none."""
    _check(start_timer_(number, seconds))


def stop_timer() -> None:
    """The signal, if it has not been sent yet, is not sent any more."""
    stop_timer_()


def prepare_end(int number) -> None:
    """Have a timer for ``end_after()``, which ends this process by the signal ``number``."""
    _check(prepare_end_(number))


def end_after(unsigned int seconds) -> None:
    """End this process after ``seconds``, whatever it does; 0 takes that back."""
    _check(end_after_(seconds))


def drop_new_handshakes(int fd) -> None:
    """Drop every SYN that arrives for the TCP listener ``fd``; handshakes under way complete (socket(7), SO_ATTACH_FILTER)."""
    _check(drop_new_handshakes_(fd))


def accept(int listener) -> int:
    """The descriptor of the client that has waited longest; it does not block. BlockingIOError: nobody waits. OSError."""
    cdef sockaddr_storage address
    cdef socklen_t size = sizeof(address)
    cdef int fd
    with nogil:
        fd = accept_flagged(listener, <sockaddr *>&address, &size)
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    return fd


def may_wait(int fd) -> bool:
    """Can a write() to ``fd`` wait for whoever reads it? So it is with sockets, pipes and terminals."""
    return writing_way(fd) in (WRITING_SHARED, WRITING_SOCKET)


def write_now(int fd, bytes data) -> int:
    """As os.write(), but BlockingIOError rather than wait, without a change to ``fd`` that others could notice."""
    cdef const char *start = data
    cdef size_t size = <size_t>len(data)
    cdef int way = writing_way(fd)
    cdef ssize_t done
    with nogil:
        done = writing_now(fd, way, start, size)
    if done < 0:
        PyErr_SetFromErrno(OSError)
    return done


def descriptor_limits():
    """(soft, hard): how many descriptors this process may have open, and up to where it may raise that."""
    cdef rlimit limit
    if descriptor_limit_(&limit) < 0:
        PyErr_SetFromErrno(OSError)
    return limit.rlim_cur, limit.rlim_max


def raise_descriptor_limit(unsigned long enough):
    """Lets this process have so many descriptors open, or as many as it is allowed to; never fewer than before."""
    cdef rlimit limit
    if descriptor_limit_(&limit) < 0:
        PyErr_SetFromErrno(OSError)
    enough = min(enough, limit.rlim_max)
    if limit.rlim_cur < enough:
        limit.rlim_cur = enough
        set_descriptor_limit_(&limit)   # refused (a sandbox): then it stays, and that is allowed to be
