/* ticks.h - how long the loop's ticks take, and how long the present one has taken: whoever has
 * much to do in a tick stops in time and goes on in the next. One thread. */
#ifndef ASSAY_TICKS_H
#define ASSAY_TICKS_H

/* In microseconds; waiting for events is no part of a tick. */
struct ticks {
    long long began_us;   /* the present one, on the monotonic clock */
    long long longest_us; /* since the start */
    long long recent_us;  /* the longest of the present span of 10 s */
    long long before_us;  /* and of the span before */
    long long recent_since_us;
};

void ticks_begin(struct ticks *t);
void ticks_end(struct ticks *t);
/* 1: the present tick has taken at least `us` so far. */
int ticks_has_taken(const struct ticks *t, long long us);
/* The longest of the last 10 to 20 s, in ms. */
long long ticks_recent_ms(const struct ticks *t);

#endif
