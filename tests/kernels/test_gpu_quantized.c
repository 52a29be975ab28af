/* test_gpu_quantized.c - checkpoints that are quantized as published, on the GPU's table of
 * operations: each matrix's values on the device are the CPU's, rounded to the type of the
 * products; golden values on one rank and several; rows with the bits that they have alone; FP8
 * products of rounded inputs, and inputs rounded before others; adapters beside them; and what is refused. As test_gpu_model, on
 * doubles or with make gpu-check on a device. */
#include "tests/unit/model_fixture.h"

#include "cuda/packed.h"
#include "schema/log.h"
#include "tests/kernels/doubles/controls.h"
#include "worker/cpu/kernels.h"

static struct vector open_file(const char *directory, const char *name)
{
    char file[300];
    snprintf(file, sizeof file, "%s/%s", directory, name);
    struct vector v = vector_open(file);
    count_values(&v);
    return v;
}

static void each_of(const char *directory, int step, void (*check)(const struct vector *v))
{
    struct dirent **names;
    char path[64];
    snprintf(path, sizeof path, "tests/vectors/%s", directory);
    int n = scandir(path, &names, is_vector, alphasort);
    assert_true(n > 10);
    for (int i = 0; i < n; i++) {
        struct vector v = open_file(directory, names[i]->d_name);
        if (i % step == 0)
            check(&v);
        vector_close(&v);
        free(names[i]);
    }
    free(names);
}

static void each_quantized(int step, void (*check)(const struct vector *v))
{
    each_of("quantized", step, check);
}

/* ---- matrices ---- */

static const struct parallel_linear *product_of(const struct qwen2_layer *l, int k)
{
    const struct parallel_linear *all[] = {
        &l->qkv_proj, &l->o_proj, &l->gate_up_proj, &l->down_proj};
    return all[k];
}

/* The values of rows of a stored matrix, as the CPU has them. */
static float *cpu_values(const struct weight *w)
{
    const struct cpu_kernels *k = &cpu_kernels_portable;
    float *panel = calloc((size_t)(w->cols * k->nr), sizeof *panel),
          *out = calloc((size_t)(w->rows * w->cols), sizeof *out);
    for (int64_t row = 0; row < w->rows; row += k->nr) {
        int nr = (int)(w->rows - row < k->nr ? w->rows - row : k->nr);
        if (w->dtype == DTYPE_PACKED)
            k->f32.unpack(panel, w, row, nr, 0, w->cols, 0);
        else
            k->f32.pack_weight(panel,
                (const char *)w->data + row * w->stride * dtype_bytes(w->dtype), w->dtype,
                w->stride, nr, w->cols);
        for (int64_t c = 0; c < w->cols; c++)
            for (int j = 0; j < nr; j++)
                out[(row + j) * w->cols + c] = panel[c * k->nr + j];
    }
    free(panel);
    return out;
}

static void check_rows(const struct weight *w, const uint16_t *found, int64_t stride)
{
    float *values = cpu_values(w);
    for (int64_t i = 0; i < w->rows; i++)
        for (int64_t j = 0; j < w->cols; j++) {
            uint16_t expected;
            dtype_convert(&expected, DTYPE_BF16, &values[i * w->cols + j], DTYPE_F32, 1);
            assert_int_equal(found[i * stride + j], expected);
        }
    free(values);
}

static int check_stack(
    struct device *d, const struct parallel_linear *gpu, const struct parallel_linear *cpu)
{
    uint16_t *host;
    int64_t at = 0;
    if (!packed_any(gpu->parts, gpu->n_parts))
        return 0;
    struct weight whole = packed_unpack(d, gpu->parts, gpu->n_parts);
    size_t bytes = (size_t)(whole.rows * whole.stride) * sizeof *host;
    assert_int_equal(whole.dtype, DTYPE_BF16);
    GPU_MUST(cudaHostAlloc((void **)&host, bytes, 0));
    GPU_MUST(cudaMemcpyAsync(host, whole.data, bytes, cudaMemcpyDeviceToHost, d->compute));
    GPU_MUST(cudaStreamSynchronize(d->compute));
    for (int i = 0; i < cpu->n_parts; at += cpu->parts[i++].rows)
        check_rows(&cpu->parts[i], host + at * whole.stride, whole.stride);
    assert_int_equal(at, whole.rows);
    GPU_MUST(cudaFreeHost(host));
    return 1;
}

static void check_matrices(const struct vector *v)
{
    struct scorer gpu, cpu;
    int n = 0;
    scorer_open(&gpu, &gpu_ops, v->model, "auto", 1);
    scorer_open(&cpu, &cpu_ops, v->model, "auto", 1);
    for (uint32_t i = 0; i < cpu.model.config.n_layers; i++)
        for (int k = 0; k < 4; k++)
            n += check_stack(gpu.device, product_of(&gpu.model.model.layers[i], k),
                product_of(&cpu.model.model.layers[i], k));
    assert_true(n > 0);
    scorer_close(&cpu);
    scorer_close(&gpu);
}

