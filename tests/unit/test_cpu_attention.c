/* test_cpu_attention.c - the CPU's attention against a plain loop in double precision, and bit for
 * bit against itself in every way to compute it (ways.h). */
#include "tests/unit/ops_fixture.h"

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
    struct attention_input in = {
        .q = tensor_f32(q, n, qd), .k = tensor_f32(k, n, kd), .v = tensor_f32(v, n, kd)};
    cpu_ops.attention(d, tensor_f32(out, n, qd), &in, &shape, &meta);
    cpu_ops.device->close(&d);
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
          *out[MOST_WAYS] = {0};
    for (int way = 0; way < n_ways; way++) {
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
    for (int way = 0; way < n_ways; way++)
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
    for (int way = 0; way < n_ways; way++) {
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
    for (int way = 0; way < n_ways; way++)
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
    for (int way = 0; way < n_ways; way++)
        for (int i = 0; i < 3; i++) {
            float q[DIM] = {2.7725887f}, k[DIM] = {keys[i]}, v[DIM], out[DIM]; /* 4 ln 2 */
            for (int j = 0; j < DIM; j++)
                v[j] = (float)j;
            attend(ways[way].isa, ways[way].threads, &c, q, k, v, out, 1, cu);
            assert_memory_equal(out, v, sizeof v);
        }
}

/* Scores that rise, or fall, from key to key by so much that the base of the softmax must follow
 * now and then: in every tile of keys, in some, never. */
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

/* Rows that begin alike: the whole rows, the shared tokens copied into each, against the same
 * tokens once as a row of their own, which the others name. */
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
    struct attention_input in = {.q = tensor_f32(qkv[0], n, qd),
        .k = tensor_f32(qkv[1], n, kd),
        .v = tensor_f32(qkv[2], n, kd)};
    cpu_ops.attention(d, tensor_f32(out, n, qd), &in, &shape, &meta);
    cpu_ops.device->close(&d);
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
    for (int way = 0; way < n_ways; way++) {
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
            for (int i = 0; i < 2 * n_ways; i++) {
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_of_large_scores),
        cmocka_unit_test(test_attention_of_the_lowest_scores),
        cmocka_unit_test(test_attention_of_rising_scores),
        cmocka_unit_test(test_attention_of_what_is_no_number),
        cmocka_unit_test(test_attention_of_shared_prefixes)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
