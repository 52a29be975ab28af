/* test_int8.c - --quant int8 on the CPU: products against plain sums of integers, at shapes with
 * remainders and at magnitudes where an int32 that is not drained would overflow, with the same
 * bits from every set of kernels (one that this CPU lacks is skipped, and said so), number of
 * threads and the rest of the batch; what becomes of zeros, tiny numbers, infinities and NaN; and
 * the test models' scores, near those of float32. Run from the repository root. */
#include "tests/unit/batch_invariance.h"

static int64_t between(int64_t low, int64_t high)
{
    return low + next_random() % (high - low + 1);
}

static struct device *make_device(int way)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {
        .n_threads = ways[way].threads, .isa = ways[way].isa, .arena_bytes = 64, .quant = DTYPE_I8};
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), 0);
    return d;
}

/* out [rows, sum of the parts' rows] = x * parts^T + bias, quantized on a device of its own. */
static void multiply(int way, float *out, const float *x, int64_t rows, const struct weight *parts,
    int n_parts, const float *bias)
{
    struct device *d = make_device(way);
    struct err e = {0};
    struct weight taken[2];
    struct weight_stack stack = {taken, n_parts, DTYPE_I8};
    int64_t out_cols = 0, in = parts->cols;
    memcpy(taken, parts, (size_t)n_parts * sizeof *parts);
    for (int i = 0; i < n_parts; i++)
        out_cols += parts[i].rows;
    assert_int_equal(cpu_ops.device->prepare_weights(d, &stack, 1, &e), 0);
    cpu_ops.linear(d, tensor_of(out, DTYPE_F32, rows, out_cols, out_cols),
        tensor_of((void *)x, DTYPE_F32, rows, in, in), taken, n_parts, bias);
    cpu_ops.device->close(&d);
}

/* Rows of integers, of which the first is the largest, times a power of two: what quantization
 * makes of them is themselves. */
static float *whole_numbers(int64_t rows, int64_t cols, int largest, float unit)
{
    float *x = malloc((size_t)(rows * cols) * sizeof *x);
    for (int64_t i = 0; i < rows * cols; i++)
        x[i] = (float)(i % cols == 0 ? largest : between(-largest, largest)) * unit;
    return x;
}

static void assert_product(const float *y, const float *x, const float *w, int64_t in, float bias)
{
    double sum = (double)bias, magnitude = 0;
    for (int64_t k = 0; k < in; k++) {
        sum += (double)x[k] * (double)w[k];
        magnitude += fabs((double)x[k] * (double)w[k]);
    }
    if (!(fabs((double)*y - sum) <= 1e-6 * magnitude))
        fail_msg(
            "in %d: expected %.9g, found %.9g (magnitude %g)", (int)in, sum, (double)*y, magnitude);
}

static void check_product(int64_t rows, int64_t in, int64_t out)
{
    int64_t cols = out + 3;
    float *x = whole_numbers(rows, in, INT8_ROW_LEVELS, 0x1p-9f), *alone = calloc((size_t)cols, 4),
          *w = whole_numbers(cols, in, INT8_WEIGHT_LEVELS, 0x1p-5f), *y[MOST_WAYS] = {0}, *bias = w;
    struct weight parts[] = {{w, DTYPE_F32, out, in, in, NULL, DTYPE_F32, NULL},
        {w + out * in, DTYPE_F32, 3, in, in, NULL, DTYPE_F32, NULL}};
    bias = whole_numbers(1, cols, 9, 1);
    for (int way = 0; way < n_ways; way++) {
        int64_t r = next_random() % rows;
        y[way] = calloc((size_t)(rows * cols), sizeof **y);
        multiply(way, y[way], x, rows, parts, 2, bias);
        assert_memory_equal(y[way], y[0], (size_t)(rows * cols) * sizeof **y);
        multiply(way, alone, x + r * in, 1, parts, 2, bias);
        assert_memory_equal(alone, y[0] + r * cols, (size_t)cols * sizeof *alone);
    }
    for (int64_t i = 0; i < rows * cols; i++)
        assert_product(&y[0][i], x + i / cols * in, w + i % cols * in, in, bias[i % cols]);
    for (int way = 0; way < n_ways; way++)
        free(y[way]);
    free(alone);
    free(bias);
    free(x);
    free(w);
}

static void test_products(void **unused)
{
    static const int64_t rows[] = {1, 2, 5, 6, 7, 13, 97, 193},
                         ins[] = {1, 2, 7, 15, 16, 17, 84, 255, 257, 513},
                         outs[] = {1, 8, 15, 16, 17, 31, 33, 95, 200};
    (void)unused;
    for (int i = 0; i < 40; i++)
        check_product(rows[i % 8], ins[i % 10], outs[i * 7 % 9]);
    check_product(1537, 7, 65);  /* more rows than a chunk */
    check_product(25, 2049, 65); /* two, three and five pieces of K */
    check_product(13, 4999, 33);
    check_product(3, 9001, 17);
}

