/* test_bf16.c - --dtype bf16 on the CPU: products bit for bit against a plain chain of fused
 * multiply-adds, at every magnitude, with the same bits from every set of kernels (one that this
 * CPU lacks is skipped, and said so), number of threads and the rest of the batch; what is rounded
 * to bfloat16 and how; what becomes of infinities and NaN; and the test models' scores. Run from
 * the repository root. */
#include "tests/unit/batch_invariance.h"

static struct device *make_device(int way)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {
        .n_threads = ways[way].threads, .isa = ways[way].isa, .arena_bytes = 64};
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), 0);
    return d;
}

/* out [rows, sum of the parts' rows] = x * parts^T + bias, in bfloat16, on a device of its own. */
static void multiply(int way, float *out, const float *x, int64_t rows, const struct weight *parts,
    int n_parts, const float *bias)
{
    struct device *d = make_device(way);
    struct err e = {0};
    struct weight taken[2];
    struct weight_stack stack = {taken, n_parts, DTYPE_BF16};
    int64_t out_cols = 0, in = parts->cols;
    memcpy(taken, parts, (size_t)n_parts * sizeof *parts);
    for (int i = 0; i < n_parts; i++)
        out_cols += parts[i].rows;
    assert_int_equal(cpu_ops.device->prepare_weights(d, &stack, 1, &e), 0);
    assert_ptr_equal(taken->data, parts->data);
    cpu_ops.linear(d, tensor_of(out, DTYPE_F32, rows, out_cols, out_cols),
        tensor_of((void *)x, DTYPE_F32, rows, in, in), taken, n_parts, bias);
    cpu_ops.device->close(&d);
}

/* ---- the chain ---- */

static float of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static float to_bf16(float f)
{
    uint16_t h;
    dtype_convert(&h, DTYPE_BF16, &f, DTYPE_F32, 1);
    return of_bits((uint32_t)h << 16);
}

static float flush(float f)
{
    return fabsf(f) < 0x1p-126f ? copysignf(0, f) : f;
}

/* Fused, subnormal numbers being zeros. What is rounded to the smallest normal number only because
 * there is no bit further down was subnormal. */
static float chain(float a, float b, float sum)
{
    float f = fmaf(flush(a), flush(b), flush(sum));
    long double exact = (long double)flush(a) * flush(b) + flush(sum);
    if (fabsf(f) == 0x1p-126f && fabsl(exact) < 0x1p-126L - 0x1p-151L)
        return copysignf(0, f);
    return flush(f);
}

static float chain_row(const float *x, const float *w, int64_t in, float bias)
{
    float sum = 0;
    for (int64_t k = 0; k < in; k += 2) {
        float x1 = k + 1 < in ? to_bf16(x[k + 1]) : 0, w1 = k + 1 < in ? to_bf16(w[k + 1]) : 0;
        sum = chain(to_bf16(x[k]), to_bf16(w[k]), chain(x1, w1, sum));
    }
    return chain(1, bias, sum);
}

/* Any bits, with exponents of [low, high]. */
static float *random_numbers(int64_t n, uint32_t low, uint32_t high)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] =
            of_bits((next_random() & 0x807fffff) | (low + next_random() % (high - low + 1)) << 23);
    return x;
}

struct exponents {
    uint32_t low, high;
};

static void assert_bits(const float *found, float expected, int64_t in)
{
    if (memcmp(found, &expected, sizeof expected) != 0 && !(isnan(*found) && isnan(expected)))
        fail_msg("in %d: expected %a, found %a", (int)in, (double)expected, (double)*found);
}

static void check_product(
    int64_t rows, int64_t in, int64_t out, struct exponents of_x, struct exponents of_w)
{
    int64_t cols = out + 3;
    float *x = random_numbers(rows * in, of_x.low, of_x.high), *alone = calloc((size_t)cols, 4),
          *w = random_numbers(cols * in, of_w.low, of_w.high), *y[MOST_WAYS] = {0},
          *bias = random_numbers(cols, of_x.low, of_x.high);
    struct weight parts[] = {{w, DTYPE_F32, out, in, in, NULL, DTYPE_F32, NULL},
        {w + out * in, DTYPE_F32, 3, in, in, NULL, DTYPE_F32, NULL}};
    for (int way = 0; way < n_ways; way++) {
        int64_t r = next_random() % rows;
        y[way] = calloc((size_t)(rows * cols), sizeof **y);
        multiply(way, y[way], x, rows, parts, 2, bias);
        multiply(way, alone, x + r * in, 1, parts, 2, bias);
        for (int64_t i = 0; i < rows * cols; i++)
            assert_bits(&y[way][i], y[0][i], in);
        for (int64_t j = 0; j < cols; j++)
            assert_bits(&alone[j], y[0][r * cols + j], in);
    }
    for (int64_t i = 0; i < rows * cols; i += 1 + rows * cols / 500)
        assert_bits(
            &y[0][i], chain_row(x + i / cols * in, w + i % cols * in, in, bias[i % cols]), in);
    for (int way = 0; way < n_ways; way++)
        free(y[way]);
    free(alone);
    free(bias);
    free(x);
    free(w);
}

