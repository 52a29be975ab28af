/* ways.h - every way of the CPU to compute that must give the same bits, and numbers to do it on:
 * shared by the tests of the CPU's operations. */
#ifndef ASSAY_TEST_WAYS_H
#define ASSAY_TEST_WAYS_H

#include <stdint.h>
#include <stdio.h>

#include "worker/cpu/kernels.h"

static uint64_t state = 88172645463325252ull;

static uint32_t next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

static struct way {
    const char *isa;
    int threads;
} ways[] = {{"portable", 1}, {"auto", 1}, {"auto", 2}, {"auto", 3}, {"avx2", 2}, {"avx512", 1},
    {"avx512", 2}, {"avx512vnni", 1}, {"avx512vnni", 2}, {"avx512bf16", 1}, {"avx512bf16", 2}};
enum { MOST_WAYS = sizeof ways / sizeof ways[0] };
static int n_ways = MOST_WAYS;

/* Leaves those that this CPU has in ways[0 .. n_ways). */
static void skip_missing_isas(void)
{
    n_ways = 0;
    for (int way = 0; way < MOST_WAYS; way++)
        if (kernels_choose(ways[way].isa))
            ways[n_ways++] = ways[way];
        else
            fprintf(stderr, "SKIPPED: %s, %d threads: this CPU does not have it\n", ways[way].isa,
                ways[way].threads);
}

#endif
