/* test_ops.c - the CPU's operations: each against a plain loop in double precision, and each bit
 * for bit against itself: alone or among other rows, on 1, 2 or 3 threads, with each set of kernels
 * that this CPU has (one that it lacks is skipped, and said so). */
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

static float next_float(void)
{
    return ((float)(next_random() >> 8) * 0x1p-24f - 0.5f) * 4;
}

static float *random_floats(int64_t n)
{
    float *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = next_float();
    return x;
}

static struct tensor tensor_f32(float *x, int64_t rows, int64_t cols)
{
    return tensor_of(x, DTYPE_F32, rows, cols, cols);
}

/* The activation of one row of n logits, in place. */
static void activate(struct device *d, float *x, int64_t n, uint32_t activation)
{
    struct pool_span span = {.n = 1, .activation = activation};
    cpu_ops.pool(d, x, tensor_f32(x, 1, n), &span, 1);
}

static struct device *make_device(const char *isa, int threads)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = threads, .isa = isa, .arena_bytes = 1 << 20};
    assert_int_equal(cpu_ops.open(&d, &o, &e), 0);
    return d;
}

static uint16_t to_half(float f, enum dtype dtype)
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
static double half_value(uint16_t h, enum dtype dtype)
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

static struct matrix make_matrix(int64_t rows, int64_t cols, enum dtype dtype)
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
    m.w = (struct weight){
        dtype == DTYPE_F32 ? (void *)wide : (void *)half, dtype, rows, cols, cols, NULL, DTYPE_F32};
    free(dtype == DTYPE_F32 ? (void *)half : (void *)wide);
    return m;
}

static void free_matrix(struct matrix *m)
{
    free((void *)m->w.data);
    free(m->exact);
}

static void assert_close(double found, double expected, double magnitude)
{
    if (!(fabs(found - expected) <= 2e-6 * (1 + magnitude)))
        fail_msg("expected %.9g, found %.9g (magnitude %g)", expected, found, magnitude);
}

static void check_linear(int64_t rows, int64_t in, int64_t out, enum dtype dtype)
{
    struct matrix a = make_matrix(out, in, dtype), b = make_matrix(3, in, dtype);
    struct weight parts[] = {a.w, b.w};
    float *x = random_floats(rows * in), *bias = random_floats(out + 3), *y[WAYS];
    struct tensor xt = tensor_f32(x, rows, in);
    for (int way = 0; way < WAYS; way++) {
        struct device *d = make_device(ways[way].isa, ways[way].threads);
        y[way] = random_floats(rows * (out + 3));
        cpu_ops.linear(d, tensor_f32(y[way], rows, out + 3), xt, parts, 2, bias);
        assert_memory_equal(y[way], y[0], (size_t)(rows * (out + 3)) * sizeof(float));
        float *alone = random_floats(out + 3);
        int64_t r = next_random() % rows;
        cpu_ops.linear(
            d, tensor_f32(alone, 1, out + 3), tensor_f32(x + r * in, 1, in), parts, 2, bias);
        assert_memory_equal(alone, y[0] + r * (out + 3), (size_t)(out + 3) * sizeof(float));
        free(alone);
        cpu_ops.close(&d);
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t j = 0; j < out + 3; j++) {
            const double *w = j < out ? a.exact + j * in : b.exact + (j - out) * in;
            double sum = 0, magnitude = 0;
            for (int64_t k = 0; k < in; k++) {
                sum += (double)x[r * in + k] * w[k];
                magnitude += fabs((double)x[r * in + k] * w[k]);
            }
            assert_close((double)y[0][r * (out + 3) + j], sum + (double)bias[j], magnitude);
        }
    for (int way = 0; way < WAYS; way++)
        free(y[way]);
    free(x);
    free(bias);
    free_matrix(&a);
    free_matrix(&b);
}

static void test_linear(void **unused)
{
    static const int64_t rows[] = {1, 2, 5, 6, 7, 13, 191, 193, 769},
                         ins[] = {1, 7, 64, 84, 255, 256, 257, 513};
    static const int64_t outs[] = {1, 8, 15, 16, 17, 95, 96, 97, 200};
    (void)unused;
    for (int i = 0; i < 9; i++) {
        check_linear(rows[i], ins[i % 8], outs[8 - i], DTYPE_F32);
        check_linear(rows[i % 7], ins[(i + 3) % 8], outs[i], DTYPE_BF16);
        check_linear(rows[i % 6], ins[(i + 5) % 8], outs[(i + 4) % 9], DTYPE_F16);
    }
    check_linear(1537, 7, 65, DTYPE_BF16);  /* more rows than a chunk */
    check_linear(25, 1025, 65, DTYPE_BF16); /* two and three pieces of K */
    check_linear(13, 2100, 33, DTYPE_F16);
}