static const struct exponents ordinary = {120, 129};

static void test_products(void **unused)
{
    static const int64_t rows[] = {1, 2, 5, 6, 7, 13, 97, 193},
                         ins[] = {1, 2, 7, 15, 16, 17, 84, 255, 257, 513},
                         outs[] = {1, 8, 15, 16, 17, 31, 33, 95, 200};
    (void)unused;
    for (int i = 0; i < 40; i++)
        check_product(rows[i % 8], ins[i % 10], outs[i * 7 % 9], ordinary, ordinary);
    check_product(1537, 7, 65, ordinary, ordinary);  /* more rows than a chunk */
    check_product(25, 2049, 65, ordinary, ordinary); /* two, three and five pieces of K */
    check_product(13, 4999, 33, ordinary, ordinary);
    check_product(3, 9001, 17, ordinary, ordinary);
}

static void test_every_magnitude(void **unused)
{
    static const struct exponents tiny = {50, 69}, little = {60, 84}, none = {0, 3}, any = {0, 254},
                                  even_more = {0, 255};
    (void)unused;
    for (int i = 0; i < 6; i++) {
        check_product(13, 1 + i * 5, 37, tiny, little);
        check_product(13, 16 + i, 37, none, ordinary);
        check_product(13, 16 + i, 37, ordinary, none);
        check_product(13, 1 + i * 3, 37, any, any);
        check_product(13, 1 + i, 37, even_more, even_more);
    }
}

/* Sums a part of the last place below the smallest number that is not subnormal: those of half a
 * place and less are rounded to it, the others are zero; of either sign. */
static void test_where_flushing_begins(void **unused)
{
    enum { COLUMNS = 256 };
    float x[2] = {0x1p-75f, 0x1p-63f}, w[COLUMNS][2], y[COLUMNS];
    int zeros = 0;
    (void)unused;
    for (int j = 0; j < COLUMNS; j++) {
        float sign = j % 2 ? -1 : 1;
        w[j][0] = -sign * 0x1p-76f * (1 + (float)(j / 2 - 64) / 128);
        w[j][1] = sign * 0x1p-63f;
    }
    for (int way = 0; way < n_ways; way++) {
        multiply(way, y, x, 1, &(struct weight){w, DTYPE_F32, COLUMNS, 2, 2, NULL, DTYPE_F32, NULL},
            1, NULL);
        for (int j = 0; j < COLUMNS; j++) {
            float exact = fmaf(x[0], w[j][0], x[1] * w[j][1]);
            float expected = chain(x[0], w[j][0], x[1] * w[j][1]);
            assert_true(fabsf(exact) == 0x1p-126f);
            assert_bits(&y[j], expected, 2);
            zeros += expected == 0;
        }
    }
    assert_int_equal(zeros, n_ways * 2 * 63);
}

/* ---- what is rounded ---- */

/* The same bits where rows, and weights of any type, were rounded beforehand; weights that are not
 * aligned. */
