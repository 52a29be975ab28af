/* test_round_rows.c - inputs of a product that are rounded to int8 by their row's largest magnitude,
 * bit for bit as compressed-tensors 0.20.1 does it (calculate_qparams and fake_quantize of
 * symmetric, dynamic int8 by token): the largest of a row lies at 127.5, where its last bits decide
 * whether it is -127 or -128. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "worker/cpu/device.h"

enum { ROWS = 8, COLS = 4 };

static const struct {
    float x[COLS], rounded[COLS];
} rows[ROWS] = {
    /* -127.5, and a last place less and more: -128, -127, -128 */
    {{-0x1.814d42p+0f, -0x1.5e463cp+0f, 0x1.59985p-2f, 0x1.02d87ep+0f},
        {-0x1.82d012p+0f, -0x1.5e8c9p+0f, 0x1.5e8c9p-2f, 0x1.03e3ccp+0f}},
    {{-0x1.2c5798p+1f, 0x1.d9caf4p-1f, 0x1.16844p-2f, -0x1.5ddee8p+0f},
        {-0x1.2b2a14p+1f, 0x1.d71ffep-1f, 0x1.1aacccp-2f, -0x1.5ca1eap+0f}},
    {{-0x1.0abd0ap+2f, 0x1.7676e6p+0f, 0x1.e4fa9cp+1f, 0x1.129e0ap-2f},
        {-0x1.0bc8d2p+2f, 0x1.789268p+0f, 0x1.e55bfcp+1f, 0x1.0bc8d2p-2f}},
    /* the same of positive ones: 127 */
    {{0x1.c467b4p-1f, 0x1.660f0cp-3f, 0x1.6c744cp-4f, -0x1.3a394p-1f},
        {0x1.c2a186p-1f, 0x1.62d3d8p-3f, 0x1.710548p-4f, -0x1.3bcbe8p-1f}},
    {{0x1.34b532p+1f, 0x1.045bp+0f, -0x1.18a4b8p+1f, 0x1.b2da6cp-3f},
        {0x1.337f48p+1f, 0x1.057e62p+0f, -0x1.18dd14p+1f, 0x1.aa234ap-3f}},
    {{0x1.322574p+0f, -0x1.165098p+0f, 0x1.919048p-4f, 0x1.46070ep-1f},
        {0x1.30f21ap+0f, -0x1.168878p+0f, 0x1.802fp-4f, 0x1.468e58p-1f}},
    {{1, -0.25f, 0.5f, -1}, {0x1.fdfep-1f, -0x1.010102p-2f, 0x1.010102p-1f, -0x1.fdfep-1f}},
    {{0, 0, 0, 0}, {0, 0, 0, 0}},
};

static void test_by_magnitude(void **unused)
{
    static const struct rounding by_magnitude = {ROUND_BY_MAGNITUDE, PACKED_SIGNED, 0, 0};
    struct device *d = NULL;
    struct err e = {0};
    struct device_options o = {.n_threads = 2, .isa = "auto", .arena_bytes = 64};
    float x[ROWS][COLS];
    (void)unused;
    for (int i = 0; i < ROWS; i++)
        memcpy(x[i], rows[i].x, sizeof x[i]);
    assert_int_equal(cpu_ops.device->open(&d, &o, &e), 0);
    struct tensor found =
        cpu_round_rows(d, tensor_of(x, DTYPE_F32, ROWS, COLS, COLS), &by_magnitude);
    for (int i = 0; i < ROWS; i++)
        assert_memory_equal(row_of(found, i), rows[i].rounded, sizeof rows[i].rounded);
    cpu_ops.device->close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_magnitude)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
