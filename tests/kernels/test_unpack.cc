/* test_unpack.cc - matrices of few bits unpacked: in every order, of every kind of number, with
 * groups that begin anywhere, an order of the columns, odd shapes and every type, bit for bit
 * the formula in float32, rounded; and what is not a packed matrix is refused. */
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

struct kind {
    enum packing_order order;
    enum packed_numbers numbers;
    int bits;
};
const kind kinds[] = {{PACKED_ROWS, PACKED_UNSIGNED, 4}, {PACKED_ROWS, PACKED_UNSIGNED, 8},
    {PACKED_ROWS, PACKED_SIGNED, 8}, {PACKED_ROWS, PACKED_E4M3, 8},
    {PACKED_COLUMNS, PACKED_UNSIGNED, 4}, {PACKED_COLUMNS, PACKED_UNSIGNED, 8},
    {PACKED_AWQ, PACKED_UNSIGNED, 4}};

struct grouping {
    int64_t size, first;
    bool ordered;
};

/* Numbers drawn, and how each order puts them into words. */
struct matrix {
    int64_t rows, cols, stride, lines, groups;
    kind what;
    std::vector<uint8_t> stored;
    test_array<uint32_t> words;
    test_array<float> scale, zero;
    test_array<int32_t> group_of;
    struct packing packing;

    matrix(const kind &k, int64_t n_rows, int64_t n_cols, const grouping &g, random_numbers &r)
        : rows(n_rows), cols(n_cols), stride(round_up(across(k, n_rows, n_cols), 4)),
          lines(k.order == PACKED_ROWS      ? n_rows
                : k.order == PACKED_COLUMNS ? (n_cols * k.bits + 31) / 32
                                            : n_cols),
          groups((g.first + n_cols - 1) / g.size + 1), what(k),
          stored(static_cast<size_t>(n_rows * n_cols)),
          words(std::vector<uint32_t>(static_cast<size_t>(stride * lines), 0xa5a5a5a5u)),
          scale(table(r, 0.01)), zero(table(r, 8)), group_of(order(r, g.ordered ? n_cols : 0)),
          packing()
    {
        for (uint8_t &x : stored)
            x = static_cast<uint8_t>(static_cast<int>((r.next() + 1) * 128) & ((1 << k.bits) - 1));
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++)
                put(i, j);
        packing.order = k.order;
        packing.numbers = k.numbers;
        packing.bits = k.bits;
        packing.scale = scale.data;
        packing.zero = zero.data;
        packing.group_stride = round_up(rows, PACKING_ROWS);
        packing.group_of = g.ordered ? group_of.data : nullptr;
        packing.group_size = g.size;
        packing.first = g.first;
    }
    static int64_t across(const kind &k, int64_t n_rows, int64_t n_cols)
    {
        return k.order == PACKED_ROWS      ? (n_cols * k.bits + 31) / 32
               : k.order == PACKED_COLUMNS ? n_rows
                                           : (n_rows + 7) / 8;
    }
    std::vector<float> table(random_numbers &r, double size) const
    {
        std::vector<float> v(static_cast<size_t>(groups * round_up(rows, PACKING_ROWS)));
        for (float &x : v)
            x = static_cast<float>(size < 1 ? r.next() * size : rint((r.next() + 1) * size));
        return v;
    }
    std::vector<int32_t> order(random_numbers &r, int64_t n) const
    {
        std::vector<int32_t> v(static_cast<size_t>(n));
        for (int32_t &x : v)
            x = static_cast<int32_t>((r.next() + 1) / 2 * static_cast<double>(groups) * 0.999);
        return v;
    }
    void put(int64_t i, int64_t j)
    {
        static const int awq[8] = {0, 4, 1, 5, 2, 6, 3, 7};
        int64_t per_word = 32 / what.bits, word, at;
        if (what.order == PACKED_ROWS) {
            word = i * stride + j / per_word;
            at = j % per_word;
        } else if (what.order == PACKED_COLUMNS) {
            word = j / per_word * stride + i;
            at = j % per_word;
        } else {
            word = j * stride + i / 8;
            at = awq[i % 8];
        }
        uint32_t mask = (1u << what.bits) - 1, number = stored[static_cast<size_t>(i * cols + j)];
        words.data[word] &= ~(mask << at * what.bits);
        words.data[word] |= number << at * what.bits;
    }
    float value(int64_t i, int64_t j) const
    {
        uint8_t x = stored[static_cast<size_t>(i * cols + j)];
        float number = what.numbers == PACKED_E4M3     ? to_float(f8_t{x})
                       : what.numbers == PACKED_SIGNED ? static_cast<float>(x ^ 0x80)
                                                       : static_cast<float>(x);
        int64_t at = packing_group(&packing, j) * packing.group_stride + i;
        return (number - zero.data[at]) * scale.data[at];
    }
    struct weight weight() const
    {
        return {words.data, DTYPE_PACKED, rows, cols, stride, nullptr, DTYPE_F32, &packing};
    }
};

void check(const matrix &m, enum dtype t, int64_t pad)
{
    owned_tensor out(t, m.rows, m.cols, pad, pad % 2), one(t, 1, 1);
    struct weight w = m.weight();
    simt_set_seed(static_cast<uint64_t>(pad));
    assert_int_equal(kernel_unpack(nullptr, out.t, &w), cudaSuccess);
    for (int64_t i = 0; i < m.rows; i++)
        for (int64_t j = 0; j < m.cols; j++) {
            double expected = static_cast<double>(m.value(i, j)), found = out.at(i, j);
            one.set(0, 0, expected);
            if (isnan(expected) ? !isnan(found) : found != one.at(0, 0))
                fail_msg("row %d column %d: expected %.9g, found %.9g", static_cast<int>(i),
                    static_cast<int>(j), one.at(0, 0), found);
        }
    assert_true(out.rest_untouched());
}

void test_unpack(void **)
{
    const grouping groupings[] = {{1000, 0, false}, {32, 0, false}, {12, 5, false}, {16, 0, true}};
    const int64_t shapes[][2] = {{1, 8}, {24, 64}, {65, 100}, {130, 72}};
    random_numbers r = {12};
    int turn = 0;
    for (const kind &k : kinds)
        for (const grouping &g : groupings)
            for (const auto &s : shapes) {
                matrix m(k, s[0], s[1], g, r);
                enum dtype t = turn % 3 == 0 ? DTYPE_F32 : turn % 3 == 1 ? DTYPE_F16 : DTYPE_BF16;
                check(m, t, turn % 2 ? 8 : 5);
                turn++;
            }
}

void test_others_are_refused(void **)
{
    random_numbers r = {13};
    matrix m(kinds[0], 8, 8, {8, 0, false}, r);
    owned_tensor f(DTYPE_F32, 8, 8), bytes(DTYPE_I8, 8, 8), narrow(DTYPE_F32, 8, 7);
    struct weight w = m.weight(), other = w, odd = w;
    struct packing three = m.packing;
    three.bits = 3;
    other.dtype = DTYPE_F32;
    odd.packing = &three;
    assert_int_equal(kernel_unpack(nullptr, f.t, &odd), cudaErrorInvalidValue);
    assert_int_equal(kernel_unpack(nullptr, f.t, &other), cudaErrorInvalidValue);
    assert_int_equal(kernel_unpack(nullptr, bytes.t, &w), cudaErrorInvalidValue);
    assert_int_equal(kernel_unpack(nullptr, narrow.t, &w), cudaErrorInvalidValue);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unpack), cmocka_unit_test(test_others_are_refused)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
