/* clock.c - reads the system's clocks in whole units (clock.h). */
#include "schema/clock.h"

#include <time.h>

static long long clock_us(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (long long)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

long long now_mono_us(void)
{
    return clock_us(CLOCK_MONOTONIC);
}

long long now_mono_ms(void)
{
    return clock_us(CLOCK_MONOTONIC) / 1000;
}

long long now_wall_ms(void)
{
    return clock_us(CLOCK_REALTIME) / 1000;
}