/* Every integer as large as can be, of one sign: a sum of 8260 such products is all that an int32
 * holds. */
static void test_largest_magnitudes(void **unused)
{
    static const int64_t ins[] = {4096, 8260, 8261, 9000, 18944, 29568};
    (void)unused;
    for (int i = 0; i < 6; i++) {
        float *x = malloc((size_t)ins[i] * 4), y[MOST_WAYS][18];
        struct weight w = {x, DTYPE_F32, 1, ins[i], 0, NULL, DTYPE_F32, NULL};
        for (int64_t k = 0; k < ins[i]; k++)
            x[k] = 3;
        for (int way = 0; way < n_ways; way++) {
            multiply(way, y[way], x, 1, &w, 1, NULL);
            assert_true(fabs((double)y[way][0] / (9 * (double)ins[i]) - 1) < 1e-6);
            w.rows = 17; /* the same row 17 times */
            multiply(way, y[way], x, 1, &w, 1, NULL);
            assert_memory_equal(y[way], y[0], 17 * sizeof(float));
            w.rows = 1;
        }
        free(x);
    }
}

/* Values between the steps: the error is half a step of each side at most, and what is stored as a
 * half is quantized as its value is. */
static void test_rounding(void **unused)
{
    enum { IN = 100, OUT = 19 };
    float x[IN], w[OUT * IN], y[OUT], of_half[OUT], of_wide[OUT];
    uint16_t half[OUT * IN];
    (void)unused;
    for (int i = 0; i < IN; i++)
        x[i] = (float)between(-1000000, 1000000) * 1e-6f;
    for (int i = 0; i < OUT * IN; i++)
        w[i] = (float)between(-1000000, 1000000) * 1e-6f;
    multiply(
        1, y, x, 1, &(struct weight){w, DTYPE_F32, OUT, IN, IN, NULL, DTYPE_F32, NULL}, 1, NULL);
    for (int j = 0; j < OUT; j++) {
        double sum = 0, bound = 0;
        for (int k = 0; k < IN; k++) {
            sum += (double)x[k] * (double)w[j * IN + k];
            bound += 0.5 / 127 * fabs((double)x[k]) + 0.5 / 2047 * fabs((double)w[j * IN + k]);
        }
        assert_true(fabs((double)y[j] - sum) <= bound && fabs((double)y[j] - sum) < 0.1);
    }
    static const enum dtype halves[] = {DTYPE_F16, DTYPE_BF16};
    for (int t = 0; t < 2; t++) {
        dtype_convert(half, halves[t], w, DTYPE_F32, OUT * IN);
        dtype_convert(w, DTYPE_F32, half, halves[t], OUT * IN);
        multiply(1, of_half, x, 1,
            &(struct weight){half, halves[t], OUT, IN, IN, NULL, DTYPE_F32, NULL}, 1, NULL);
        multiply(1, of_wide, x, 1,
            &(struct weight){w, DTYPE_F32, OUT, IN, IN, NULL, DTYPE_F32, NULL}, 1, NULL);
        assert_memory_equal(of_half, of_wide, sizeof of_half);
    }
}

/* Rows of x: zeros, the least numbers, small and large ones, an infinity, NaN. Each is what it
 * should be, and none is any other's business. */
static void test_odd_numbers(void **unused)
{
    enum { ROWS = 9, IN = 37, OUT = 18 };
    static const float values[ROWS] = {
        0, 1e-45f, 1e-38f, 1e-20f, 1e30f, 1, INFINITY, -INFINITY, NAN};
    float x[ROWS * IN], w[OUT * IN], y[ROWS * OUT], first[ROWS * OUT];
    (void)unused;
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = i % IN == 5 || values[i / IN] * 0 == 0 ? values[i / IN] : 1;
    for (int j = 0; j < OUT; j++)
        for (int k = 0; k < IN; k++)
            w[j * IN + k] = j == 1             ? 0
                            : j == 2           ? 1e-41f
                            : j == 3 && k == 7 ? NAN
                            : j == 4 && k == 8 ? INFINITY
                                               : 0.5f;
    for (int way = 0; way < n_ways; way++) {
        multiply(way, y, x, ROWS,
            &(struct weight){w, DTYPE_F32, OUT, IN, IN, NULL, DTYPE_F32, NULL}, 1, NULL);
        for (int r = 0; r < ROWS; r++)
            for (int j = 0; j < OUT; j++) {
                double found = (double)y[r * OUT + j], wanted = 0.5 * IN * (double)values[r];
                if (r >= 6 || j == 3 || j == 4)
                    assert_true(isnan(found));
                else if (j == 1 || j == 2)
                    assert_true(fabs(found) <= 1e-10 * (double)values[r]);
                else
                    assert_true(fabs(found - wanted) <= 1e-6 * wanted + 1e-30);
                if (way == 0)
                    first[r * OUT + j] = y[r * OUT + j];
                else if (!isnan(found))
                    assert_memory_equal(&y[r * OUT + j], &first[r * OUT + j], sizeof *y);
            }
    }
}