static void test_values_are_the_cpus(void **unused)
{
    (void)unused;
    each_quantized(1, check_matrices);
}

/* ---- scores ---- */

/* Root of the mean square of the values' distance from the expected ones, as a part of these
 * values' own spread. */
static double error_of(const struct vector *v, const float *values)
{
    double sum = 0, squares = 0, distance = 0, n = 0;
    for (uint32_t r = 0; r < v->n_rows; r++)
        for (uint32_t i = 0; i < v->rows[r].stage.n_values; i++, n++) {
            double truth = (double)v->rows[r].expected[i];
            sum += truth;
            squares += truth * truth;
            distance += pow((double)*values++ - truth, 2);
        }
    return sqrt(distance / (squares - sum * sum / n));
}

/* The CPU's, with weights and inputs of products rounded to bfloat16 too. */
static double bf16_error(const struct vector *v)
{
    static float values[MAX_VALUES];
    struct scorer s;
    dtype = "bf16";
    scorer_open(&s, &cpu_ops, v->model, "auto", 1);
    dtype = "auto";
    score_all(&s, v, values);
    scorer_close(&s);
    return error_of(v, values);
}

static void check_error(const struct vector *v, const float *values, const char *how)
{
    double error = error_of(v, values), limit = 4 * bf16_error(v) + 0.002;
    if (!(error > 0 && error <= limit))
        fail_msg("%s, %s: error %.4f of the scores' spread, expected %.4f at most", v->model, how,
            error, limit);
}

static void check_golden(const struct vector *v)
{
    static float values[MAX_VALUES];
    struct scorer s;
    scorer_open(&s, &gpu_ops, v->model, "auto", 1);
    assert_int_equal(s.model.config.activation_type, DTYPE_BF16);
    score_all(&s, v, values);
    scorer_close(&s);
    check_error(v, values, "bf16");
}

/* The sanitizer, which looks at the same code each time, has every fourth file. */
static void test_golden(void **unused)
{
#if defined(__SANITIZE_ADDRESS__)
    const int step = 4;
#else
    const int step = 1;
#endif
    (void)unused;
    each_quantized(step, check_golden);
    assert_int_equal(double_live_allocations(), 0);
}

static void check_two_ranks(const char *directory, const char *const *names, size_t n)
{
    static float values[MAX_VALUES];
    const char *devices = getenv("ASSAY_DEVICES");
    if (devices && atoi(devices) < 2)
        return;
    setenv("ASSAY_DOUBLE_DEVICES", "2", 1);
    setenv("ASSAY_DOUBLE_THREAD", "1", 1);
    for (size_t i = 0; i < n; i++) {
        struct vector v = open_file(directory, names[i]);
        score_ranks(&gpu_ops, &v, 2, values);
        check_error(&v, values, "tp 2");
        vector_close(&v);
    }
    unsetenv("ASSAY_DOUBLE_DEVICES");
    unsetenv("ASSAY_DOUBLE_THREAD");
}

/* Ranks whose parts begin inside a row of words, or at other words of it. */
static void test_tensor_parallel(void **unused)
{
    static const char *const names[] = {
        "awq-int4.json", "gptq-int4-order.json", "fp8-blocks.json", "pack-int8-channel.json"};
    (void)unused;
    check_two_ranks("quantized", names, sizeof names / sizeof *names);
}

static void check_invariant(struct scorer *s, const struct vector *v)
{
    static float alone[MAX_ROWS][ROW_VALUES], values[MAX_VALUES];
    for (uint32_t r = 0; r < v->n_rows; r++)
        score(s, v, &r, 1, 1, alone[r]);
    for (uint32_t first = 0; first < 3; first++) {
        uint32_t order[8];
        for (uint32_t k = 0; k < 8; k++)
            order[k] = (first + k * 3) % v->n_rows;
        double_set_seed(first);
        score(s, v, order, 8, 1, values);
        assert_same_bits(v, order, 8, values, alone);
    }
}

/* Of the last some matrices are not quantized, beside others of the same product. */
static void test_batch_invariance(void **unused)
{
    static const char *const names[] = {
        "gptq-int4-order.json", "naive-fp8-channel.json", "awq-int4-kept.json"};
    (void)unused;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct vector v = open_file("quantized", names[i]);
        struct scorer s;
        scorer_open(&s, &gpu_ops, v.model, "auto", 1);
        check_invariant(&s, &v);
        scorer_close(&s);
        vector_close(&v);
    }
}

/* Rows of the base and of an adapter, in one batch. */
static void test_adapters(void **unused)
{
    static const char *const names[] = {"quantized-awq-int4", "quantized-gptq-int4-order"};
    static float values[MAX_VALUES];
    (void)unused;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char file[64];
        struct scorer s;
        snprintf(file, sizeof file, "%s.json", names[i]);
        struct vector v = open_file("lora", file);
        assert_int_equal(n_adapters, 1);
        snprintf(adapter_options[0], sizeof adapter_options[0], "only=tests/models/lora/%s-only",
            names[i]);
        scorer_open(&s, &gpu_ops, v.model, "auto", 1);
        score_all(&s, &v, values);
        check_invariant(&s, &v);
        scorer_close(&s);
        check_error(&v, values, "adapters");
        vector_close(&v);
    }
    n_adapters = 0;
}