/* A checkpoint's header may have any length: weights lie wherever they do, to the same bits. */
static void test_linear_of_weights_that_are_not_aligned(void **unused)
{
    enum { ROWS = 7, IN = 77, OUT = 19 };
    static const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    float *x = random_floats(ROWS * IN), expected[ROWS * OUT], y[ROWS * OUT];
    char moved[OUT * IN * 4 + 1];
    (void)unused;
    for (int i = 0; i < 3; i++) {
        struct matrix m = make_matrix(OUT, IN, types[i]);
        struct weight w = m.w;
        w.data = memcpy(moved + 1, m.w.data, (size_t)(OUT * IN * dtype_bytes(types[i])));
        for (int way = 0; way < WAYS; way++) {
            struct device *d = make_device(ways[way].isa, ways[way].threads);
            struct tensor xt = tensor_f32(x, ROWS, IN);
            cpu_ops.linear(d, tensor_f32(expected, ROWS, OUT), xt, &m.w, 1, NULL);
            cpu_ops.linear(d, tensor_f32(y, ROWS, OUT), xt, &w, 1, NULL);
            assert_memory_equal(y, expected, sizeof y);
            cpu_ops.close(&d);
        }
        free_matrix(&m);
    }
    free(x);
}

/* ---- attention ---- */

struct case_ {
    uint32_t heads, kv_heads, dim, window;
    uint32_t lengths[4];
};

static void attend(const char *isa, int threads, const struct case_ *c, float *q, float *k,
    float *v, float *out, uint32_t n_rows, const uint32_t *cu)
{
    struct device *d = make_device(isa, threads);
    uint32_t n = cu[n_rows];
    struct attention_shape shape = {
        c->heads, c->kv_heads, c->dim, 1 / sqrtf((float)c->dim), c->window};
    struct attn_metadata meta = {.n_rows = n_rows, .cu_seqlens = cu, .max_seqlen = 0};
    int64_t qd = (int64_t)c->heads * c->dim, kd = (int64_t)c->kv_heads * c->dim;
    cpu_ops.attention(d, tensor_f32(out, n, qd), tensor_f32(q, n, qd), tensor_f32(k, n, kd),
        tensor_f32(v, n, kd), &shape, &meta);
    cpu_ops.close(&d);
}

static void check_token(const struct case_ *c, const float *q, const float *k, const float *v,
    const float *out, uint32_t first, uint32_t at, uint32_t head)
{
    uint32_t kv = head / (c->heads / c->kv_heads),
             low = c->window && at + 1 > c->window ? at + 1 - c->window : 0;
    double *p = malloc((at + 1) * sizeof *p), m = -INFINITY, sum = 0;
    for (uint32_t j = low; j <= at; j++) {
        p[j] = 0;
        for (uint32_t i = 0; i < c->dim; i++)
            p[j] += (double)q[((first + at) * c->heads + head) * c->dim + i] *
                    (double)k[((first + j) * c->kv_heads + kv) * c->dim + i];
        p[j] /= sqrt(c->dim);
        m = p[j] > m ? p[j] : m;
    }
    for (uint32_t j = low; j <= at; j++)
        sum += p[j] = exp(p[j] - m);
    for (uint32_t i = 0; i < c->dim; i++) {
        double expected = 0;
        for (uint32_t j = low; j <= at; j++)
            expected += p[j] / sum * (double)v[((first + j) * c->kv_heads + kv) * c->dim + i];
        assert_close((double)out[((first + at) * c->heads + head) * c->dim + i], expected, 8);
    }
    free(p);
}

/* The first tokens of a row by themselves: the same bits as with what follows them. */
static void check_beginning(
    const struct case_ *c, float *q, float *k, float *v, const float *whole, uint32_t length)
{
    int64_t qd = (int64_t)c->heads * c->dim;
    for (uint32_t n = 1; n <= length; n += 1 + next_random() % 37) {
        uint32_t cu[] = {0, n};
        float *out = random_floats(n * qd);
        attend("auto", 1, c, q, k, v, out, 1, cu);
        assert_memory_equal(out, whole, (size_t)(n * qd) * sizeof(float));
        free(out);
    }
}

