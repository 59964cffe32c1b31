/* The pulse of the thread that leads the loop: is it in the app, and for how long? No Python in here.
 *
 * The leader calls enter() before the app and leave() after it. One other thread watches: a beat that is odd (in the
 * app) and the same at two ticks is late. The watcher needs no lock and no GIL, and it sleeps without ticks while nothing
 * happens.
 */
#ifndef PYSERVE_PULSE_H
#define PYSERVE_PULSE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PULSE_TICK 1000000    /* ns */
#define PULSE_QUIET 10        /* ticks without a beat, after which there are no more ticks */
#define PULSE_WORTH 100000    /* ns: waiting for so long costs more than handing a request to another thread does */
#define PULSE_SUSPECT 64      /* calls that are looked at more closely after a long one */

typedef struct {
    _Atomic uint64_t beat;      /* odd: in the app */
    _Atomic uint32_t bell;      /* a futex: changes when the watcher must look */
    _Atomic uint32_t asleep;    /* the watcher waits for the bell, without ticks */
    _Atomic uint32_t called;    /* the watcher must return */
    /* The leader's own: */
    uint64_t entered;           /* ns */
    int64_t switches;           /* times that the thread had waited for something, at that time */
    int suspect;                /* calls that are still to be looked at more closely */
} pulse_state;

enum { PULSE_LATE = 1, PULSE_CALLED = 2, PULSE_SIGNALLED = 3 };

static inline uint64_t pulse_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* How often the calling thread has given up its core because it had to wait. */
static inline int64_t pulse_waits(void)
{
    struct rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nvcsw;
}

static inline void pulse_ring(pulse_state *p)
{
    atomic_fetch_add(&p->bell, 1);
    syscall(SYS_futex, &p->bell, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static inline void pulse_enter(pulse_state *p)
{
    if (p->suspect)
        p->switches = pulse_waits();
    p->entered = pulse_now();
    atomic_fetch_add(&p->beat, 1);
    if (atomic_load(&p->asleep) && atomic_exchange(&p->asleep, 0))
        pulse_ring(p);
}

/* Returns whether the app has waited for something for long enough that another request should have run meanwhile. */
static inline int pulse_leave(pulse_state *p)
{
    int is_long = pulse_now() - p->entered > PULSE_WORTH, waited = 0;
    atomic_fetch_add(&p->beat, 1);
    if (p->suspect) {
        p->suspect--;
        waited = is_long && pulse_waits() != p->switches;
    }
    if (is_long)
        p->suspect = PULSE_SUSPECT;
    return waited;
}

/* The leader was found late and leads no more. */
static inline void pulse_reset(pulse_state *p)
{
    if (atomic_load(&p->beat) & 1)
        atomic_fetch_add(&p->beat, 1);
    p->suspect = 0;
}

static inline uint64_t pulse_beat(pulse_state *p)
{
    return atomic_load(&p->beat);
}

static inline void pulse_call(pulse_state *p)
{
    atomic_store(&p->called, 1);
    pulse_ring(p);
}

/* Waits until the leader is late (leaves its beat in *late), until called, or until a signal came. */
static inline int pulse_watch(pulse_state *p, uint64_t *late)
{
    const struct timespec tick = {0, PULSE_TICK};
    uint64_t seen = 0, beat;
    uint32_t bell;
    int quiet = 0;
    long result;
    for (;;) {
        bell = atomic_load(&p->bell);
        if (atomic_exchange(&p->called, 0))
            return PULSE_CALLED;
        beat = atomic_load(&p->beat);
        if (beat == seen && (beat & 1)) {
            *late = beat;
            return PULSE_LATE;
        }
        quiet = beat == seen ? quiet + 1 : 0;
        seen = beat;
        if (quiet >= PULSE_QUIET) {
            atomic_store(&p->asleep, 1);
            if (atomic_load(&p->beat) != seen) { /* just now, and it may not have seen that the bell is needed */
                atomic_store(&p->asleep, 0);
                continue;
            }
        }
        result = syscall(SYS_futex, &p->bell, FUTEX_WAIT_PRIVATE, bell, quiet >= PULSE_QUIET ? NULL : &tick, NULL, 0);
        if (quiet >= PULSE_QUIET) {
            atomic_store(&p->asleep, 0);
            quiet = 0;
        }
        if (result < 0 && errno == EINTR)
            return PULSE_SIGNALLED;
    }
}

#endif