/* ---- rounded inputs ---- */

/* FP8 times FP8, as stored: the matrices are the file's bytes. */
static void test_rounded_inputs(void **unused)
{
    static float values[MAX_VALUES];
    char mode[MODEL_MODE_BYTES];
    (void)unused;
    if (getenv("ASSAY_NO_FP8"))
        return;
    struct vector v = open_file("rounded", "float-fp8-dynamic.json");
    struct scorer s;
    activations = "as-stored";
    scorer_open(&s, &gpu_ops, v.model, "auto", 1);
    assert_int_equal(s.model.model.layers[0].qkv_proj.parts[0].dtype, DTYPE_F8);
    score_all(&s, &v, values);
    check_invariant(&s, &v);
    qwen2_reward_model_mode(&s.model, mode, sizeof mode);
    assert_non_null(
        strstr(mode, " dtype=bf16 quant=float-quantized-fp8 tp=1 pp=1 activations=as-stored"));
    scorer_close(&s);
    check_error(&v, values, "as stored");
    activations = NULL;
    vector_close(&v);
}

static void check_rounded(const struct vector *v)
{
    static float values[MAX_VALUES], without[MAX_VALUES];
    struct scorer s;
    if (strcmp(v->model, "quantized/float-fp8-dynamic") == 0)
        return;
    scorer_open(&s, &gpu_ops, v->model, "auto", 1);
    assert_int_equal(s.model.config.quantization.products, DTYPE_F32);
    score_all(&s, v, values);
    check_invariant(&s, v);
    scorer_close(&s);
    check_error(v, values, "rounded");
    activations = NULL;
    scorer_open(&s, &gpu_ops, v->model, "auto", 1);
    activations = "as-stored";
    score_all(&s, v, without);
    scorer_close(&s);
    assert_memory_not_equal(values, without, count_values(v) * sizeof *values);
}

/* Other inputs are rounded before products of 16 bits: by token, in groups, with scales of the file
 * that differ inside a stack, beside matrices that are not quantized. */
static void test_inputs_rounded_before_products(void **unused)
{
    (void)unused;
    activations = "as-stored";
    each_of("rounded", 1, check_rounded);
    activations = NULL;
}

/* By token the scales are of the whole row; groups are whole on each rank. */
static void test_rounded_inputs_on_two_ranks(void **unused)
{
    static const char *const names[] = {"int-int8-dynamic.json", "pack-int4-dynamic.json",
        "fp8-token.json", "fp8-blocks-whole.json", "float-fp8-static.json"};
    (void)unused;
    activations = "as-stored";
    check_two_ranks("rounded", names, sizeof names / sizeof *names);
    activations = NULL;
}

static void check_refused(const char *model, const char *option, const char *method,
    const struct ops *ops, const char *wanted)
{
    struct model_config c;
    struct weights *w = NULL;
    struct quant_config quant = {method};
    struct err e = {0};
    char dir[300];
    snprintf(dir, sizeof dir, "tests/models/quantized/%s", model);
    die_on(model_config_load(&c, dir, "auto", &e), &e);
    die_on(weights_open(&w, dir, &e), &e);
    die_on(quantization_choose(&c.quantization, option, &e), &e);
    int rc = model_choose_type(&c, "auto", &quant, w, ops, &e);
    weights_close(&w);
    assert_int_equal(rc, wanted ? ASSAY_EUNSUPPORTED : 0);
    if (wanted && !strstr(e.msg, wanted))
        fail_msg("expected '%s', found '%s'", wanted, e.msg);
}

static void test_what_is_refused(void **unused)
{
    (void)unused;
    check_refused("gptq-int4", "auto", "int8", &gpu_ops,
        "--quant int8: the checkpoint is quantized already (gptq-int4)");
}

int main(int argc, char **argv)
{
    char directory[] = "/tmp/test_gpu_quantized-XXXXXX", remembered[64];
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    cache_dir = mkdtemp(directory);
    log_init("test", -1, LOG_LEVEL_ERROR);
    longest_row = 34;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values_are_the_cpus),
        cmocka_unit_test(test_golden), cmocka_unit_test(test_tensor_parallel),
        cmocka_unit_test(test_batch_invariance), cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_rounded_inputs),
        cmocka_unit_test(test_inputs_rounded_before_products),
        cmocka_unit_test(test_rounded_inputs_on_two_ranks), cmocka_unit_test(test_what_is_refused)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(remembered, sizeof remembered, "%s/gemm-algorithms.txt", directory);
    unlink(remembered);
    rmdir(directory);
    return failed;
}