static void test_rounding(void **unused)
{
    enum { ROWS = 3, IN = 101, OUT = 19 };
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16, DTYPE_F32};
    float *x = random_numbers(ROWS * IN, 120, 129), *w = random_numbers(OUT * IN, 110, 129),
          y[ROWS * OUT], expected[ROWS * OUT];
    (void)unused;
    for (int t = 0; t < 3; t++) {
        char stored[OUT * IN * 4 + 1], rounded[OUT * IN * 2];
        float wide[OUT * IN], x_rounded[ROWS * IN];
        dtype_convert(wide, types[t], w, DTYPE_F32, OUT * IN);
        memcpy(stored + 1, wide, (size_t)(OUT * IN * dtype_bytes(types[t])));
        char *aligned = malloc(sizeof stored);
        memcpy(aligned, stored + 1, sizeof stored - 1);
        dtype_convert(wide, DTYPE_F32, aligned, types[t], OUT * IN);
        dtype_convert(rounded, DTYPE_BF16, wide, DTYPE_F32, OUT * IN);
        for (int i = 0; i < ROWS * IN; i++)
            x_rounded[i] = to_bf16(x[i]);
        struct weight as_stored = {stored + 1, types[t], OUT, IN, IN, NULL, DTYPE_F32, NULL},
                      as_rounded = {rounded, DTYPE_BF16, OUT, IN, IN, NULL, DTYPE_F32, NULL};
        multiply(0, expected, x_rounded, ROWS, &as_rounded, 1, NULL);
        for (int way = 0; way < n_ways; way++) {
            multiply(way, y, x, ROWS, &as_stored, 1, NULL);
            assert_memory_equal(y, expected, sizeof y);
        }
        free(aligned);
    }
    free(x);
    free(w);
}

/* Rows of x that hold an infinity, NaN (of whose bits rounding would leave infinity's), and what is
 * too large: each is what float32 makes of it, and none is any other's business. */
static void test_odd_numbers(void **unused)
{
    enum { ROWS = 7, IN = 37, OUT = 18 };
    const float values[ROWS] = {0, 1, INFINITY, -INFINITY, NAN, of_bits(0x7f800001), 3.4e38f};
    float x[ROWS * IN], w[OUT * IN], y[ROWS * OUT];
    (void)unused;
    for (int i = 0; i < ROWS * IN; i++)
        x[i] = i % IN == 36 ? values[i / IN] : 1;
    for (int j = 0; j < OUT; j++)
        for (int k = 0; k < IN; k++)
            w[j * IN + k] = j == 1             ? 0
                            : j == 3 && k == 7 ? NAN
                            : j == 4 && k == 8 ? INFINITY
                            : j == 5 && k == 9 ? of_bits(0xff800001)
                                               : -0.5f;
    for (int way = 0; way < n_ways; way++) {
        multiply(way, y, x, ROWS,
            &(struct weight){w, DTYPE_F32, OUT, IN, IN, NULL, DTYPE_F32, NULL}, 1, NULL);
        for (int i = 0; i < ROWS * OUT; i++) {
            const float *a = x + i / OUT * IN, *b = w + i % OUT * IN;
            float sum = 0;
            for (int k = 0; k < IN; k++)
                sum = fmaf(to_bf16(a[k]), to_bf16(b[k]), sum);
            assert_bits(&y[i], sum, IN);
        }
    }
}

/* The thread computes as before, afterwards. */
static void test_subnormal_numbers_are_flushed_in_products_alone(void **unused)
{
    volatile float tiny = 0x1p-126f;
    float x[2] = {1, 1}, w[2] = {1, 1}, y;
    (void)unused;
    for (int way = 0; way < n_ways; way++) {
        multiply(
            way, &y, x, 1, &(struct weight){w, DTYPE_F32, 1, 2, 2, NULL, DTYPE_F32, NULL}, 1, NULL);
        assert_true(y == 2);
        assert_true(tiny / 2 > 0);
    }
}

/* ---- models ---- */

static void score_as(const struct vector *v, const char *type, int way, float *values)
{
    struct scorer s;
    dtype = type;
    scorer_open(&s, &cpu_ops, v->model, ways[way].isa, ways[way].threads);
    score_all(&s, v, values);
    scorer_close(&s);
    dtype = "auto";
}

/* Squared distances from the float32 truth, of bf16 checkpoints: of what is found, and of what the
 * reference gives in bfloat16. */
static double all_ours, all_theirs;

static int is_stored_as_bf16(const struct vector *v)
{
    struct weights *w = NULL;
    struct err e = {0};
    char dir[512];
    snprintf(dir, sizeof dir, "tests/models/%s", v->model);
    die_on(weights_open(&w, dir, &e), &e);
    int found = weights_dtype(w) == DTYPE_BF16;
    weights_close(&w);
    return found;
}

static void add_errors(const struct vector *v, const float *values)
{
    for (uint32_t r = 0; r < v->n_rows; r++)
        for (uint32_t i = 0; i < v->rows[r].stage.n_values; i++, values++) {
            double truth = (double)v->rows[r].expected[i];
            assert_non_null(v->rows[r].native);
            all_ours += pow((double)*values - truth, 2);
            all_theirs += pow((double)v->rows[r].native[i] - truth, 2);
        }
}

