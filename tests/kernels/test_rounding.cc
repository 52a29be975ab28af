/* test_rounding.cc - inputs rounded to 8 bits and back: every way, type and odd shape, bit for bit the
 * steps of worker/cpu/round_rows.c with the nearest of e4m3's numbers searched for; parts of rows
 * with the bounds of the whole; and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "tests/kernels/tensors.h"

namespace
{

struct rounding way(enum rounding_how how, enum packed_numbers numbers, int64_t group = 0,
    float least = 0, float scale = 0, float zero = 0)
{
    struct rounding r = {how, numbers, scale, zero, group, least, 0};
    return r;
}

/* The nearest, of two that are as near the one whose last bit is 0. */
float nearest_e4m3(float x)
{
    int best = 0;
    for (int byte = 0; byte < 256; byte++) {
        double d = fabs(static_cast<double>(to_float(f8_t{static_cast<uint8_t>(byte)})) -
                        static_cast<double>(x)),
               so_far = fabs(static_cast<double>(to_float(f8_t{static_cast<uint8_t>(best)})) -
                             static_cast<double>(x));
        if (d < so_far || (d == so_far && byte % 2 < best % 2))
            best = byte;
    }
    return isnan(x) ? x : to_float(f8_t{static_cast<uint8_t>(best)}) + 0.0f;
}

float nearest_int(float x)
{
    return x < -128 ? -128 : x > 127 ? 127 : isnan(x) ? x : rintf(x) + 0.0f;
}