static void check_attention(const struct case_ *c)
{
    uint32_t cu[5] = {0}, n_rows = 0;
    for (; n_rows < 4 && c->lengths[n_rows]; n_rows++)
        cu[n_rows + 1] = cu[n_rows] + c->lengths[n_rows];
    uint32_t n = cu[n_rows];
    int64_t qd = (int64_t)c->heads * c->dim, kd = (int64_t)c->kv_heads * c->dim;
    float *q = random_floats(n * qd), *k = random_floats(n * kd), *v = random_floats(n * kd),
          *out[WAYS];
    for (int way = 0; way < WAYS; way++) {
        out[way] = random_floats(n * qd);
        attend(ways[way].isa, ways[way].threads, c, q, k, v, out[way], n_rows, cu);
        assert_memory_equal(out[way], out[0], (size_t)(n * qd) * sizeof(float));
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        uint32_t alone_cu[] = {0, c->lengths[r]}, first = cu[r];
        float *alone = random_floats(c->lengths[r] * qd);
        attend("auto", 2, c, q + first * qd, k + first * kd, v + first * kd, alone, 1, alone_cu);
        assert_memory_equal(
            alone, out[0] + first * qd, (size_t)(c->lengths[r] * qd) * sizeof(float));
        check_beginning(c, q + first * qd, k + first * kd, v + first * kd, alone, c->lengths[r]);
        free(alone);
        for (uint32_t at = 0;
             at<c->lengths[r]; at += c->lengths[r]> 40 ? 1 + next_random() % 23 : 1)
            for (uint32_t h = 0; h < c->heads; h++)
                check_token(c, q, k, v, out[0], first, at, h);
    }
    for (int way = 0; way < WAYS; way++)
        free(out[way]);
    free(q);
    free(k);
    free(v);
}

/* One row, each way the same bits, and against the plain loop. */
static void check_way_by_way(const struct case_ *c, float *q, float *k, float *v)
{
    const uint32_t n = c->lengths[0], cu[] = {0, n};
    const int64_t size = (int64_t)n * c->heads * c->dim;
    float *first = random_floats(size), *out = random_floats(size);
    attend("portable", 1, c, q, k, v, first, 1, cu);
    for (int way = 0; way < WAYS; way++) {
        attend(ways[way].isa, ways[way].threads, c, q, k, v, out, 1, cu);
        assert_memory_equal(out, first, (size_t)size * sizeof *out);
    }
    for (uint32_t at = 0; at < n; at += 7)
        for (uint32_t h = 0; h < c->heads; h++)
            check_token(c, q, k, v, out, 0, at, h);
    free(first);
    free(out);
}

static void test_attention(void **unused)
{
    static const struct case_ cases[] = {{4, 2, 16, 0, {1, 2, 65, 130}},
        {6, 2, 14, 0, {63, 64, 31, 33}}, {2, 1, 64, 0, {97, 5, 0, 0}}, {2, 2, 80, 0, {70, 0, 0, 0}},
        {3, 1, 96, 0, {129, 1, 0, 0}}, {2, 1, 128, 0, {200, 0, 0, 0}}, {4, 4, 16, 1, {40, 3, 0, 0}},
        {4, 2, 16, 64, {200, 65, 64, 63}}, {4, 1, 16, 70, {300, 71, 0, 0}},
        {14, 2, 8, 10, {11, 10, 9, 140}}};
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_attention(&cases[i]);
}

/* Scores so large that their last place is worth more than what exp has room for: what comes out is
 * still within the values. The multiple that scales them is no power of two. */
static void test_attention_of_large_scores(void **unused)
{
    enum { N = 70, DIM = 20 };
    static const struct case_ c = {1, 1, DIM, 0, {N, 0, 0, 0}};
    static const float sizes[] = {1e2f, 1e4f, 1e6f, 1e12f};
    static const uint32_t cu[] = {0, N};
    (void)unused;
    for (int way = 0; way < WAYS; way++)
        for (int size = 0; size < 4; size++) {
            float *q = random_floats(N * DIM), *k = random_floats(N * DIM),
                  *v = random_floats(N * DIM), *out = random_floats(N * DIM);
            for (int i = 0; i < N * DIM; i++) {
                q[i] *= sizes[size];
                k[i] *= sizes[size];
            }
            attend(ways[way].isa, ways[way].threads, &c, q, k, v, out, 1, cu);
            for (int i = 0; i < N * DIM; i++)
                assert_true(fabs((double)out[i]) <= 2.0001);
            free(q);
            free(k);
            free(v);
            free(out);
        }
}

/* The lowest score that there is weighs 1 where it is alone, not 0 of 0. */
static void test_attention_of_the_lowest_scores(void **unused)
{
    enum { DIM = 16 };
    static const struct case_ c = {1, 1, DIM, 0, {1, 0, 0, 0}};
    static const float keys[] = {-2.9e38f, -3.1e38f, -3.4e38f};
    static const uint32_t cu[] = {0, 1};
    (void)unused;
    for (int way = 0; way < WAYS; way++)
        for (int i = 0; i < 3; i++) {
            float q[DIM] = {2.7725887f}, k[DIM] = {keys[i]}, v[DIM], out[DIM]; /* 4 ln 2 */
            for (int j = 0; j < DIM; j++)
                v[j] = (float)j;
            attend(ways[way].isa, ways[way].threads, &c, q, k, v, out, 1, cu);
            assert_memory_equal(out, v, sizeof v);
        }
}

/* Scores that rise, or fall, from key to key by so much that the base of the softmax must follow now
 * and then: in every tile of keys, in some, never. */
