/* How long a client that sends a body, or reads a response, may take for it. Times are CLOCK_MONOTONIC nanoseconds.
 *
 * Two things hold. Its bytes may stop for `timeout`. And after the first ten seconds they must come at `rate` on the
 * whole: each byte earns it the time that it takes at that rate. What it has earned is good for one `timeout` at the
 * most, however much it has sent at first: else a fast beginning would pay for hours of nothing. */
#ifndef PYSERVE_RATE_H
#define PYSERVE_RATE_H

#include <stdint.h>

#define RATE_FIRST 10000000000u   /* ns in which no rate is asked for */
#define RATE_SECOND 1000000000u

/* Until when what it has earned lasts, now that `bytes` more have moved. `earned`: until when it lasted before, 0 at
 * the beginning. `rate`: bytes per second; 0: none is asked for, which is the answer then. `timeout`: 0 is no limit. */
static inline uint64_t rate_earned(uint64_t earned, uint64_t now, uint64_t bytes, uint64_t rate, uint64_t timeout)
{
    uint64_t most = now + (timeout > RATE_FIRST ? timeout : RATE_FIRST);
    uint64_t until;
    if (rate == 0)
        return 0;
    if (earned == 0)
        earned = now + RATE_FIRST;
    if (earned >= most || bytes / rate > (most - earned) / RATE_SECOND)
        return most;
    until = earned + bytes / rate * RATE_SECOND + bytes % rate * RATE_SECOND / rate;
    return until < most ? until : most;
}

/* Until when it is waited for, if its last byte moved at `last`; 0: for ever. */
static inline uint64_t rate_due(uint64_t earned, uint64_t last, uint64_t timeout)
{
    uint64_t silent = timeout ? last + timeout : earned;
    return earned && earned < silent ? earned : silent;
}

#endif
