/* round_rows.c - inputs of a product rounded to 8 bits and back, in float32 and step by step as
 * compressed-tensors does it:
 *     by magnitude, e4m3:     scale = largest magnitude / 448; 0 becomes 2^-23
 *     by magnitude, integers: scale = largest magnitude / 127.5
 *     by row, integers:       scale = (largest - smallest) / 255, zero = -128 - smallest / scale
 *     value = (round(clamp(x / scale + zero point)) - zero point) * scale
 * 0 is always among the numbers of a row. Integers are -128 .. 127, e4m3's numbers -448 .. 448.
 * Rounding is to nearest even; NaN stays NaN. */
#include "worker/cpu/device.h"

#include <string.h>

#define LARGEST_E4M3 448.0f
#define LOWEST_INT (-128.0f)
#define HIGHEST_INT 127.0f
#define INT_RANGE 255.0f
#define INT_MAGNITUDE 127.5f
#define LEAST_SCALE 0x1p-23f
#define ROUNDING 12582912.0f  /* 1.5 * 2^23: adding it rounds to an integer */
#define SMALLEST_E4M3 0x1p-6f /* that is normal */

static inline float clamp(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

static inline float round_int(float x)
{
    return clamp(x, LOWEST_INT, HIGHEST_INT) + ROUNDING - ROUNDING;
}

/* With three bits after the first: adding 1.5 * 2^20 times x's power of two rounds to them. */
static inline float round_e4m3(float x)
{
    uint32_t bits;
    float power;
    x = clamp(x, -LARGEST_E4M3, LARGEST_E4M3);
    memcpy(&bits, &x, sizeof bits);
    bits &= 0x7f800000;
    memcpy(&power, &bits, sizeof power);
    power = (power < SMALLEST_E4M3 ? SMALLEST_E4M3 : power) * 0x1.8p20f;
    return x + power - power;
}

/* Sets scale and zero of a row. */
static void measure(struct rounding *r, const float *x, int64_t n)
{
    float low = 0, high = 0;
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    float largest = -low > high ? -low : high;
    r->zero = 0;
    if (r->how == ROUND_BY_ROW)
        r->scale = (high - low) / INT_RANGE;
    else
        r->scale = largest / (r->numbers == PACKED_E4M3 ? LARGEST_E4M3 : INT_MAGNITUDE);
    if (r->how == ROUND_BY_ROW && r->scale > 0)
        r->zero = round_int(LOWEST_INT - low / r->scale);
    r->scale = r->scale == 0 ? LEAST_SCALE : r->scale;
}

static void round_row(float *to, const float *x, int64_t n, struct rounding r)
{
    if (r.how != ROUND_BY_SCALE)
        measure(&r, x, n);
    if (r.numbers == PACKED_E4M3)
        for (int64_t i = 0; i < n; i++)
            to[i] = round_e4m3(x[i] / r.scale) * r.scale;
    else
        for (int64_t i = 0; i < n; i++)
            to[i] = (round_int(x[i] / r.scale + r.zero) - r.zero) * r.scale;
}

struct rounding_rows {
    struct tensor to, from;
    const struct rounding *rounding;
};

static void run_row(void *arg, int64_t row, int thread)
{
    const struct rounding_rows *a = arg;
    (void)thread;
    round_row(row_of(a->to, row), row_of(a->from, row), a->from.cols, *a->rounding);
}

struct tensor cpu_round_rows(struct device *d, struct tensor x, const struct rounding *r)
{
    struct rounding_rows a = {.from = x, .rounding = r};
    a.to = tensor_of(scratch_take(&d->rounded_x, (size_t)(x.rows * x.cols) * sizeof(float)),
        DTYPE_F32, x.rows, x.cols, x.cols);
    thread_pool_run(d->pool, run_row, &a, x.rows);
    return a.to;
}
