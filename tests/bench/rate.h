/* rate.h - the rate of a piece of work against the peak of multiply-adds (peak.h), and noise to
 * work on. Each program of tests/bench includes it in one file. */
#ifndef ASSAY_BENCH_RATE_H
#define ASSAY_BENCH_RATE_H

#include <stdlib.h>
#include <string.h>

#include "tests/bench/peak.h"

#define TURNS 9
#define TURN_SECONDS 0.1

static inline int by_value(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* Noise of about one half at most. */
static inline void fill(void *data, int64_t n, enum dtype dtype)
{
    uint32_t state = 1;
    for (int64_t i = 0; i < n; i++) {
        state = state * 1664525 + 1013904223;
        float f = (float)(state >> 8) * 0x1p-24f - 0.5f;
        uint32_t bits;
        memcpy(&bits, &f, 4);
        if (dtype == DTYPE_F32)
            ((float *)data)[i] = f;
        else if (dtype == DTYPE_BF16)
            ((uint16_t *)data)[i] = (uint16_t)(bits >> 16);
        else
            ((uint16_t *)data)[i] = (uint16_t)(0x3000 | (state >> 22));
    }
}

static inline double median_peak(struct device *d)
{
    double peaks[TURNS];
    for (int turn = 0; turn < TURNS; turn++)
        peaks[turn] = measure_peak(d);
    qsort(peaks, TURNS, sizeof *peaks, by_value);
    return peaks[TURNS / 2];
}

/* What `run` reaches, all medians of TURNS. The clock of a shared machine wanders, so each turn is
 * set against the peak just before and after it. A given peak stands for all turns: it is for work
 * whose own threads spin on after it. */
struct rate {
    double gflops, peak, ratio;
};

static inline struct rate measure_rate(
    struct device *d, double gflop, double given_peak, void (*run)(void *), void *arg)
{
    double rates[TURNS], ratios[TURNS], peaks[TURNS];
    run(arg);
    for (int turn = 0; turn < TURNS; turn++) {
        double before = given_peak > 0 ? given_peak : measure_peak(d), start = seconds();
        int n = 0;
        do
            run(arg);
        while (++n, seconds() - start < TURN_SECONDS);
        rates[turn] = n * gflop / (seconds() - start);
        peaks[turn] = (before + (given_peak > 0 ? given_peak : measure_peak(d))) / 2;
        ratios[turn] = rates[turn] / peaks[turn];
    }
    qsort(rates, TURNS, sizeof *rates, by_value);
    qsort(peaks, TURNS, sizeof *peaks, by_value);
    qsort(ratios, TURNS, sizeof *ratios, by_value);
    return (struct rate){rates[TURNS / 2], peaks[TURNS / 2], ratios[TURNS / 2]};
}

#endif
