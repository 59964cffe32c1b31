# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, freethreading_compatible=True
"""The pulse of the thread that leads the loop (see pulse.h), for Python."""

cimport cython
from libc.stdint cimport uint64_t


cdef extern from "pulse.h" nogil:
    ctypedef struct pulse_state:
        pass
    int PULSE_LATE
    int PULSE_CALLED
    void pulse_enter(pulse_state *p)
    int pulse_leave(pulse_state *p)
    void pulse_reset(pulse_state *p)
    void pulse_call(pulse_state *p)
    int pulse_watch(pulse_state *p, uint64_t *late)
    uint64_t pulse_beat(pulse_state *p)


@cython.final
cdef class Pulse:
    """The leader calls ``enter()``, ``leave()`` and ``call()``, the watcher ``watch()`` and ``reset()``. All but watch()
    must be called under one lock."""

    cdef pulse_state state
    cdef uint64_t late

    def enter(self):
        """The leader enters the app."""
        pulse_enter(&self.state)

    def leave(self):
        """It has come back. True if the app has waited for something, for long enough that another request should have
        run meanwhile."""
        return pulse_leave(&self.state) != 0

    def watch(self):
        """Wait until the leader is late (True), until called, or until a signal has come (False)."""
        cdef int event
        with nogil:
            event = pulse_watch(&self.state, &self.late)
        return event == PULSE_LATE

    def is_late(self):
        """Is the leader still in that call of the app that made watch() return?"""
        return pulse_beat(&self.state) == self.late

    @property
    def calls(self):
        """How many requests leaders have run so far."""
        return pulse_beat(&self.state) // 2

    def reset(self):
        """The leader leads no more."""
        pulse_reset(&self.state)

    def call(self):
        """Have watch() return."""
        pulse_call(&self.state)
