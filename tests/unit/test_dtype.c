/* test_dtype.c - conversion between the float types: every 16-bit value there and back, and random
 * floats rounded as exact arithmetic in double precision says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/dtype.h"

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static void test_every_half_comes_back(void **unused)
{
    static const enum dtype types[] = {DTYPE_F16, DTYPE_BF16};
    (void)unused;
    for (int t = 0; t < 2; t++)
        for (uint32_t i = 0; i < 65536; i++) {
            uint16_t half = (uint16_t)i, back;
            float wide;
            dtype_convert(&wide, DTYPE_F32, &half, types[t], 1);
            dtype_convert(&back, types[t], &wide, DTYPE_F32, 1);
            if (isnan(wide)) {
                dtype_convert(&wide, DTYPE_F32, &back, types[t], 1);
                assert_true(isnan(wide));
            } else {
                assert_int_equal(back, half);
            }
        }
}

static float random_float(int turn)
{
    uint32_t bits = (uint32_t)rand() << 16 ^ (uint32_t)rand();
    if (turn % 2) /* near binary16's range, and often halfway between two of its values */
        bits = (bits & 0x80007fff) | (uint32_t)(100 + rand() % 45) << 23;
    if (turn % 4 == 3)
        bits &= 0xfffff000;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* The nearest bfloat16 by distance, even on a tie. */
static uint16_t nearest_bf16(float f)
{
    uint32_t low = bits_of(f) & 0xffff0000, high = low + 0x10000;
    float below, above;
    memcpy(&below, &low, sizeof below);
    memcpy(&above, &high, sizeof above);
    double down = fabs((double)f - (double)below),
           up = isinf(above) ? 0x1p128 - fabs((double)f) : fabs((double)above - (double)f);
    int take_high = up < down || (up == down && (low >> 16 & 1));
    return (uint16_t)((take_high ? high : low) >> 16);
}

/* The nearest value of binary16, even on a tie: a multiple of 2^(exponent - 10), down to 2^-24. */
static double nearest_f16(float f)
{
    int exponent = f == 0 ? -14 : ilogb((double)f);
    double unit = ldexp(1, (exponent < -14 ? -14 : exponent) - 10);
    double nearest = nearbyint((double)f / unit) * unit;
    return fabs(nearest) >= 65520 ? copysign(INFINITY, (double)f) : nearest;
}

static void test_rounding_to_nearest_even(void **unused)
{
    (void)unused;
    srand(7);
    for (int turn = 0; turn < 400000; turn++) {
        float f = random_float(turn);
        float back;
        uint16_t half;
        if (isnan(f) || isinf(f))
            continue;
        dtype_convert(&half, DTYPE_F16, &f, DTYPE_F32, 1);
        dtype_convert(&back, DTYPE_F32, &half, DTYPE_F16, 1);
        assert_true((double)back == nearest_f16(f) && signbit(back) == signbit(f));
        dtype_convert(&half, DTYPE_BF16, &f, DTYPE_F32, 1);
        assert_int_equal(half, nearest_bf16(f));
    }
}

static void test_unaligned_and_between_halves(void **unused)
{
    unsigned char stored[2 * 3 + 1];
    const float values[3] = {1.5f, -0.25f, 3};
    float back[3];
    uint16_t half[3];
    (void)unused;
    dtype_convert(stored + 1, DTYPE_BF16, values, DTYPE_F32, 3);
    dtype_convert(half, DTYPE_F16, stored + 1, DTYPE_BF16, 3);
    dtype_convert(back, DTYPE_F32, half, DTYPE_F16, 3);
    assert_memory_equal(back, values, sizeof values);
    assert_string_equal(dtype_name(DTYPE_BF16), "bf16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_half_comes_back),
        cmocka_unit_test(test_rounding_to_nearest_even),
        cmocka_unit_test(test_unaligned_and_between_halves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
