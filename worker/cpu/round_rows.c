/* round_rows.c - inputs of a product rounded to 8 bits and back, in float32 and step by step as
 * compressed-tensors does it:
 *     by magnitude, e4m3:     scale = largest magnitude / 448; 0 becomes 2^-23
 *     by magnitude, integers: scale = largest magnitude / 127.5
 *     by row, integers:       scale = (largest - smallest) / 255, zero = -128 - smallest / scale
 *     value = (round(clamp(x / scale + zero point)) - zero point) * scale
 * and as transformers' kernels for its FP8 do it:
 *     by magnitude, e4m3:     scale = largest magnitude / 448
 *     value = round(x / (scale or 1e-12, whichever is larger)) * scale
 * each for a row, or for every group of its columns. 0 is always among the numbers of a row.
 * Integers are -128 .. 127, e4m3's numbers -448 .. 448. Rounding is to nearest even; NaN stays NaN.
 *
 * Where the ranks have a part of each row (is_split), the largest and the smallest number are those
 * of all ranks' parts: an all-reduce before anything is rounded. So a part is rounded to the bits
 * that it has in the whole row. */
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

/* What a group's scale and zero point come from: the largest number and the largest negated one,
 * at least 0. */
struct bounds {
    float high, low;
};

static struct bounds find_bounds(const float *x, int64_t n)
{
    struct bounds b = {0, 0};
    for (int64_t i = 0; i < n; i++) {
        b.low = -x[i] > b.low ? -x[i] : b.low;
        b.high = x[i] > b.high ? x[i] : b.high;
    }
    return b;
}

static void set_scale(struct rounding *r, struct bounds b)
{
    float largest = b.low > b.high ? b.low : b.high;
    r->zero = 0;
    if (r->how == ROUND_BY_ROW)
        r->scale = (b.high + b.low) / INT_RANGE;
    else
        r->scale = largest / (r->numbers == PACKED_E4M3 ? LARGEST_E4M3 : INT_MAGNITUDE);
    if (r->how == ROUND_BY_ROW && r->scale > 0)
        r->zero = round_int(LOWEST_INT + b.low / r->scale);
    if (r->scale == 0 && r->least == 0)
        r->scale = LEAST_SCALE;
}

static void round_group(float *to, const float *x, int64_t n, struct rounding r)
{
    float by = r.scale < r.least ? r.least : r.scale;
    if (r.numbers == PACKED_E4M3)
        for (int64_t i = 0; i < n; i++)
            to[i] = round_e4m3(x[i] / by) * r.scale;
    else
        for (int64_t i = 0; i < n; i++)
            to[i] = (round_int(x[i] / by + r.zero) - r.zero) * r.scale;
}

struct rounding_rows {
    struct tensor to, from;
    const struct rounding *rounding;
    int64_t group, n_groups;
    struct bounds *bounds; /* [rows][n_groups] */
};

static int64_t columns_in(const struct rounding_rows *a, int64_t group)
{
    return min64(a->group, a->from.cols - group * a->group);
}

static void measure_row(void *arg, int64_t row, int thread)
{
    const struct rounding_rows *a = arg;
    (void)thread;
    for (int64_t g = 0; g < a->n_groups; g++)
        a->bounds[row * a->n_groups + g] =
            find_bounds(row_of(a->from, row) + g * a->group, columns_in(a, g));
}

static void round_row(void *arg, int64_t row, int thread)
{
    const struct rounding_rows *a = arg;
    struct rounding r = *a->rounding;
    (void)thread;
    for (int64_t g = 0; g < a->n_groups; g++) {
        int64_t at = g * a->group;
        if (r.how != ROUND_BY_SCALE)
            set_scale(&r, a->bounds[row * a->n_groups + g]);
        round_group(row_of(a->to, row) + at, row_of(a->from, row) + at, columns_in(a, g), r);
    }
}

struct tensor cpu_round_rows(struct device *d, struct tensor x, const struct rounding *r)
{
    struct rounding_rows a = {.from = x, .rounding = r, .group = r->group > 0 ? r->group : x.cols};
    a.n_groups = (x.cols + a.group - 1) / a.group;
    size_t numbers = (size_t)(x.rows * x.cols), groups = (size_t)(x.rows * a.n_groups);
    float *memory =
        scratch_take(&d->rounded_x, numbers * sizeof *memory + groups * sizeof *a.bounds);
    a.to = tensor_of(memory, DTYPE_F32, x.rows, x.cols, x.cols);
    a.bounds = (struct bounds *)(void *)(memory + numbers);
    if (r->how != ROUND_BY_SCALE)
        thread_pool_run(d->pool, measure_row, &a, x.rows);
    if (r->is_split && d->comm)
        comm_all_reduce_max(d->comm, &a.bounds->high, 2 * (uint64_t)groups);
    thread_pool_run(d->pool, round_row, &a, x.rows);
    return a.to;
}