/* Largest difference, in units of the vector's own spread. */
static double drift(const struct vector *v, const float *found)
{
    double low = INFINITY, high = -INFINITY, most = 0;
    for (uint32_t r = 0; r < v->n_rows; r++)
        for (uint32_t i = 0; i < v->rows[r].stage.n_values; i++, found++) {
            double truth = (double)v->rows[r].expected[i],
                   difference = fabs((double)*found - truth);
            most = !(difference <= most) ? difference : most;
            low = truth < low ? truth : low;
            high = truth > high ? truth : high;
        }
    return most / (high - low + 1e-3);
}

/* The models have random weights, and their scores are sums that nearly cancel; yet none moves by
 * more than this part of what scores differ by. */
#define MOST_DRIFT 0.08

static void check_scores(const struct vector *v)
{
    static float values[MAX_VALUES], again[MAX_VALUES];
    count_values(v);
    score_as(v, "f32", 1, values);
    check_values(v, values);
    for (int i = 0; i < v->n_tp; i++) {
        if (v->tp[i] == 1) {
            score_as(v, "bf16", 1, values);
        } else {
            dtype = "bf16";
            score_ranks(&cpu_ops, v, (uint32_t)v->tp[i], values);
            score_ranks(&cpu_ops, v, (uint32_t)v->tp[i], again);
            dtype = "auto";
            assert_memory_equal(values, again, count_values(v) * sizeof *values);
        }
        double d = drift(v, values);
        if (!(d > 0 && d <= MOST_DRIFT))
            fail_msg("%s tp %d: drift %g", v->model, v->tp[i], d);
        if (v->tp[i] == 1 && is_stored_as_bf16(v))
            add_errors(v, values);
    }
}

static void test_scores_are_near(void **unused)
{
    (void)unused;
    each_vector_of_kernels(check_scores);
    print_message("bf16 checkpoints: error %.3f of the reference's\n", sqrt(all_ours / all_theirs));
    assert_true(all_theirs > 0 && all_ours <= all_theirs);
}

static void test_rows_are_invariant_of_batch_and_cpu(void **unused)
{
    static const char *const names[] = {
        "seqcls.json", "odd-sizes.json", "reward.json", "bf16.json", "f16.json"};
    (void)unused;
    dtype = "bf16";
    for (int f = 0; f < 5; f++)
        check_batch_invariance(names[f], 2 * n_ways);
    dtype = "auto";
}

static void check_choice(const char *type, const char *method, const char *wanted)
{
    struct model_config c;
    struct quant_config quant = {method};
    struct err e = {0};
    die_on(model_config_load(&c, "tests/models/bf16", "auto", &e), &e);
    assert_int_equal(
        model_choose_type(&c, type, &quant, NULL, &cpu_ops, &e), wanted ? ASSAY_EUNSUPPORTED : 0);
    assert_true(!wanted || strstr(e.msg, wanted));
    if (!wanted)
        assert_int_equal(c.activation_type, strcmp(type, "bf16") ? DTYPE_F32 : DTYPE_BF16);
}

static void test_mode_and_refusals(void **unused)
{
    char mode[MODEL_MODE_BYTES];
    struct scorer s;
    (void)unused;
    dtype = "bf16";
    scorer_open(&s, &cpu_ops, "seqcls", "auto", 1);
    dtype = "auto";
    qwen2_reward_model_mode(&s.model, mode, sizeof mode);
    assert_string_equal(mode, "device=cpu arithmetic=4 dtype=bf16 quant=none tp=1 pp=1");
    scorer_close(&s);
    check_choice("auto", "none", NULL);
    check_choice("f32", "none", NULL);
    check_choice("f32", "int8", NULL);
    check_choice("bf16", "none", NULL);
    check_choice("bf16", "int8", "--dtype bf16 with --quant int8: expected one of them");
    check_choice("f16", "none", "--dtype: expected auto, f32 or bf16, found 'f16'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products),
        cmocka_unit_test(test_every_magnitude), cmocka_unit_test(test_where_flushing_begins),
        cmocka_unit_test(test_rounding), cmocka_unit_test(test_odd_numbers),
        cmocka_unit_test(test_subnormal_numbers_are_flushed_in_products_alone),
        cmocka_unit_test(test_scores_are_near),
        cmocka_unit_test(test_rows_are_invariant_of_batch_and_cpu),
        cmocka_unit_test(test_mode_and_refusals)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