static void test_attention_of_rising_scores(void **unused)
{
    enum { N = 300, DIM = 16 };
    static const struct case_ c = {2, 1, DIM, 0, {N, 0, 0, 0}};
    static const float steps[] = {0.2f, 0.05f, 0.01f, -0.1f};
    (void)unused;
    for (int i = 0; i < 4; i++) {
        float *q = random_floats(N * 2 * DIM), *k = random_floats(N * DIM),
              *v = random_floats(N * DIM);
        for (int j = 0; j < N * 2; j++)
            q[j * DIM] = 4; /* and so divided by sqrt(DIM) it is 1 */
        for (int j = 0; j < N; j++)
            k[j * DIM] = (float)j * steps[i];
        check_way_by_way(&c, q, k, v);
        free(q);
        free(k);
        free(v);
    }
}

/* Rows that begin alike: the whole rows, the shared tokens copied into each, against the same tokens
 * once as a row of their own, which the others name. */
struct shared_case {
    uint32_t heads, kv_heads, dim, window, prefix;
    uint32_t own[4]; /* tokens of each row behind the prefix */
};

static void attend_shared(const char *isa, int threads, const struct shared_case *c, float *qkv[3],
    float *out, uint32_t n_rows, const uint32_t *cu, const struct attn_prefix *prefixes)
{
    struct device *d = make_device(isa, threads);
    struct attention_shape shape = {
        c->heads, c->kv_heads, c->dim, 1 / sqrtf((float)c->dim), c->window};
    struct attn_metadata meta = {.n_rows = n_rows, .cu_seqlens = cu, .prefix_segments = prefixes};
    int64_t n = cu[n_rows], qd = (int64_t)c->heads * c->dim, kd = (int64_t)c->kv_heads * c->dim;
    cpu_ops.attention(d, tensor_f32(out, n, qd), tensor_f32(qkv[0], n, qd),
        tensor_f32(qkv[1], n, kd), tensor_f32(qkv[2], n, kd), &shape, &meta);
    cpu_ops.close(&d);
}

/* Rows of width: `prefix` of them, then each sequence's own, as they are in a batch that shares;
 * returned as they are in one that does not. */
static float *repeat_prefix(const struct shared_case *c, const float *once, int64_t width)
{
    uint32_t n = 0, at = 0, from = c->prefix;
    for (int r = 0; r < 4 && c->own[r]; r++)
        n += c->prefix + c->own[r];
    float *out = malloc((size_t)n * (size_t)width * sizeof *out);
    for (int r = 0; r < 4 && c->own[r]; from += c->own[r++]) {
        memcpy(out + at * width, once, (size_t)(c->prefix * width) * sizeof *out);
        at += c->prefix;
        memcpy(out + at * width, once + from * width, (size_t)(c->own[r] * width) * sizeof *out);
        at += c->own[r];
    }
    return out;
}

static void check_shared(const struct shared_case *c)
{
    uint32_t cu[6] = {0, c->prefix}, whole_cu[5] = {0}, n_rows = 0;
    struct attn_prefix prefixes[5] = {{0, 0}};
    for (; n_rows < 4 && c->own[n_rows]; n_rows++) {
        cu[n_rows + 2] = cu[n_rows + 1] + c->own[n_rows];
        whole_cu[n_rows + 1] = whole_cu[n_rows] + c->prefix + c->own[n_rows];
        prefixes[n_rows + 1] = (struct attn_prefix){0, c->prefix};
    }
    int64_t widths[] = {
        (int64_t)c->heads * c->dim, (int64_t)c->kv_heads * c->dim, (int64_t)c->kv_heads * c->dim};
    float *once[3], *whole[3], *expected = random_floats(whole_cu[n_rows] * widths[0]);
    for (int i = 0; i < 3; i++) {
        once[i] = random_floats(cu[n_rows + 1] * widths[i]);
        whole[i] = repeat_prefix(c, once[i], widths[i]);
    }
    attend_shared("portable", 1, c, whole, expected, n_rows, whole_cu, NULL);
    for (int way = 0; way < WAYS; way++) {
        float *out = random_floats(cu[n_rows + 1] * widths[0]);
        attend_shared(ways[way].isa, ways[way].threads, c, once, out, n_rows + 1, cu, prefixes);
        float *repeated = repeat_prefix(c, out, widths[0]);
        assert_memory_equal(
            repeated, expected, (size_t)(whole_cu[n_rows] * widths[0]) * sizeof *out);
        free(out);
        free(repeated);
    }
    for (int i = 0; i < 3; i++) {
        free(once[i]);
        free(whole[i]);
    }
    free(expected);
}

/* A last token whose key and value are no numbers: the tokens before it do not see it, and have the
 * same bits with a prefix that is shared, with all to themselves, and where it is not there. */
