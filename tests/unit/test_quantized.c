/* test_quantized.c - checkpoints that are quantized as published: every golden vector of
 * tests/vectors/quantized at every number of ranks; each matrix's values bit for bit those that the
 * format's reference gives, from every set of kernels; products bit for bit those of these values
 * stored as float32; and what is not built. Run from the repository root. */
#include "tests/unit/batch_invariance.h"

#include <math.h>

#include "schema/fnv.h"
#include "worker/cpu/device.h"
#include "worker/layer_matrix.h"

static void each_vector_of(const char *directory, void (*check)(const struct vector *v))
{
    struct dirent **names;
    char path[64];
    snprintf(path, sizeof path, "tests/vectors/%s", directory);
    int n = scandir(path, &names, is_vector, alphasort);
    assert_true(n >= 4);
    for (int i = 0; i < n; i++) {
        char file[300];
        snprintf(file, sizeof file, "%s/%s", directory, names[i]->d_name);
        struct vector v = vector_open(file);
        check(&v);
        vector_close(&v);
        free(names[i]);
    }
    free(names);
}

static void each_quantized(void (*check)(const struct vector *v))
{
    each_vector_of("quantized", check);
}

static void check_golden(const struct vector *v)
{
    static float values[MAX_VALUES];
    check_alone(v);
    for (int i = 0; i < v->n_tp; i++)
        if (v->tp[i] > 1) {
            score_ranks(&cpu_ops, v, (uint32_t)v->tp[i], values);
            check_values(v, values);
        }
}

static void test_golden(void **unused)
{
    (void)unused;
    each_quantized(check_golden);
}

static void test_golden_with_rounded_activations(void **unused)
{
    (void)unused;
    activations = "as-stored";
    each_vector_of("rounded", check_golden);
    activations = NULL;
}

/* ---- the matrices ---- */

/* The matrix as float32, by the kernels of one instruction set; the caller frees it. */
static float *widen_matrix(const struct cpu_kernels *k, const struct weight *w)
{
    float *panel = calloc((size_t)(w->cols * k->nr), sizeof *panel),
          *out = calloc((size_t)(w->rows * w->cols), sizeof *out);
    for (int64_t row = 0; row < w->rows; row += k->nr) {
        int nr = (int)(w->rows - row < k->nr ? w->rows - row : k->nr);
        k->f32.unpack(panel, w, row, nr, 0, w->cols, 0);
        for (int64_t c = 0; c < w->cols; c++)
            for (int j = 0; j < nr; j++)
                out[(row + j) * w->cols + c] = panel[c * k->nr + j];
    }
    free(panel);
    return out;
}

static const struct weight *matrix_of(const struct qwen2_layer *l, int which)
{
    const struct weight *all[] = {&l->qkv_proj.parts[0], &l->qkv_proj.parts[1],
        &l->qkv_proj.parts[2], l->o_proj.parts, &l->gate_up_proj.parts[0],
        &l->gate_up_proj.parts[1], l->down_proj.parts};
    return all[which];
}

/* The bits of a matrix in every set of kernels, against the hash that the reference's have. */
static void check_matrix(const struct weight *w, const char *name, const json_t *hashes)
{
    const char *wanted = json_string_value(json_object_get(hashes, name));
    assert_int_equal(w->dtype == DTYPE_PACKED, wanted != NULL);
    for (int way = 0; wanted && way < n_ways; way++) {
        char found[20];
        float *wide = widen_matrix(kernels_choose(ways[way].isa), w);
        snprintf(found, sizeof found, "%016llx",
            (unsigned long long)fnv_add(
                FNV_NOTHING, wide, (size_t)(w->rows * w->cols) * sizeof *wide));
        if (strcmp(found, wanted) != 0)
            fail_msg("%s, %s: expected the hash %s, found %s", name, ways[way].isa, wanted, found);
        free(wide);
    }
}

