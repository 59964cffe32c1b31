# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""One request in the app: call it, take its iterable, close it, and answer for what it raises.

Nothing that an app raises gets past here: SystemExit and KeyboardInterrupt too are an error of that request, for the
other clients of this worker have done nothing.
"""

cimport cython
from cpython.object cimport PyObject

cdef extern from "Python.h":
    bint PyGen_CheckExact(object value)
    int PyThreadState_SetAsyncExc(unsigned long thread, PyObject *exception)

from pyserve.errors import ClientGone, RequestTimeout

from pyserve_workers.native.context cimport Context
from pyserve_workers.native.failure import describe
from pyserve_workers.native.filewrapper import FileWrapper, on_disk
from pyserve_workers.native.outbox cimport OUT_GONE
from pyserve_workers.native.response cimport STAGED, Response


cdef void set_running(Context context, Response response, bint running) noexcept:
    """Code of the app begins or ends to run. What interrupt() asked for does not outlive it: the exception would hit
    our own code, or the next request."""
    with cython.critical_section(response):
        response.running = context.running = running
        if response.interrupted:
            PyThreadState_SetAsyncExc(response.interrupted, NULL)
            response.interrupted = 0


cdef bint interrupt(Response response, unsigned long thread) noexcept:
    """Has RequestTimeout raised in the app, which the thread runs; False if it does not run."""
    with cython.critical_section(response):
        if not response.running or response.outbox.waiting:
            return False
        response.interrupted = thread
        return PyThreadState_SetAsyncExc(thread, <PyObject *>RequestTimeout) == 1


cdef int exchange(Context context, Response response, object start_response, dict environ) except -1:
    """Runs the request and leaves its response in the outbox, or cuts it: then keep_alive is False."""
    cdef object iterable = None
    if context.forked:
        leave(environ, None)
    try:
        set_running(context, response, True)
        iterable = context.app(environ, start_response)
        if context.forked:
            leave(environ, None)
        if type(iterable) is list or type(iterable) is tuple:
            response.put_sequence(iterable)
            response.finish()
        elif iterable is None:
            raise TypeError("the app returned None, not an iterable of bytes")
        elif not send_file(response, iterable):
            iterate(response, environ, iterable)
    except BaseException as error:
        set_running(context, response, False)
        if context.forked:
            leave(environ, error)
        fail(context, response, environ, error)
    finally:
        set_running(context, response, False)
        response.stop()
        if type(iterable) is not list and type(iterable) is not tuple and iterable is not None:
            close(context, response, environ, iterable)
    if response.excess or response.short:
        report_length(context, response, environ)
    return 0


cdef int iterate(Response response, dict environ, object iterable) except -2:
    response.single = has_one(iterable)
    if response.head_request and response.stage == STAGED and not response.single:
        response.head_only()
        return response.finish()
    for data in iterable:
        if response.context.forked:
            break
        if response.put(data):
            break
    if response.context.forked:
        leave(environ, None)
    if response.outbox.failure:
        return OUT_GONE
    return response.finish()


cdef bint has_one(object iterable):
    """Does it say that it has one item? Then that item's length is the Content-Length (PEP 3333 lets us rely on it)."""
    if PyGen_CheckExact(iterable) or not hasattr(iterable, "__len__"):
        return False
    try:
        return len(iterable) == 1
    except TypeError:
        return False


cdef bint send_file(Response response, object iterable) except -1:
    """Sends a file_wrapper's file from its descriptor; False if the iterable is nothing of that kind."""
    if type(iterable) is not FileWrapper or response.stage != STAGED:
        return False
    place = on_disk(iterable)
    if place is None or response.stage != STAGED:   # a thread of the app's may have come in between
        return False
    response.put_file(place[0], place[1], place[2])
    response.finish()
    return True


cdef int close(Context context, Response response, dict environ, object iterable) except -1:
    """Calls the iterable's close(), exactly once, whatever happened before."""
    try:
        finish = getattr(iterable, "close", None)
        if finish is None:
            return 0
        response.outbox.flush()   # what the client waits for does not wait for the app's tidying up
        set_running(context, response, True)
        finish()
        if context.forked:
            leave(environ, None)
    except BaseException as error:
        set_running(context, response, False)
        if context.forked:
            leave(environ, error)
        context.log.error(f"{name_of(environ)}: close() of the response raised\n{described(error)}")
    finally:
        set_running(context, response, False)
    return 0


cdef int fail(Context context, Response response, dict environ, object error) except -1:
    """The app raised: 500, or 504 for a request that took too long, if the head has not gone; else a cut."""
    cdef type kind = type(error)   # isinstance() might ask the app's error what it is
    cdef int status = 504 if issubclass(kind, RequestTimeout) else 500
    cdef bint late
    if issubclass(kind, ClientGone):
        response.keep_alive = False
        return 0
    if response.taken:
        if not issubclass(kind, StopIteration) and not response.hung_up:   # with which Flask-Sock ends
            context.log.error(f"{name_of(environ)}: failed after it had taken the connection\n{described(error)}")
        return 0
    why = ": it was interrupted" if status == 504 else f"\n{described(error)}"   # of the former a line before tells more
    late = response.head_is_sent()   # now: the error's __str__ is the app's, too
    what = "cut in the middle of its response" if late else f"answered with {status}"
    context.log.error(f"{name_of(environ)}: {what}{why}")
    if late:
        response.keep_alive = False
        response.cut = True
        return 0
    response.drop_head()
    return response.plain(status, "The request took too long." if status == 504 else "The application failed.")


cdef int leave(dict environ, object error) except -1:
    """The app's code has ended in a process that it has forked: does not return."""
    from pyserve_workers.native import forked

    forked.leave(name_of(environ), error)


cdef int report_length(Context context, Response response, dict environ) except -1:
    """The app's Content-Length was wrong. The client sees a sound connection, or a closed one."""
    if response.excess:
        what = f"the app sent more than its Content-Length of {response.length} bytes; the rest was cut off"
    else:
        what = f"the app sent {response.sent} bytes, its Content-Length is {response.length}; the connection was closed"
    context.log.error(f"{name_of(environ)}: {what}")
    return 0


cdef str name_of(dict environ):
    """The request, for the log. The environ is the app's: what it has put there may raise when it is looked at."""
    try:
        peer = environ.get("REMOTE_ADDR") or "a unix socket"
        return f"{environ.get('REQUEST_METHOD')} {environ.get('RAW_URI')} from {peer}"
    except BaseException:
        return "a request whose environ cannot be read any more"


cdef str described(object error):
    return describe(error)
