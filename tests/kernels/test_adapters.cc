/* test_adapters.cc - the products of adapters: bit for bit one chain of fused multiply-adds for
 * each element, in every type, odd shapes, unaligned columns, memory of exact size, under every
 * order of threads; so a row has its bits in any batch. */
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

const enum dtype floats[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
const struct {
    int64_t rows, cols, outs;
} shapes[] = {{1, 1, 1}, {3, 7, 5}, {64, 32, 16}, {65, 33, 17}, {70, 100, 65}, {130, 8, 200}};

/* What x[row][k] stands for. */
float number_at(const owned_tensor &x, int64_t row, int64_t k)
{
    float v = static_cast<float>(x.at(row, k));
    return x.t.scale ? v * x.t.scale[row] : v;
}

float chain(float sum, const owned_tensor &x, int64_t row, const owned_tensor &w, int64_t out)
{
    for (int64_t k = 0; k < x.t.cols; k++)
        sum = fmaf(number_at(x, row, k), static_cast<float>(w.at(out, k)), sum);
    return sum;
}

struct weight weight_of(const owned_tensor &w)
{
    return {w.t.data, DTYPE_F32, w.t.rows, w.t.cols, w.t.stride, nullptr, DTYPE_F32, nullptr};
}

/* Whether an element is this float, rounded to its type. */
void check(const owned_tensor &out, int64_t row, int64_t col, float expected)
{
    owned_tensor one(out.t.dtype, 1, 1);
    one.set(0, 0, static_cast<double>(expected));
    if (out.at(row, col) != one.at(0, 0))
        fail_msg("row %d column %d: expected %.9g, found %.9g", static_cast<int>(row),
            static_cast<int>(col), one.at(0, 0), out.at(row, col));
}

void check_narrow(enum dtype t, int64_t rows, int64_t cols, int64_t outs, int64_t pad)
{
    random_numbers r = {static_cast<uint64_t>(rows * cols + pad)};
    owned_tensor x(t, rows, cols, pad, pad % 4), w(DTYPE_F32, outs, cols, pad % 3),
        out(DTYPE_F32, rows, outs, pad);
    bool bytes = dtype_bytes(t) == 1;
    x.fill(r, bytes ? 100 : 1);
    w.fill(r);
    for (int64_t i = 0; bytes && i < rows; i++)
        x.t.scale[i] = static_cast<float>(r.next()) * 0.01f;
    struct weight matrix = weight_of(w);
    simt_set_seed(static_cast<uint64_t>(rows));
    assert_int_equal(kernel_linear_narrow(nullptr, out.t, x.t, &matrix), cudaSuccess);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < outs; j++)
            check(out, i, j, chain(0, x, i, w, j));
    assert_true(out.rest_untouched());
}

void test_linear_narrow(void **)
{
    int turn = 0;
    for (enum dtype t : {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8, DTYPE_I8})
        for (const auto &s : shapes)
            check_narrow(t, s.rows, s.cols, s.outs, turn++ % 2 ? 5 : 0);
    check_narrow(DTYPE_BF16, 40, 64, 24, 8);
}

void check_add(enum dtype t, int64_t rows, int64_t cols, int64_t outs, int64_t pad)
{
    random_numbers r = {static_cast<uint64_t>(rows * outs + pad)};
    owned_tensor x(DTYPE_F32, rows, cols, pad), w(DTYPE_F32, outs, cols, pad % 3),
        out(t, rows, outs, pad, pad % 4), before(t, rows, outs);
    x.fill(r);
    w.fill(r);
    out.fill(r, 3);
    before.copy(out);
    struct weight matrix = weight_of(w);
    simt_set_seed(static_cast<uint64_t>(cols));
    assert_int_equal(kernel_linear_add(nullptr, out.t, x.t, &matrix), cudaSuccess);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < outs; j++)
            check(out, i, j, chain(static_cast<float>(before.at(i, j)), x, i, w, j));
    assert_true(out.rest_untouched());
}

void test_linear_add(void **)
{
    int turn = 0;
    for (enum dtype t : floats)
        for (const auto &s : shapes)
            check_add(t, s.rows, s.cols, s.outs, turn++ % 2 ? 5 : 0);
}

void test_none_and_unknown(void **)
{
    owned_tensor f(DTYPE_F32, 2, 8), half(DTYPE_BF16, 2, 8), bytes(DTYPE_I8, 2, 8);
    struct weight w = weight_of(f), other = w;
    other.dtype = DTYPE_BF16;
    struct tensor none = tensor_rows(f.t, 0, 0);
    assert_int_equal(kernel_linear_narrow(nullptr, none, none, &w), cudaSuccess);
    assert_int_equal(kernel_linear_add(nullptr, none, none, &w), cudaSuccess);
    assert_int_equal(kernel_linear_narrow(nullptr, half.t, f.t, &w), cudaErrorInvalidValue);
    assert_int_equal(kernel_linear_narrow(nullptr, f.t, f.t, &other), cudaErrorInvalidValue);
    assert_int_equal(kernel_linear_add(nullptr, f.t, half.t, &w), cudaErrorInvalidValue);
    assert_int_equal(kernel_linear_add(nullptr, bytes.t, f.t, &w), cudaErrorInvalidValue);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear_narrow),
        cmocka_unit_test(test_linear_add), cmocka_unit_test(test_none_and_unknown)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