static void check_matrices(const struct vector *v)
{
    char path[300], name[64];
    struct scorer s;
    snprintf(path, sizeof path, "tests/vectors/%s.json", v->model);
    json_t *root = json_load_file(path, 0, NULL), *hashes = json_object_get(root, "dequantized");
    scorer_open(&s, &cpu_ops, v->model, "auto", 1);
    assert_true(json_object_size(hashes) > 0);
    for (uint32_t i = 0; i < s.model.config.n_layers; i++)
        for (int k = 0; k < N_LAYER_MATRICES; k++) {
            snprintf(name, sizeof name, "layers.%u.%s", i, layer_matrix_names[k]);
            check_matrix(matrix_of(&s.model.model.layers[i], k), name, hashes);
        }
    scorer_close(&s);
    json_decref(root);
}

static void test_values_are_the_references(void **unused)
{
    (void)unused;
    each_quantized(check_matrices);
}

/* What a byte means in e4m3: sign, four bits of exponent, three of mantissa. */
static float e4m3(int byte)
{
    int exponent = byte >> 3 & 15, mantissa = byte & 7;
    float value =
        exponent > 0 ? ldexpf((float)(8 + mantissa), exponent - 10) : ldexpf((float)mantissa, -9);
    return (byte & 127) == 127 ? NAN : byte & 128 ? -value : value;
}

static void test_every_byte_of_e4m3(void **unused)
{
    uint8_t bytes[256];
    float scale[PACKING_ROWS] = {1}, zero[PACKING_ROWS] = {0};
    struct packing packing = {.order = PACKED_ROWS,
        .numbers = PACKED_E4M3,
        .bits = 8,
        .scale = scale,
        .zero = zero,
        .group_stride = PACKING_ROWS,
        .group_size = 256};
    struct weight w = {bytes, DTYPE_PACKED, 1, 256, 64, NULL, DTYPE_F32, &packing};
    (void)unused;
    for (int i = 0; i < 256; i++)
        bytes[i] = (uint8_t)i;
    for (int way = 0; way < n_ways; way++) {
        float *wide = widen_matrix(kernels_choose(ways[way].isa), &w);
        for (int i = 0; i < 256; i++) {
            float wanted = e4m3(i);
            assert_int_equal(isnan(wide[i]), isnan(wanted));
            if (!isnan(wanted))
                assert_memory_equal(&wide[i], &wanted, sizeof wanted);
        }
        free(wide);
    }
}

/* ---- products ---- */

static void multiply(
    struct device *d, float *out, const float *x, int64_t rows, struct weight w, enum dtype type)
{
    struct weight_stack stack = {&w, 1, type};
    struct err e = {0};
    assert_int_equal(cpu_ops.device->prepare_weights(d, &stack, 1, &e), 0);
    cpu_ops.linear(d, tensor_of(out, DTYPE_F32, rows, w.rows, w.rows),
        tensor_of((void *)x, DTYPE_F32, rows, w.cols, w.cols), &w, 1, NULL);
}

enum { ROWS = 29 };

static void check_product(const struct weight *w, const float *wide, int way, enum dtype type)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {
        .n_threads = ways[way].threads, .isa = ways[way].isa, .arena_bytes = 64};
    struct weight plain = {wide, DTYPE_F32, w->rows, w->cols, w->cols, NULL, DTYPE_F32, NULL};
    size_t n = (size_t)(ROWS * w->rows);
    float *x = malloc((size_t)(ROWS * w->cols) * sizeof *x), *found = calloc(n, sizeof *found),
          *expected = calloc(n, sizeof *expected);
    for (int64_t i = 0; i < ROWS * w->cols; i++)
        x[i] = (float)(int32_t)next_random() * 0x1p-30f;
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), 0);
    multiply(d, found, x, ROWS, *w, type);
    multiply(d, expected, x, ROWS, plain, type);
    assert_memory_equal(found, expected, n * sizeof *found);
    cpu_ops.device->close(&d);
    free(x);
    free(found);
    free(expected);
}

static void check_products(const struct vector *v)
{
    struct scorer s;
    scorer_open(&s, &cpu_ops, v->model, "auto", 1);
    for (int k = 0; k < N_LAYER_MATRICES; k++) {
        const struct weight *w = matrix_of(&s.model.model.layers[0], k);
        if (w->dtype != DTYPE_PACKED)
            continue;
        float *wide = widen_matrix(&cpu_kernels_portable, w);
        for (int way = 0; way < n_ways; way++) {
            check_product(w, wide, way, DTYPE_F32);
            check_product(w, wide, way, DTYPE_BF16);
        }
        free(wide);
    }
    scorer_close(&s);
}