static void test_attention_of_what_is_no_number(void **unused)
{
    static const float odd[] = {NAN, INFINITY};
    (void)unused;
    for (uint32_t prefix = 30; prefix < 35; prefix++)
        for (uint32_t own = 31; own < 66; own += 11)
            for (int i = 0; i < 2 * WAYS; i++) {
                struct shared_case c = {6, 2, 18, i % 3 ? 0 : 33, prefix, {own, 0, 0, 0}};
                uint32_t n = prefix + own, cu[] = {0, prefix, n}, whole[] = {0, n},
                         less[] = {0, n - 1};
                struct attn_prefix prefixes[] = {{0, 0}, {0, prefix}};
                const char *isa = ways[i / 2].isa;
                float *qkv[] = {random_floats(n * 108), random_floats(n * 36),
                    random_floats(n * 36)},
                      *out[] = {
                          random_floats(n * 108), random_floats(n * 108), random_floats(n * 108)};
                qkv[1][(n - 1) * 36] = qkv[2][(n - 1) * 36 + 1] = odd[i % 2];
                attend_shared(isa, 1, &c, qkv, out[0], 1, less, NULL);
                attend_shared(isa, 1, &c, qkv, out[1], 1, whole, NULL);
                attend_shared(isa, 1, &c, qkv, out[2], 2, cu, prefixes);
                for (int k = 1; k < 3; k++) {
                    assert_memory_equal(out[k], out[0], (n - 1) * 108 * sizeof(float));
                    assert_true(isnan(out[k][(n - 1) * 108 + 1]));
                }
                for (int k = 0; k < 3; k++) {
                    free(qkv[k]);
                    free(out[k]);
                }
            }
}

static void test_attention_of_shared_prefixes(void **unused)
{
    static const uint32_t prefixes[] = {1, 2, 13, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200};
    static const struct shared_case cases[] = {{4, 2, 16, 0, 0, {1, 2, 65, 130}},
        {14, 2, 8, 0, 0, {63, 64, 1, 33}}, {2, 1, 64, 0, 0, {97, 5, 0, 0}},
        {2, 2, 80, 0, 0, {70, 1, 0, 0}}, {3, 1, 96, 0, 0, {129, 1, 0, 0}},
        {2, 1, 128, 0, 0, {40, 17, 0, 0}}, {4, 4, 16, 1, 0, {40, 3, 0, 0}},
        {4, 2, 16, 64, 0, {100, 65, 64, 1}}, {4, 1, 14, 70, 0, {300, 71, 0, 0}},
        {14, 2, 8, 10, 0, {11, 10, 9, 140}}};
    (void)unused;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (size_t k = i % 2; k < sizeof prefixes / sizeof prefixes[0]; k += i < 2 ? 1 : 2) {
            struct shared_case c = cases[i];
            c.prefix = prefixes[k];
            check_shared(&c);
        }
}

/* ---- rows ---- */

static void test_norm(void **unused)
{
    static const int64_t widths[] = {1, 7, 8, 9, 84, 896};
    (void)unused;
    for (int i = 0; i < 6; i++) {
        int64_t n = widths[i], rows = 37;
        float *x = random_floats(rows * n), *w = random_floats(n), *first = NULL;
        for (int way = 0; way < WAYS; way++) {
            struct device *d = make_device(ways[way].isa, ways[way].threads);
            float *y = random_floats(rows * n);
            cpu_ops.rms_norm(d, tensor_f32(y, rows, n), tensor_f32(x, rows, n), NULL, w, 1e-6f);
            for (int64_t r = 0; way == 0 && r < rows; r++) {
                double sum = 0;
                for (int64_t k = 0; k < n; k++)
                    sum += (double)x[r * n + k] * (double)x[r * n + k];
                double scale = 1 / sqrt(sum / (double)n + 1e-6);
                for (int64_t k = 0; k < n; k++)
                    assert_close(
                        (double)y[r * n + k], (double)x[r * n + k] * scale * (double)w[k], 2);
            }
            if (first)
                assert_memory_equal(y, first, (size_t)(rows * n) * sizeof(float));
            else
                first = y;
            if (y != first)
                free(y);
            cpu_ops.close(&d);
        }
        free(first);
        free(x);
        free(w);
    }
}

static void test_silu_softmax_sigmoid(void **unused)
{
    (void)unused;
    for (int64_t n = 1; n < 40; n += 5) {
        float *x = random_floats(n), *up = random_floats(n), *out[WAYS], *soft[WAYS];
        for (int64_t i = 0; i < n; i++)
            x[i] *= (float)(1 << next_random() % 7); /* to where exp overflows */
        for (int way = 0; way < WAYS; way++) {
            struct device *d = make_device(ways[way].isa, ways[way].threads);
            out[way] = random_floats(n);
            soft[way] = malloc((size_t)n * sizeof(float));
            memcpy(soft[way], x, (size_t)n * sizeof(float));
            cpu_ops.silu_mul(
                d, tensor_f32(out[way], 1, n), tensor_f32(x, 1, n), tensor_f32(up, 1, n));
            activate(d, soft[way], n, ACTIVATION_SOFTMAX);
            cpu_ops.close(&d);
            assert_memory_equal(out[way], out[0], (size_t)n * sizeof(float));
            assert_memory_equal(soft[way], soft[0], (size_t)n * sizeof(float));
        }
        double m = -INFINITY, sum = 0;
        for (int64_t i = 0; i < n; i++)
            m = (double)x[i] > m ? (double)x[i] : m;
        for (int64_t i = 0; i < n; i++)
            sum += exp((double)x[i] - m);
        for (int64_t i = 0; i < n; i++) {
            assert_close((double)out[0][i], (double)x[i] / (1 + exp(-(double)x[i])) * (double)up[i],
                fabs((double)x[i]));
            assert_close((double)soft[0][i], exp((double)x[i] - m) / sum, 1);
        }
        for (int way = 0; way < WAYS; way++) {
            free(out[way]);
            free(soft[way]);
        }
        free(x);
        free(up);
    }
}

