/* ticks.c - times the loop's ticks (ticks.h). */
#include "broker/ticks.h"

#include "schema/clock.h"

#define SPAN_US 10000000

void ticks_begin(struct ticks *t)
{
    t->began_us = now_mono_us();
}

void ticks_end(struct ticks *t)
{
    long long now_us = now_mono_us(), took_us = now_us - t->began_us;
    if (now_us >= t->recent_since_us + SPAN_US) {
        t->recent_since_us = now_us;
        t->before_us = t->recent_us;
        t->recent_us = 0;
    }
    if (took_us > t->recent_us)
        t->recent_us = took_us;
    if (took_us > t->longest_us)
        t->longest_us = took_us;
}

int ticks_has_taken(const struct ticks *t, long long us)
{
    return now_mono_us() - t->began_us >= us;
}

long long ticks_recent_ms(const struct ticks *t)
{
    return (t->recent_us > t->before_us ? t->recent_us : t->before_us) / 1000;
}
