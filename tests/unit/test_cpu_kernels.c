/* test_cpu_kernels.c - which set of kernels is taken: by name, and only one that gives the portable
 * set's bits. */
#include "tests/unit/ops_fixture.h"

static void test_unknown_isa(void **unused)
{
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = 1, .isa = "avx9", .arena_bytes = 64};
    (void)unused;
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), ASSAY_EUNSUPPORTED);
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
    for (int way = 0; way < n_ways; way++)
        if (strcmp(ways[way].isa, "auto") != 0)
            assert_string_equal(kernels_choose(ways[way].isa)->isa, ways[way].isa);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_unknown_isa),
        cmocka_unit_test(test_named_isa), cmocka_unit_test(test_wrong_kernels_are_passed_over)};
    skip_missing_isas();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