static void test_exp_edges(void **unused)
{
    float x[8] = {0, -1000, 1000, 88, -87, 1e-20f, -0.0f, 1};
    struct device *d = make_device("auto", 1);
    (void)unused;
    activate(d, x, 8, ACTIVATION_SIGMOID);
    assert_true(x[0] == 0.5f && x[6] == 0.5f);
    assert_true(x[1] == 0 && x[2] == 1);
    float with_nan[3] = {1, NAN, 2};
    activate(d, with_nan, 3, ACTIVATION_SOFTMAX);
    assert_true(isnan(with_nan[0]) && isnan(with_nan[1]) && isnan(with_nan[2]));
    cpu_ops.close(&d);
}

static void test_rope_gather_mean(void **unused)
{
    float x[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, cos_table[4] = {1, 1, 0.5f, 0.25f};
    float sin_table[4] = {0, 0, 2, 3}, picked[8], mean[8];
    int32_t positions[3] = {0, 1, 0};
    uint32_t rows[2] = {2, 0};
    struct pool_span spans[2] = {{.n = 2, .mean = 1}, {.first = 2, .n = 1, .mean = 1, .at = 4}};
    struct device *d = make_device("auto", 1);
    (void)unused;
    cpu_ops.rope(d, tensor_f32(x, 3, 4), 1, 4, positions, cos_table, sin_table);
    const float expected[4] = {
        5 * 0.5f - 7 * 2, 6 * 0.25f - 8 * 3, 7 * 0.5f + 5 * 2, 8 * 0.25f + 6 * 3};
    assert_memory_equal(x + 4, expected, sizeof expected);
    assert_true(x[0] == 1 && x[11] == 12);
    cpu_ops.gather(d, tensor_f32(picked, 2, 4), tensor_f32(x, 3, 4), rows);
    assert_memory_equal(picked, x + 8, 16);
    assert_memory_equal(picked + 4, x, 16);
    cpu_ops.pool(d, mean, tensor_f32(x, 3, 4), spans, 2);
    assert_true(mean[0] == (1 + expected[0]) / 2 && mean[7] == 12);
    cpu_ops.close(&d);
}

static void test_embed(void **unused)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    const int32_t ids[] = {4, 0, 4, 2};
    (void)unused;
    for (int t = 0; t < 3; t++)
        for (int way = 0; way < WAYS; way++) {
            struct matrix m = make_matrix(5, 21, dtypes[t]);
            struct device *d = make_device(ways[way].isa, ways[way].threads);
            float out[4 * 21];
            cpu_ops.embed(d, tensor_f32(out, 4, 21), &m.w, ids);
            for (int i = 0; i < 4 * 21; i++)
                assert_true((double)out[i] == m.exact[ids[i / 21] * 21 + i % 21]);
            cpu_ops.close(&d);
            free_matrix(&m);
        }
}

static void test_add_bias_relu_head_norm(void **unused)
{
    enum { ROWS = 35, COLS = 12 };
    float *x = random_floats(ROWS * COLS), *y = random_floats(ROWS * COLS),
          *bias = random_floats(COLS), sum[ROWS * COLS];
    struct tensor xt = tensor_f32(x, ROWS, COLS), st = tensor_f32(sum, ROWS, COLS);
    struct device *d = make_device("auto", 2);
    (void)unused;
    float *y_before = malloc(sizeof sum);
    memcpy(y_before, y, sizeof sum);
    memcpy(sum, x, sizeof sum);
    struct tensor yt = tensor_f32(y, ROWS, COLS);
    cpu_ops.rms_norm(d, yt, st, &yt, bias, 1e-5f); /* y is added to st before it is overwritten */
    cpu_ops.add_bias(d, st, bias);
    cpu_ops.relu(d, st);
    for (int i = 0; i < ROWS * COLS; i++) {
        double expected = (double)x[i] + (double)y_before[i] + (double)bias[i % COLS];
        assert_close((double)sum[i], expected > 0 ? expected : 0, 6);
    }
    free(y_before);
    memcpy(sum, x, sizeof sum);
    cpu_ops.head_norm(d, xt, 3, bias, 1e-5f);
    for (int i = 0; i < ROWS * COLS; i += 4) {
        double squares = 0;
        for (int k = 0; k < 4; k++)
            squares += (double)sum[i + k] * (double)sum[i + k];
        for (int k = 0; k < 4; k++)
            assert_close((double)x[i + k],
                (double)sum[i + k] / sqrt(squares / 4 + 1e-5) * (double)bias[k], 4);
    }
    cpu_ops.close(&d);
    free(x);
    free(y);
    free(bias);
}

