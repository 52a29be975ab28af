/* ops_fixture.h - random inputs, devices and matrices for the tests of the CPU's operations. */
#ifndef ASSAY_TEST_OPS_FIXTURE_H
#define ASSAY_TEST_OPS_FIXTURE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/unit/ways.h"
#include "worker/cpu/fmath.h"
#include "schema/pooling.h"
#include "worker/ops.h"

#define UNUSED __attribute__((unused)) /* by some of those that include this */

static UNUSED float next_float(void)
{
    return ((float)(next_random() >> 8) * 0x1p-24f - 0.5f) * 4;
}

static UNUSED float *random_floats(int64_t n)
{
    float *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = next_float();
    return x;
}

static UNUSED struct tensor tensor_f32(float *x, int64_t rows, int64_t cols)
{
    return tensor_of(x, DTYPE_F32, rows, cols, cols);
}

/* The activation of one row of n logits, in place. */
static UNUSED void activate(struct device *d, float *x, int64_t n, uint32_t activation)
{
    struct pool_span span = {.n = 1, .activation = activation};
    cpu_ops.pool(d, x, tensor_f32(x, 1, n), &span, 1);
}

static UNUSED struct device *make_device(const char *isa, int threads)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = threads, .isa = isa, .arena_bytes = 1 << 20};
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), 0);
    return d;
}

static UNUSED uint16_t to_half(float f, enum dtype dtype)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (dtype == DTYPE_BF16)
        return (uint16_t)(bits >> 16);
    int exponent = (int)(bits >> 23 & 255) - 127 + 15;
    if (exponent <= 0)
        return (uint16_t)(bits >> 16 & 0x8000);
    return (uint16_t)((bits >> 16 & 0x8000) | (uint32_t)exponent << 10 | (bits >> 13 & 0x3ff));
}

/* What a stored half is worth, by its definition. */
static UNUSED double half_value(uint16_t h, enum dtype dtype)
{
    int sign = h >> 15 ? -1 : 1;
    if (dtype == DTYPE_BF16) {
        uint32_t bits = (uint32_t)h << 16;
        float f;
        memcpy(&f, &bits, 4);
        return (double)f;
    }
    int exponent = h >> 10 & 31, fraction = h & 0x3ff;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

struct matrix {
    struct weight w;
    double *exact;
};

static UNUSED struct matrix make_matrix(int64_t rows, int64_t cols, enum dtype dtype)
{
    struct matrix m = {.exact = malloc((size_t)(rows * cols) * sizeof(double))};
    float *wide = random_floats(rows * cols);
    uint16_t *half = malloc((size_t)(rows * cols) * 2);
    for (int64_t i = 0; i < rows * cols; i++) {
        half[i] = to_half(wide[i], dtype);
        if (dtype == DTYPE_F16 && i % 97 == 0)
            half[i] = (uint16_t)(next_random() & 0x3ff); /* a subnormal */
        m.exact[i] = dtype == DTYPE_F32 ? (double)wide[i] : half_value(half[i], dtype);
    }
    m.w = (struct weight){dtype == DTYPE_F32 ? (void *)wide : (void *)half, dtype, rows, cols, cols,
        NULL, DTYPE_F32, NULL};
    free(dtype == DTYPE_F32 ? (void *)half : (void *)wide);
    return m;
}

static UNUSED void free_matrix(struct matrix *m)
{
    free((void *)m->w.data);
    free(m->exact);
}

static UNUSED void assert_close(double found, double expected, double magnitude)
{
    if (!(fabs(found - expected) <= 2e-6 * (1 + magnitude)))
        fail_msg("expected %.9g, found %.9g (magnitude %g)", expected, found, magnitude);
}

#endif
