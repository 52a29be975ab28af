/* test_ops.c - the CPU's operations: each against a plain loop in double precision, and each bit
 * for bit against itself: alone or among other rows, on 1, 2 or 3 threads, with each set of kernels
 * that this CPU has (one that it lacks is skipped, and said so). */
#include "tests/unit/ops_fixture.h"

static void check_linear(int64_t rows, int64_t in, int64_t out, enum dtype dtype)
{
    struct matrix a = make_matrix(out, in, dtype), b = make_matrix(3, in, dtype);
    struct weight parts[] = {a.w, b.w};
    float *x = random_floats(rows * in), *bias = random_floats(out + 3), *y[MOST_WAYS] = {0};
    struct tensor xt = tensor_f32(x, rows, in);
    for (int way = 0; way < n_ways; way++) {
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
        cpu_ops.device->close(&d);
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
    for (int way = 0; way < n_ways; way++)
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
        for (int way = 0; way < n_ways; way++) {
            struct device *d = make_device(ways[way].isa, ways[way].threads);
            struct tensor xt = tensor_f32(x, ROWS, IN);
            cpu_ops.linear(d, tensor_f32(expected, ROWS, OUT), xt, &m.w, 1, NULL);
            cpu_ops.linear(d, tensor_f32(y, ROWS, OUT), xt, &w, 1, NULL);
            assert_memory_equal(y, expected, sizeof y);
            cpu_ops.device->close(&d);
        }
        free_matrix(&m);
    }
    free(x);
}

/* ---- rows ---- */

static void test_norm(void **unused)
{
    static const int64_t widths[] = {1, 7, 8, 9, 84, 896};
    (void)unused;
    for (int i = 0; i < 6; i++) {
        int64_t n = widths[i], rows = 37;
        float *x = random_floats(rows * n), *w = random_floats(n), *first = NULL;
        for (int way = 0; way < n_ways; way++) {
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
            cpu_ops.device->close(&d);
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
        float *x = random_floats(n), *up = random_floats(n), *out[MOST_WAYS] = {0},
              *soft[MOST_WAYS] = {0};
        for (int64_t i = 0; i < n; i++)
            x[i] *= (float)(1 << next_random() % 7); /* to where exp overflows */
        for (int way = 0; way < n_ways; way++) {
            struct device *d = make_device(ways[way].isa, ways[way].threads);
            out[way] = random_floats(n);
            soft[way] = malloc((size_t)n * sizeof(float));
            memcpy(soft[way], x, (size_t)n * sizeof(float));
            cpu_ops.silu_mul(
                d, tensor_f32(out[way], 1, n), tensor_f32(x, 1, n), tensor_f32(up, 1, n));
            activate(d, soft[way], n, ACTIVATION_SOFTMAX);
            cpu_ops.device->close(&d);
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
        for (int way = 0; way < n_ways; way++) {
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
    cpu_ops.device->close(&d);
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
    struct rope_tables tables = {4, cos_table, sin_table};
    cpu_ops.rope(d, tensor_f32(x, 3, 4), 1, &tables, positions);
    const float expected[4] = {
        5 * 0.5f - 7 * 2, 6 * 0.25f - 8 * 3, 7 * 0.5f + 5 * 2, 8 * 0.25f + 6 * 3};
    assert_memory_equal(x + 4, expected, sizeof expected);
    assert_true(x[0] == 1 && x[11] == 12);
    cpu_ops.gather(d, tensor_f32(picked, 2, 4), tensor_f32(x, 3, 4), rows);
    assert_memory_equal(picked, x + 8, 16);
    assert_memory_equal(picked + 4, x, 16);
    cpu_ops.pool(d, mean, tensor_f32(x, 3, 4), spans, 2);
    assert_true(mean[0] == (1 + expected[0]) / 2 && mean[7] == 12);
    cpu_ops.device->close(&d);
}

static void test_embed(void **unused)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    const int32_t ids[] = {4, 0, 4, 2};
    (void)unused;
    for (int t = 0; t < 3; t++)
        for (int way = 0; way < n_ways; way++) {
            struct matrix m = make_matrix(5, 21, dtypes[t]);
            struct device *d = make_device(ways[way].isa, ways[way].threads);
            float out[4 * 21];
            cpu_ops.embed(d, tensor_f32(out, 4, 21), &m.w, ids);
            for (int i = 0; i < 4 * 21; i++)
                assert_true((double)out[i] == m.exact[ids[i / 21] * 21 + i % 21]);
            cpu_ops.device->close(&d);
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
    cpu_ops.device->close(&d);
    free(x);
    free(y);
    free(bias);
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
        cmocka_unit_test(test_linear_of_weights_that_are_not_aligned), cmocka_unit_test(test_norm),
        cmocka_unit_test(test_silu_softmax_sigmoid), cmocka_unit_test(test_exp_edges),
        cmocka_unit_test(test_rope_gather_mean), cmocka_unit_test(test_fmath),
        cmocka_unit_test(test_embed), cmocka_unit_test(test_add_bias_relu_head_norm)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