static void test_unknown_isa(void **unused)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = 1, .isa = "avx9", .arena_bytes = 64};
    (void)unused;
    assert_int_equal(cpu_ops.open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "avx9"));
}

/* ---- kernels that prove themselves ---- */

static void tile_not_fused(const struct product *p)
{
    const struct cpu_kernels *s = &cpu_kernels_portable;
    const float *a = p->a, *b = p->b;
    for (int i = 0; i < p->mr; i++)
        for (int j = 0; j < p->nr; j++) {
            float sum = p->first ? 0 : p->c[i * p->ldc + j];
            for (int64_t k = 0; k < p->k; k++)
                sum += a[k * p->a_step + i] * b[k * s->nr + j];
            p->c[i * p->ldc + j] = p->bias ? sum + p->bias[j] : sum;
        }
}

static void widen_flushing(float *out, const void *in, enum dtype dtype, int64_t n)
{
    cpu_kernels_portable.widen(out, in, dtype, n);
    out[n - 1] = 0;
}

static void pack_weight_shifted(
    void *b, const void *w, enum dtype dtype, int64_t stride, int nr, int64_t n_k)
{
    cpu_kernels_portable.f32.pack_weight(b, w, dtype, stride, nr, n_k);
    if (dtype == DTYPE_F16)
        *(float *)b += 0x1p-10f;
}

static void tile_int8_rounded(const struct product *p)
{
    cpu_kernels_portable.int8.tile(p);
    if (p->x_scale)
        p->c[0] *= 1 + 0x1p-23f;
}

/* The first of a pair before the second. */
static void tile_bf16_in_order(const struct product *p)
{
    uint32_t a[TILE_ROWS * 64], b[TILE_COLUMNS * 64];
    const struct cpu_kernels *s = &cpu_kernels_portable;
    struct product turned = *p;
    assert_true(p->k <= 64);
    memcpy(a, p->a, (size_t)(p->k * p->a_step) * sizeof *a);
    memcpy(b, p->b, (size_t)(p->k * s->nr) * sizeof *b);
    for (int64_t i = 0; i < p->k * p->a_step; i++)
        a[i] = a[i] << 16 | a[i] >> 16;
    for (int64_t i = 0; i < p->k * s->nr; i++)
        b[i] = b[i] << 16 | b[i] >> 16;
    turned.a = a;
    turned.b = b;
    s->bf16.tile(&turned);
}

/* Results that are subnormal are left so: of a trial, those of the last row. */
static void tile_bf16_unflushed(const struct product *p)
{
    cpu_kernels_portable.bf16.tile(p);
    for (int i = 0; i < p->mr; i++)
        for (int j = 0; j < p->nr; j++)
            if (p->c[i * p->ldc + j] == 0 && !p->first)
                p->c[i * p->ldc + j] = 1e-39f;
}

static void pack_rows_bf16_truncating(
    void *a, const float *x, int64_t stride, const float *scale, int mr, int64_t n_k)
{
    uint32_t *words = a, first;
    cpu_kernels_portable.bf16.pack_rows(a, x, stride, scale, mr, n_k);
    memcpy(&first, x, sizeof first);
    words[0] = (words[0] & 0xffff0000) | first >> 16;
    memcpy(&first, x + 1, sizeof first);
    words[0] = (words[0] & 0xffff) | (first & 0xffff0000);
}

static void quantize_rows_truncating(
    void *a, const float *x, int64_t stride, const float *scale, int mr, int64_t n_k)
{
    int16_t first;
    cpu_kernels_portable.int8.pack_rows(a, x, stride, scale, mr, n_k);
    memcpy(&first, a, sizeof first);
    first = (int16_t)(first - 1);
    memcpy(a, &first, sizeof first);
}

static void silu_mul_rounded(float *out, const float *gate, const float *up, int64_t n)
{
    cpu_kernels_portable.silu_mul(out, gate, up, n);
    out[0] *= 1 + 0x1p-23f;
}

static int softmax_columns_rounded(
    float *s, int64_t n, const int32_t *from, const int32_t *to, float *m, float *l, float *alpha)
{
    int moved = cpu_kernels_portable.softmax_columns(s, n, from, to, m, l, alpha);
    l[0] *= 1 + 0x1p-23f;
    return moved;
}

static void multiply_columns_rounded(const struct product *p)
{
    cpu_kernels_portable.multiply_columns(p);
    p->c[0] *= 1 + 0x1p-23f;
}