/* Scale and zero of row i's columns [from, to). */
struct rounding measured(
    const owned_tensor &x, int64_t i, int64_t from, int64_t to, struct rounding r)
{
    float low = 0, high = 0;
    for (int64_t k = from; k < to; k++) {
        float v = static_cast<float>(x.at(i, k));
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    float largest = -low > high ? -low : high; /* fmaxf may take -0 */
    if (r.how == ROUND_BY_ROW) {
        r.scale = (high - low) / 255.0f;
        r.zero = r.scale > 0 ? nearest_int(-128.0f - low / r.scale) : 0;
    } else if (r.how == ROUND_BY_MAGNITUDE) {
        r.scale = largest / (r.numbers == PACKED_E4M3 ? 448.0f : 127.5f);
    }
    if (r.scale == 0 && r.least == 0)
        r.scale = 0x1p-23f;
    return r;
}

float rounded(float x, const struct rounding &r)
{
    float by = r.scale < r.least ? r.least : r.scale;
    return r.numbers == PACKED_E4M3 ? nearest_e4m3(x / by) * r.scale
                                    : (nearest_int(x / by + r.zero) - r.zero) * r.scale;
}

void check_row(const owned_tensor &out, const owned_tensor &x, int64_t i, const struct rounding &r)
{
    int64_t group = r.group ? r.group : x.t.cols;
    owned_tensor one(x.t.dtype, 1, 1);
    for (int64_t from = 0; from < x.t.cols; from += group) {
        int64_t to = from + group < x.t.cols ? from + group : x.t.cols;
        struct rounding own = measured(x, i, from, to, r);
        for (int64_t k = from; k < to; k++) {
            one.set(0, 0, static_cast<double>(rounded(static_cast<float>(x.at(i, k)), own)));
            double found = out.at(i, k), expected = one.at(0, 0);
            if (isnan(expected) ? !isnan(found)
                                : found != expected || signbit(found) != signbit(expected))
                fail_msg("row %d column %d of %d: expected %.9g, found %.9g", static_cast<int>(i),
                    static_cast<int>(k), static_cast<int>(x.t.cols), expected, found);
        }
    }
}

/* A row of zeros, one that is nearly that, and one with NaN. */
void set_special_rows(owned_tensor &x)
{
    for (int64_t k = 0; x.t.rows > 3 && k < x.t.cols; k++) {
        x.set(1, k, 0);
        x.set(2, k, x.at(2, k) * 1e-11);
    }
    if (x.t.rows > 3)
        x.set(3, x.t.cols / 2, static_cast<double>(NAN));
}

const struct rounding ways[] = {way(ROUND_BY_ROW, PACKED_SIGNED),
    way(ROUND_BY_MAGNITUDE, PACKED_SIGNED), way(ROUND_BY_MAGNITUDE, PACKED_E4M3),
    way(ROUND_BY_MAGNITUDE, PACKED_E4M3, 0, 1e-12f),
    way(ROUND_BY_MAGNITUDE, PACKED_E4M3, 32, 1e-12f), way(ROUND_BY_MAGNITUDE, PACKED_E4M3, 12),
    way(ROUND_BY_SCALE, PACKED_E4M3, 0, 0, 0.0023f),
    way(ROUND_BY_SCALE, PACKED_SIGNED, 0, 0, 0.017f, -9)};
const enum dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

void test_round(void **)
{
    const int64_t shapes[][2] = {{1, 1}, {4, 24}, {5, 100}, {3, 300}};
    random_numbers random = {21};
    int turn = 0;
    for (const struct rounding &r : ways)
        for (enum dtype t : types)
            for (const auto &s : shapes) {
                int64_t pad = turn % 2 ? 8 : 5;
                owned_tensor x(t, s[0], s[1], pad, pad % 2), out(t, s[0], s[1], pad, pad % 2);
                x.fill(random, 2);
                set_special_rows(x);
                simt_set_seed(static_cast<uint64_t>(turn++));
                assert_int_equal(kernel_round_rows(nullptr, out.t, x.t, &r, nullptr), cudaSuccess);
                for (int64_t i = 0; i < s[0]; i++)
                    check_row(out, x, i, r);
                assert_true(out.rest_untouched());
            }
}

/* Two ranks' halves, with the larger of their bounds. */
void check_halves(const struct rounding &r, enum dtype t, random_numbers &random)
{
    const int64_t rows = 4, cols = 48, half = cols / 2;
    owned_tensor x(t, rows, cols), whole(t, rows, cols), halves(t, rows, cols);
    test_array<float> known(std::vector<float>(4 * rows, -1.0f)),
        largest(std::vector<float>(2 * rows, -1.0f));
    x.fill(random);
    for (int part = 0; part < 2; part++)
        assert_int_equal(kernel_measure_rows(nullptr, known.data + part * 2 * rows,
                             tensor_columns(x.t, part * half, half)),
            cudaSuccess);
    assert_int_equal(kernel_largest_of_ranks(nullptr, largest.data,
                         tensor_of(known.data, DTYPE_F32, 2, 2 * rows, 2 * rows)),
        cudaSuccess);
    for (int part = 0; part < 2; part++)
        assert_int_equal(kernel_round_rows(nullptr, tensor_columns(halves.t, part * half, half),
                             tensor_columns(x.t, part * half, half), &r, largest.data),
            cudaSuccess);
    assert_int_equal(kernel_round_rows(nullptr, whole.t, x.t, &r, nullptr), cudaSuccess);
    assert_true(same_bits(whole, halves));
}

void test_parts_of_rows(void **)
{
    random_numbers random = {22};
    for (int i = 0; i < 4; i++)
        for (enum dtype t : types)
            check_halves(ways[i], t, random);
}

void test_others_are_refused(void **)
{
    owned_tensor x(DTYPE_F32, 2, 8), out(DTYPE_F32, 2, 8), half(DTYPE_F16, 2, 8),
        i8(DTYPE_I8, 2, 8);
    test_array<float> known(std::vector<float>(4, 1.0f));
    struct rounding r = way(ROUND_BY_MAGNITUDE, PACKED_E4M3, 4), none = way(ROUND_NOT, PACKED_E4M3);
    assert_int_equal(kernel_round_rows(nullptr, half.t, x.t, &r, nullptr), cudaErrorInvalidValue);
    assert_int_equal(kernel_round_rows(nullptr, i8.t, i8.t, &r, nullptr), cudaErrorInvalidValue);
    assert_int_equal(kernel_round_rows(nullptr, out.t, x.t, &none, nullptr), cudaErrorInvalidValue);
    assert_int_equal(kernel_round_rows(nullptr, out.t, x.t, &r, known.data), cudaErrorInvalidValue);
    assert_int_equal(kernel_measure_rows(nullptr, known.data, i8.t), cudaErrorInvalidValue);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round),
        cmocka_unit_test(test_parts_of_rows), cmocka_unit_test(test_others_are_refused)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
