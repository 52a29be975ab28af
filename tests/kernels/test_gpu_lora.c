/* test_gpu_lora.c - adapters on the GPU's table of operations: PEFT's golden values, on one rank
 * and two, rows of several adapters in one batch with the bits that each has alone, base rows
 * with those that they have without adapters; in bfloat16 and over quantized matrices near the
 * CPU's float32. As test_gpu_model, on doubles or with make gpu-check on a device. */
#include "tests/unit/model_fixture.h"

#include "cuda/gpu.h"
#include "schema/log.h"
#include "tests/kernels/doubles/controls.h"

static const char *const files[] = {"lora/reward.json", "lora/seqcls.json"};

static void test_golden(void **unused)
{
    static float values[MAX_VALUES];
    (void)unused;
    for (int f = 0; f < 2; f++) {
        struct vector v = vector_open(files[f]);
        struct scorer s;
        count_values(&v);
        assert_true(v.n_rows > 10 && n_adapters == 3);
        double_set_seed(7);
        scorer_open(&s, &gpu_ops, v.model, "auto", 1);
        score_all(&s, &v, values);
        scorer_close(&s);
        check_values(&v, values);
        vector_close(&v);
    }
    assert_int_equal(double_live_allocations(), 0);
}

static void test_tensor_parallel(void **unused)
{
    static float values[MAX_VALUES];
    const char *devices = getenv("ASSAY_DEVICES");
    (void)unused;
    if (devices && atoi(devices) < 2)
        return;
    setenv("ASSAY_DOUBLE_DEVICES", "2", 1);
    setenv("ASSAY_DOUBLE_THREAD", "1", 1);
    struct vector v = vector_open(files[0]);
    count_values(&v);
    score_ranks(&gpu_ops, &v, 2, values);
    check_values(&v, values);
    vector_close(&v);
    unsetenv("ASSAY_DOUBLE_DEVICES");
    unsetenv("ASSAY_DOUBLE_THREAD");
}

/* Rows of a bfloat16 model, in turn without an adapter and with each of two of seqcls, which has
 * the same shape. */
static struct vector open_bf16(void)
{
    struct vector v = vector_open("bf16.json");
    n_adapters = 2;
    snprintf(adapter_options[0], sizeof adapter_options[0],
        "expression=tests/models/lora/seqcls-expression");
    snprintf(adapter_options[1], sizeof adapter_options[1],
        "patterns=tests/models/lora/seqcls-patterns");
    for (uint32_t r = 0; r < v.n_rows; r++)
        v.rows[r].stage.adapter = r % 3;
    return v;
}

static void open_quantized(
    struct scorer *s, const struct ops *ops, const struct vector *v, const char *method)
{
    quant_method = method;
    scorer_open(s, ops, v->model, "auto", 1);
    quant_method = "none";
}

static void check_invariant(struct scorer *s, const struct vector *v, int turns)
{
    static float alone[MAX_ROWS][ROW_VALUES], values[MAX_VALUES];
    for (uint32_t r = 0; r < v->n_rows; r++)
        score(s, v, &r, 1, 1, alone[r]);
    for (int turn = 0; turn < turns; turn++) {
        uint32_t order[12];
        for (int k = 0; k < 12; k++)
            order[k] = (uint32_t)rand() % v->n_rows;
        double_set_seed((uint64_t)turn);
        score(s, v, order, 12, 1, values);
        assert_same_bits(v, order, 12, values, alone);
    }
}

static void test_batch_invariance(void **unused)
{
    (void)unused;
    srand(9);
    for (int k = 0; k < 3; k++) {
        struct vector v = k == 0 ? vector_open(files[1]) : open_bf16();
        struct scorer s;
        open_quantized(&s, &gpu_ops, &v, k == 2 ? "int8" : "none");
        check_invariant(&s, &v, 3);
        scorer_close(&s);
        vector_close(&v);
    }
}

static void test_the_base_is_as_without_adapters(void **unused)
{
    static float with[MAX_VALUES], without[MAX_VALUES];
    struct vector v = open_bf16();
    struct scorer s;
    uint32_t base[MAX_ROWS], n = 0;
    (void)unused;
    for (uint32_t r = 0; r < v.n_rows; r += 3)
        base[n++] = r;
    open_quantized(&s, &gpu_ops, &v, "int8");
    score(&s, &v, base, n, 1, with);
    scorer_close(&s);
    n_adapters = 0;
    open_quantized(&s, &gpu_ops, &v, "int8");
    score(&s, &v, base, n, 1, without);
    scorer_close(&s);
    assert_true(n > 4);
    assert_memory_equal(with, without, n * v.rows[0].stage.n_values * sizeof *with);
    vector_close(&v);
}

/* Root of the mean square of a - b over the values of rows with adapters. */
static double distance(const struct vector *v, const float *a, const float *b)
{
    double sum = 0, n = 0;
    for (uint32_t r = 0; r < v->n_rows;
         a += v->rows[r].stage.n_values, b += v->rows[r++].stage.n_values)
        for (uint32_t i = 0; r % 3 > 0 && i < v->rows[r].stage.n_values; i++, n++)
            sum += pow((double)a[i] - (double)b[i], 2);
    return sqrt(sum / n);
}

/* The CPU's float32 values of the same numbers are the truth: 16 and 8 bits move scores by a small
 * part of what the adapters do. */
static void test_low_precision(void **unused)
{
    static float truth[MAX_VALUES], base[MAX_VALUES], values[MAX_VALUES];
    static const char *const methods[] = {"none", "int8", "fp8"};
    static const double limits[] = {0.05, 0.2, 0.5};
    struct vector v = open_bf16();
    struct scorer s;
    (void)unused;
    scorer_open(&s, &cpu_ops, v.model, "auto", 1);
    score_all(&s, &v, truth);
    for (uint32_t r = 0; r < v.n_rows; r++)
        v.rows[r].stage.adapter = 0;
    score_all(&s, &v, base);
    scorer_close(&s);
    for (uint32_t r = 0; r < v.n_rows; r++)
        v.rows[r].stage.adapter = r % 3;
    double effect = distance(&v, truth, base);
    for (int k = 0; k < (getenv("ASSAY_NO_FP8") ? 2 : 3); k++) {
        open_quantized(&s, &gpu_ops, &v, methods[k]);
        score_all(&s, &v, values);
        scorer_close(&s);
        double error = distance(&v, values, truth) / effect;
        print_message("--quant %s: error %.4f of what the adapters do\n", methods[k], error);
        assert_true(error > 0 && error < limits[k]);
    }
    vector_close(&v);
}

int main(int argc, char **argv)
{
    char directory[] = "/tmp/test_gpu_lora-XXXXXX", remembered[64];
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    cache_dir = mkdtemp(directory);
    log_init("test", -1, LOG_LEVEL_ERROR);
    longest_row = 50;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
        cmocka_unit_test(test_tensor_parallel), cmocka_unit_test(test_batch_invariance),
        cmocka_unit_test(test_the_base_is_as_without_adapters),
        cmocka_unit_test(test_low_precision)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(remembered, sizeof remembered, "%s/gemm-algorithms.txt", directory);
    unlink(remembered);
    rmdir(directory);
    return failed;
}