/* ---- models ---- */

/* A vector's scores held so, by tp ranks. */
static uint32_t score_held(
    const struct vector *v, const char *method, const char *isa, uint32_t tp, float *values)
{
    struct scorer s;
    quant_method = method;
    if (tp > 1) {
        score_ranks(&cpu_ops, v, tp, values);
    } else {
        scorer_open(&s, &cpu_ops, v->model, isa, 2);
        score_all(&s, v, values);
        scorer_close(&s);
    }
    quant_method = "none";
    return count_values(v);
}

/* Largest difference, in units of the vector's own spread. */
static double drift(const float *found, const float *truth, uint32_t n)
{
    double low = INFINITY, high = -INFINITY, most = 0;
    for (uint32_t i = 0; i < n; i++) {
        double difference = fabs((double)found[i] - (double)truth[i]);
        most = !(difference <= most) ? difference : most;
        low = (double)truth[i] < low ? (double)truth[i] : low;
        high = (double)truth[i] > high ? (double)truth[i] : high;
    }
    return most / (high - low + 1e-3);
}

/* The models have random weights, and their scores are sums that nearly cancel; yet none moves by
 * more than this part of what scores differ by. */
#define MOST_DRIFT 0.08

static void check_drift(const struct vector *v)
{
    static float truth[MAX_VALUES], values[MAX_VALUES];
    uint32_t n = score_held(v, "none", "auto", 1, truth);
    check_values(v, truth);
    for (int i = 0; i < v->n_tp; i++) {
        score_held(v, "int8", "auto", (uint32_t)v->tp[i], values);
        double d = drift(values, truth, n);
        if (!(d > 0 && d <= MOST_DRIFT))
            fail_msg("%s tp %d: drift %g", v->model, v->tp[i], d);
    }
}

static void test_scores_are_near(void **unused)
{
    (void)unused;
    each_vector_of_kernels(check_drift);
}

static void test_rows_are_invariant_of_batch_and_cpu(void **unused)
{
    static const char *const names[] = {"seqcls.json", "odd-sizes.json", "reward.json"};
    (void)unused;
    quant_method = "int8";
    for (int f = 0; f < 3; f++)
        check_batch_invariance(names[f], 2 * n_ways);
    quant_method = "none";
}

/* How much of the checkpoint's file this process holds, kB. */
static long resident_file(void)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    char line[512];
    long total = 0, kb;
    int is_file = 0;
    assert_non_null(f);
    while (fgets(line, sizeof line, f)) {
        if (strstr(line, ".safetensors"))
            is_file = 1;
        else if (is_file && sscanf(line, "Rss: %ld kB", &kb) == 1)
            total += kb, is_file = 0;
    }
    fclose(f);
    return total;
}

static void test_the_file_is_let_go(void **unused)
{
    struct scorer s;
    (void)unused;
    quant_method = "int8";
    scorer_open(&s, &cpu_ops, "wide-mlp", "auto", 1);
    quant_method = "none";
    assert_int_equal(resident_file(), 0);
    assert_true(weights_bytes(s.weights) > 1 << 16);
    scorer_close(&s);
}

static void test_mode_and_refusal(void **unused)
{
    char mode[MODEL_MODE_BYTES];
    struct scorer s;
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = 1, .isa = "auto", .arena_bytes = 64, .quant = DTYPE_F8};
    (void)unused;
    quant_method = "int8";
    scorer_open(&s, &cpu_ops, "seqcls", "auto", 1);
    quant_method = "none";
    qwen2_reward_model_mode(&s.model, mode, sizeof mode);
    assert_string_equal(mode, "device=cpu arithmetic=4 dtype=f32 quant=int8 tp=1 pp=1");
    scorer_close(&s);
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
    assert_non_null(strstr(e.msg, "--quant fp8: the CPU does not have it; expected none or int8"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products),
        cmocka_unit_test(test_largest_magnitudes), cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_odd_numbers), cmocka_unit_test(test_scores_are_near),
        cmocka_unit_test(test_rows_are_invariant_of_batch_and_cpu),
        cmocka_unit_test(test_the_file_is_let_go), cmocka_unit_test(test_mode_and_refusal)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
