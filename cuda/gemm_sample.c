/* gemm_sample.c - whether a product is right (gemm_private.h): rows of x and of w from the first to
 * the last are fetched, and what each makes with each is computed in double precision.
 *
 * What is allowed: a rounding of the result to its type, and what sums in another order give, as a
 * part of the sum of magnitudes. The hardware's sums of F8 have fewer bits. A part of K that is
 * left out, scales of another row, or TF32 in place of float32 are far beyond that. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cuda/gemm_private.h"

/* Pinned copies of the sampled rows. */
struct fetched {
    uint8_t *data;
    int64_t row_bytes;
};

static void fetch(struct device *d, void *to, const void *from, size_t bytes)
{
    GPU_MUST(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, d->compute));
}

static struct fetched fetch_rows(struct device *d, struct tensor t, const int64_t *rows)
{
    struct fetched f = {NULL, t.cols * dtype_bytes(t.dtype)};
    GPU_MUST(
        cudaHostAlloc((void **)&f.data, (size_t)f.row_bytes * GEMM_SAMPLED, cudaHostAllocDefault));
    for (int i = 0; i < GEMM_SAMPLED; i++)
        fetch(d, f.data + i * f.row_bytes, tensor_rows(t, rows[i], 1).data, (size_t)f.row_bytes);
    GPU_MUST(cudaStreamSynchronize(d->compute));
    return f;
}

/* Elements of a vector of the device's; NULL: `otherwise` for each. */
static void fetch_elements(struct device *d, double *to, const void *from, enum dtype type,
    const int64_t *at, double otherwise)
{
    uint8_t *one;
    size_t size = (size_t)dtype_bytes(type);
    GPU_MUST(cudaHostAlloc((void **)&one, size * GEMM_SAMPLED, cudaHostAllocDefault));
    for (int i = 0; from && i < GEMM_SAMPLED; i++)
        fetch(d, one + (size_t)i * size, (const char *)from + (size_t)at[i] * size, size);
    GPU_MUST(cudaStreamSynchronize(d->compute));
    for (int i = 0; i < GEMM_SAMPLED; i++)
        to[i] = from ? (double)gpu_element(one, type, i) : otherwise;
    GPU_MUST(cudaFreeHost(one));
}

static double sum_error(enum dtype in)
{
    return in == DTYPE_F32 ? 0x1p-20 : in == DTYPE_F8 ? 0x1p-10 : in == DTYPE_I8 ? 0 : 0x1p-17;
}

static double rounding(enum dtype in, enum dtype out)
{
    return in == DTYPE_I8 ? 0 : out == DTYPE_F32 ? 0x1p-23 : out == DTYPE_F16 ? 0x1p-11 : 0x1p-8;
}

static void multiply(struct gemm_sample *s, const struct operands *o, const uint8_t *x,
    const uint8_t *w, int i, int j)
{
    double sum = 0, size = 0;
    for (int64_t k = 0; k < o->x.cols; k++) {
        double p = (double)gpu_element(x, s->in, k) * (double)gpu_element(w, s->in, k);
        sum += p;
        size += fabs(p);
    }
    s->expected[i][j] = sum;
    s->allowed[i][j] = size * sum_error(s->in);
}

static void spread(int64_t *at, int64_t n)
{
    for (int i = 0; i < GEMM_SAMPLED; i++)
        at[i] = (n - 1) * i / (GEMM_SAMPLED - 1);
}

void gemm_sample_take(
    struct device *d, struct gemm_sample *s, enum dtype in, const struct operands *o)
{
    double x_scale[GEMM_SAMPLED], w_scale[GEMM_SAMPLED], bias[GEMM_SAMPLED];
    const float *scales = in == DTYPE_F8 ? o->x.scale : NULL;
    s->in = in;
    spread(s->row, o->x.rows);
    spread(s->column, o->w.rows);
    struct tensor matrix = tensor_of((void *)o->w.data, in, o->w.rows, o->x.cols, o->w.stride);
    struct fetched x = fetch_rows(d, o->x, s->row), w = fetch_rows(d, matrix, s->column);
    fetch_elements(d, x_scale, scales, DTYPE_F32, s->row, 1);
    fetch_elements(d, w_scale, scales ? o->w.scale : NULL, DTYPE_F32, s->column, 1);
    fetch_elements(d, bias, o->bias, o->out.dtype, s->column, 0);
    for (int i = 0; i < GEMM_SAMPLED; i++)
        for (int j = 0; j < GEMM_SAMPLED; j++) {
            multiply(s, o, x.data + i * x.row_bytes, w.data + j * w.row_bytes, i, j);
            s->expected[i][j] = s->expected[i][j] * x_scale[i] * w_scale[j] + bias[j];
            s->allowed[i][j] = s->allowed[i][j] * fabs(x_scale[i] * w_scale[j]) +
                               fabs(bias[j]) * 0x1p-20 +
                               fabs(s->expected[i][j]) * rounding(in, o->out.dtype);
        }
    GPU_MUST(cudaFreeHost(x.data));
    GPU_MUST(cudaFreeHost(w.data));
}

static double found_at(
    const struct gemm_sample *s, struct tensor out, const uint8_t *row, int64_t j)
{
    int32_t whole;
    if (s->in != DTYPE_I8)
        return (double)gpu_element(row, out.dtype, j);
    memcpy(&whole, row + j * (int64_t)sizeof whole, sizeof whole);
    return whole;
}

/* Numbers of the checkpoint's own matrix may be NaN or too large for the type; that is not the
 * algorithm's doing, and the canary row (worker/serve.c) tells of it. */
static int is_in_range(double x, enum dtype out)
{
    return fabs(x) < (out == DTYPE_F16 ? 65504 : 3e38);
}

int gemm_sample_agrees(
    struct device *d, const struct gemm_sample *s, struct tensor out, char *text, size_t bytes)
{
    struct fetched f = fetch_rows(d, out, s->row);
    int agrees = 1;
    for (int i = 0; agrees && i < GEMM_SAMPLED; i++)
        for (int j = 0; agrees && j < GEMM_SAMPLED; j++) {
            double found = found_at(s, out, f.data + i * f.row_bytes, s->column[j]);
            agrees = !is_in_range(s->expected[i][j], out.dtype) ||
                     fabs(found - s->expected[i][j]) <= s->allowed[i][j];
            if (!agrees)
                snprintf(text, bytes, "row %lld column %lld: expected %.9g, found %.9g",
                    (long long)s->row[i], (long long)s->column[j], s->expected[i][j], found);
        }
    GPU_MUST(cudaFreeHost(f.data));
    return agrees;
}