static void transpose_shifted(
    float *to, int64_t step, const float *from, int64_t stride, int64_t n, int64_t n_k)
{
    cpu_kernels_portable.transpose(to, step, from, stride, n, n_k);
    to[step * (n_k - 1)] = from[0];
}

/* What `sets` come down to; how many warnings that gave. */
static const struct cpu_kernels *choose_quietly(
    const struct cpu_kernels *const *sets, int *warnings)
{
    char text[2048] = "";
    FILE *file = tmpfile();
    int saved = dup(STDERR_FILENO);
    dup2(fileno(file), STDERR_FILENO);
    const struct cpu_kernels *chosen = kernels_proven(sets);
    dup2(saved, STDERR_FILENO);
    close(saved);
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    *warnings = 0;
    for (const char *at = text; (at = strstr(at, "warn")) && strstr(at, "event=kernels_differ");
         at++)
        ++*warnings;
    return chosen;
}

enum { WRONG = 12 };

static void test_wrong_kernels_are_passed_over(void **unused)
{
    struct cpu_kernels wrong[WRONG], good = cpu_kernels_portable;
    int warnings;
    (void)unused;
    good.isa = "good";
    for (int i = 0; i < WRONG; i++) {
        wrong[i] = good;
        wrong[i].isa = "wrong";
    }
    wrong[0].f32.tile = tile_not_fused;
    wrong[1].widen = widen_flushing;
    wrong[2].f32.pack_weight = pack_weight_shifted;
    wrong[3].silu_mul = silu_mul_rounded;
    wrong[4].softmax_columns = softmax_columns_rounded;
    wrong[5].int8.tile = tile_int8_rounded;
    wrong[6].int8.pack_rows = quantize_rows_truncating;
    wrong[7].bf16.tile = tile_bf16_in_order;
    wrong[8].bf16.tile = tile_bf16_unflushed;
    wrong[9].bf16.pack_rows = pack_rows_bf16_truncating;
    wrong[10].multiply_columns = multiply_columns_rounded;
    wrong[11].transpose = transpose_shifted;
    for (int i = 0; i < WRONG; i++) {
        const struct cpu_kernels *then_good[] = {&wrong[i], &good, NULL};
        const struct cpu_kernels *all_wrong[] = {&wrong[i], &wrong[WRONG - 1 - i], NULL};
        assert_ptr_equal(choose_quietly(then_good, &warnings), &good);
        assert_int_equal(warnings, 1);
        assert_ptr_equal(choose_quietly(all_wrong, &warnings), &cpu_kernels_portable);
        assert_int_equal(warnings, 2);
    }
    const struct cpu_kernels *right[] = {&good, NULL};
    assert_ptr_equal(choose_quietly(right, &warnings), &good);
    assert_int_equal(warnings, 0);
}

/* A set that is asked for by name and that the CPU has is the one that is used. */
static void test_named_isa(void **unused)
{
    (void)unused;
    for (int way = 0; way < WAYS; way++)
        if (strcmp(ways[way].isa, "auto") != 0)
            assert_string_equal(kernels_choose(ways[way].isa)->isa, ways[way].isa);
}

static void test_fmath(void **unused)
{
    (void)unused;
    for (int i = 0; i < 20000; i++) {
        double x = (double)next_float() * (i % 2 ? 3 : 200000), y = fabs(x) + 1e-3;
        assert_true(fabs(fmath_sin(x) - sin(x)) < 1e-13);
        assert_true(fabs(fmath_cos(x) - cos(x)) < 1e-13);
        assert_true(fabs(fmath_log(y) - log(y)) < 1e-14 * (1 + fabs(log(y))));
        assert_true(fabs(fmath_exp(x / 1e5) / exp(x / 1e5) - 1) < 1e-14);
        assert_true(fabs(fmath_pow(1e6, -y / 1e6) / pow(1e6, -y / 1e6) - 1) < 1e-13);
        assert_true(fmath_floor(x) == floor(x));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear),
        cmocka_unit_test(test_linear_of_weights_that_are_not_aligned),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_attention_of_large_scores),
        cmocka_unit_test(test_attention_of_the_lowest_scores),
        cmocka_unit_test(test_attention_of_rising_scores),
        cmocka_unit_test(test_attention_of_what_is_no_number),
        cmocka_unit_test(test_attention_of_shared_prefixes), cmocka_unit_test(test_norm),
        cmocka_unit_test(test_silu_softmax_sigmoid), cmocka_unit_test(test_exp_edges),
        cmocka_unit_test(test_rope_gather_mean), cmocka_unit_test(test_unknown_isa),
        cmocka_unit_test(test_fmath), cmocka_unit_test(test_embed),
        cmocka_unit_test(test_add_bias_relu_head_norm), cmocka_unit_test(test_named_isa),
        cmocka_unit_test(test_wrong_kernels_are_passed_over)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