static void test_products_are_those_of_the_values(void **unused)
{
    (void)unused;
    each_quantized(check_products);
}

static void check_batches(const struct vector *v)
{
    char file[160];
    snprintf(file, sizeof file, "%s.json", v->model);
    check_batch_invariance(file, n_ways + 1);
}

static void test_rows_are_invariant_of_batch_and_cpu(void **unused)
{
    (void)unused;
    each_quantized(check_batches);
    dtype = "bf16";
    each_quantized(check_batches);
    dtype = "auto";
    activations = "as-stored";
    each_vector_of("rounded", check_batches);
    activations = NULL;
}

/* ---- what is not built ---- */

static void check_refused(
    const char *type, const char *method, const struct ops *ops, const char *wanted)
{
    struct model_config c;
    struct quant_config quant = {method};
    struct err e = {0};
    die_on(model_config_load(&c, "tests/models/quantized/pack-int4-zeros", "auto", &e), &e);
    assert_int_equal(model_choose_type(&c, type, &quant, NULL, ops, &e), ASSAY_EUNSUPPORTED);
    if (!strstr(e.msg, wanted))
        fail_msg("expected '%s', found '%s'", wanted, e.msg);
}

static void test_mode_and_refusals(void **unused)
{
    char mode[MODEL_MODE_BYTES];
    struct scorer s;
    struct ops typed = cpu_ops;
    (void)unused;
    scorer_open(&s, &cpu_ops, "quantized/pack-int4-zeros", "auto", 1);
    qwen2_reward_model_mode(&s.model, mode, sizeof mode);
    assert_string_equal(
        mode, "device=cpu arithmetic=4 dtype=f32 quant=pack-quantized-int4 tp=1 pp=1");
    scorer_close(&s);
    typed.typed = 1;
    check_refused("auto", "int8", &typed, "--quant int8: the checkpoint is quantized already");
    check_refused("auto", "int8", &cpu_ops, "--quant int8: the checkpoint is quantized already");
}

/* What the loader says of a rank's part that does not begin with a word. */
static void test_parts_that_cut_a_word(void **unused)
{
    struct scorer s = {.ops = &cpu_ops};
    struct err e = {0};
    struct qwen2_configs c = {.cache_config = {8, 8, 1, 0},
        .quant_config = {"none"},
        .rank = 1,
        .n_ranks = 2,
        .n_pp_ranks = 1};
    struct device_options o = {.n_threads = 1, .isa = "auto"};
    const char *dir = "tests/models/quantized/pack-int4-channel";
    (void)unused;
    die_on(model_config_load(&c.config, dir, "auto", &e), &e);
    die_on(weights_open(&s.weights, dir, &e), &e);
    die_on(model_choose_type(&c.config, "auto", &c.quant_config, s.weights, &cpu_ops, &e), &e);
    qwen2_device_needs(&o, &c, &cpu_ops);
    die_on(cpu_ops.device->open(&s.device, &o, &e), &e);
    die_on(qwen2_reward_model_init(&s.model, &c, &cpu_ops, s.device, &e), &e);
    assert_int_equal(qwen2_reward_model_load_weights(&s.model, s.weights, &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "tp 2 does not fit 'model.layers.0."));
    assert_non_null(strstr(e.msg, "expected each rank's columns to begin at a multiple of 8"));
    qwen2_reward_model_release(&s.model);
    weights_close(&s.weights);
    cpu_ops.device->close(&s.device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
        cmocka_unit_test(test_golden_with_rounded_activations),
        cmocka_unit_test(test_values_are_the_references), cmocka_unit_test(test_every_byte_of_e4m3),
        cmocka_unit_test(test_products_are_those_of_the_values),
        cmocka_unit_test(test_rows_are_invariant_of_batch_and_cpu),
        cmocka_unit_test(test_mode_and_refusals), cmocka_unit_test(test_parts_that_cut_a_word)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
