/* test_elementwise.cc - every kernel over rows against the formula in double precision: odd shapes,
 * every type, unaligned columns, memory of exact size, the same bits under every order of threads,
 * and a row's bits alone and in a batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "schema/pooling.h"
#include "tests/kernels/tensors.h"

static const enum dtype floats[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
static const int64_t widths[] = {1, 7, 8, 9, 64, 100, 264, 896, 2051};
static const uint64_t n_seeds = 3;

/* How a tensor lies: together, with gaps that keep rows at 16 bytes, and askew. */
struct layout {
    int64_t pad, shift;
};
static const struct layout layouts[] = {{0, 0}, {8, 0}, {3, 1}};

static void check(double found, double expected, double tolerance, const char *what)
{
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%s: expected %.9g within %.3g, found %.9g", what, expected, tolerance, found);
}

/* ---- embed, gather ---- */

static void test_embed(void **)
{
    random_numbers r = {1};
    for (enum dtype t : floats)
        for (const layout &l : layouts)
            for (int64_t cols : {1, 9, 100, 896}) {
                const test_array<int32_t> index({4, 0, 4, 2, 5, -1});
                const int32_t *ids = index.data;
                owned_tensor table(t, 5, cols, l.pad, l.shift), out(DTYPE_F32, 6, cols, l.pad);
                table.fill(r);
                struct weight w = {
                    table.t.data, t, 5, cols, table.t.stride, nullptr, DTYPE_F32, nullptr};
                assert_int_equal(kernel_embed(nullptr, out.t, &w, ids), cudaSuccess);
                for (int64_t i = 0; i < 6; i++)
                    for (int64_t j = 0; j < cols; j++)
                        assert_true(
                            i < 4 ? out.at(i, j) == table.at(ids[i], j) : isnan(out.at(i, j)));
                assert_true(out.rest_untouched());
            }
}

static void test_gather(void **)
{
    random_numbers r = {2};
    for (enum dtype t : {DTYPE_F32, DTYPE_BF16, DTYPE_I8})
        for (const layout &l : layouts)
            for (int64_t cols : {1, 9, 96}) {
                const test_array<uint32_t> index({3, 3, 0});
                const uint32_t *rows = index.data;
                owned_tensor x(t, 4, cols, l.pad, l.shift), out(t, 3, cols, l.pad);
                x.fill(r, 100);
                assert_int_equal(kernel_gather(nullptr, out.t, x.t, rows), cudaSuccess);
                for (int64_t i = 0; i < 3; i++)
                    for (int64_t j = 0; j < cols; j++)
                        assert_true(out.at(i, j) == x.at(rows[i], j));
                assert_true(out.rest_untouched());
            }
}

/* Runs of a block, of part of one, and of a single token, twice. */
static void test_keep(void **)
{
    random_numbers r = {3};
    for (enum dtype t : {DTYPE_F32, DTYPE_BF16, DTYPE_I8})
        for (const layout &l : layouts)
            for (int64_t cols : {1, 9, 96}) {
                const test_array<struct kv_slots> slots(
                    {{4, 16, 16}, {1, 3, 2}, {20, 0, 1}, {20, 0, 1}});
                owned_tensor x(t, 21, cols, l.pad, l.shift), out(t, 32, cols, l.pad);
                owned_tensor want(t, 32, cols);
                x.fill(r, 100);
                out.fill(r, 100);
                want.copy(out);
                for (uint32_t k = 0; k < 4; k++)
                    for (uint32_t i = 0; i < slots.data[k].n; i++)
                        for (int64_t j = 0; j < cols; j++)
                            want.set(slots.data[k].slot + i, j, x.at(slots.data[k].token + i, j));
                assert_int_equal(kernel_keep(nullptr, out.t, x.t, slots.data, 4), cudaSuccess);
                assert_true(same_bits(out, want) && out.rest_untouched());
            }
}

/* ---- norms ---- */

/* Quantized values are within half a step of the scaled ones; the step is largest / 448 .. /
 * 127. */
static void check_quantized(const owned_tensor &out, int64_t row, const std::vector<double> &want)
{
    double largest = 0, limit = out.t.dtype == DTYPE_F8 ? 448 : 127,
           scale = static_cast<double>(out.t.scale[row]);
    for (double x : want)
        largest = fabs(x) > largest ? fabs(x) : largest;
    check(scale, largest < 1e-30 ? 1 : largest / limit, 1e-5 * largest, "scale");
    for (size_t j = 0; j < want.size(); j++) {
        double x = want[j] / scale, step = out.t.dtype == DTYPE_I8 ? 1 : fabs(x) * 0.125 + 0x1p-9;
        check(out.at(row, static_cast<int64_t>(j)), x, 0.5 * step + 1e-3 * step, "quantized");
    }
}

static void check_norm(enum dtype y_type, enum dtype out_type, int64_t cols, const layout &l,
    bool in_place, random_numbers &r)
{
    const int64_t rows = 3;
    const float eps = 1e-6f;
    owned_tensor x(DTYPE_F32, rows, cols, l.pad, l.shift), y(y_type, rows, cols, l.pad, l.shift);
    owned_tensor w(DTYPE_F32, 1, cols, 0, l.shift);
    x.fill(r, 3);
    y.fill(r);
    w.fill(r);
    std::vector<std::vector<double>> want(rows, std::vector<double>(static_cast<size_t>(cols)));
    for (int64_t i = 0; i < rows; i++) {
        double sum = 0;
        for (int64_t j = 0; j < cols; j++) {
            double v = static_cast<double>(static_cast<float>(x.at(i, j) + y.at(i, j)));
            want[static_cast<size_t>(i)][static_cast<size_t>(j)] = v;
            sum += v * v;
        }
        double by = 1 / sqrt(sum / static_cast<double>(cols) + static_cast<double>(eps));
        for (int64_t j = 0; j < cols; j++)
            want[static_cast<size_t>(i)][static_cast<size_t>(j)] *= by * w.at(0, j);
    }
    owned_tensor first(out_type, rows, cols);
    test_array<uint32_t> progress({5});
    for (uint64_t seed = 0; seed < n_seeds; seed++) {
        simt_set_seed(seed);
        owned_tensor xs(DTYPE_F32, rows, cols, l.pad, l.shift);
        owned_tensor ys(y_type, rows, cols, l.pad, l.shift), own(out_type, rows, cols, l.pad);
        xs.copy(x);
        ys.copy(y);
        owned_tensor &out = in_place ? ys : own;
        assert_int_equal(kernel_rms_norm(nullptr, out.t, xs.t, &ys.t,
                             static_cast<float *>(w.t.data), eps, progress.data),
            cudaSuccess);
        assert_int_equal(*progress.data, 6 + seed);
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < cols; j++)
                assert_true(xs.at(i, j) ==
                            static_cast<double>(static_cast<float>(x.at(i, j) + y.at(i, j))));
            const std::vector<double> &row = want[static_cast<size_t>(i)];
            if (out.t.scale)
                check_quantized(out, i, row);
            for (int64_t j = 0; j < cols && !out.t.scale; j++)
                check(out.at(i, j), row[static_cast<size_t>(j)],
                    fabs(row[static_cast<size_t>(j)]) * (unit_of(out_type) + 4e-6) + 1e-7, "norm");
        }
        if (seed == 0)
            memcpy(first.scales.data, out.scales.data, rows * sizeof(float));
        if (seed == 0)
            for (int64_t i = 0; i < rows; i++)
                memcpy(static_cast<char *>(first.t.data) + i * cols * dtype_bytes(out_type),
                    static_cast<char *>(out.t.data) + i * out.t.stride * dtype_bytes(out_type),
                    static_cast<size_t>(cols * dtype_bytes(out_type)));
        assert_true(same_bits(first, out) &&
                    memcmp(first.scales.data, out.scales.data, rows * sizeof(float)) == 0);
        assert_true(xs.rest_untouched() && ys.rest_untouched() && own.rest_untouched());
        /* the last row alone, lying otherwise */
        owned_tensor x1(DTYPE_F32, 1, cols, 0, 1), y1(y_type, 1, cols, 0, 3),
            out1(out_type, 1, cols);
        for (int64_t j = 0; j < cols; j++) {
            x1.set(0, j, x.at(rows - 1, j));
            y1.set(0, j, y.at(rows - 1, j));
        }
        assert_int_equal(kernel_rms_norm(nullptr, out1.t, x1.t, &y1.t,
                             static_cast<float *>(w.t.data), eps, nullptr),
            cudaSuccess);
        for (int64_t j = 0; j < cols; j++)
            assert_true(out1.at(0, j) == out.at(rows - 1, j));
    }
}

static void test_rms_norm(void **)
{
    random_numbers r = {3};
    int turn = 0;
    for (int64_t cols : widths)
        for (enum dtype y : floats)
            for (enum dtype out : {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8, DTYPE_I8}) {
                bool in_place = y == out && turn % 2;
                check_norm(y, out, cols, layouts[turn++ % 3], in_place, r);
            }
    check_norm(DTYPE_BF16, DTYPE_BF16, 9000, layouts[0], true, r);
    check_norm(DTYPE_BF16, DTYPE_F8, 9000, layouts[2], false, r);
}

static void test_norm_alone_in_place_and_empty(void **)
{
    random_numbers r = {4};
    owned_tensor x(DTYPE_F32, 2, 50), before(DTYPE_F32, 2, 50), w(DTYPE_F32, 1, 50);
    x.fill(r);
    before.copy(x);
    w.fill(r);
    float *weight = static_cast<float *>(w.t.data);
    assert_int_equal(kernel_rms_norm(nullptr, x.t, x.t, nullptr, weight, 1e-5f, nullptr), 0);
    for (int64_t i = 0; i < 2; i++) {
        double sum = 0;
        for (int64_t j = 0; j < 50; j++)
            sum += before.at(i, j) * before.at(i, j);
        for (int64_t j = 0; j < 50; j++)
            check(x.at(i, j), before.at(i, j) / sqrt(sum / 50 + 1e-5) * w.at(0, j), 1e-6, "alone");
    }
    struct tensor none = tensor_rows(x.t, 0, 0);
    assert_int_equal(kernel_rms_norm(nullptr, none, none, nullptr, weight, 1e-5f, nullptr), 0);
    owned_tensor zeros(DTYPE_F32, 1, 50), q(DTYPE_I8, 1, 50);
    for (int64_t j = 0; j < 50; j++)
        zeros.set(0, j, 0);
    assert_int_equal(kernel_rms_norm(nullptr, q.t, zeros.t, nullptr, weight, 1e-5f, nullptr), 0);
    assert_true(q.scales.data[0] == 1 && q.at(0, 0) == 0 && q.at(0, 49) == 0);
}

static void test_head_norm(void **)
{
    random_numbers r = {5};
    for (enum dtype t : floats)
        for (uint32_t dim : {4u, 20u, 64u, 128u}) {
            const uint32_t heads = 3;
            owned_tensor x(t, 5, heads * dim, 6, 2), before(t, 5, heads * dim);
            owned_tensor w(DTYPE_F32, 1, dim);
            x.fill(r);
            w.fill(r);
            before.copy(x);
            simt_set_seed(dim);
            assert_int_equal(
                kernel_head_norm(nullptr, x.t, heads, static_cast<float *>(w.t.data), 1e-6f), 0);
            for (int64_t i = 0; i < 5; i++)
                for (uint32_t h = 0; h < heads; h++) {
                    double sum = 0;
                    for (uint32_t j = 0; j < dim; j++)
                        sum += before.at(i, h * dim + j) * before.at(i, h * dim + j);
                    for (uint32_t j = 0; j < dim; j++) {
                        double want =
                            before.at(i, h * dim + j) / sqrt(sum / dim + 1e-6) * w.at(0, j);
                        check(x.at(i, h * dim + j), want, fabs(want) * (unit_of(t) + 2e-6) + 1e-7,
                            "head norm");
                    }
                }
            assert_true(x.rest_untouched());
        }
}

/* ---- rope, swiglu ---- */

static void test_rope(void **)
{
    random_numbers r = {6};
    for (enum dtype t : floats)
        for (const layout &l : layouts)
            for (uint32_t dim : {4u, 20u, 64u, 80u, 128u}) {
                const uint32_t heads = 3, half = dim / 2;
                const test_array<int32_t> index({2, 0, 1, 2});
                const int32_t *positions = index.data;
                owned_tensor x(t, 4, heads * dim, l.pad, l.shift), before(t, 4, heads * dim);
                owned_tensor c(DTYPE_F32, 3, half), s(DTYPE_F32, 3, half);
                x.fill(r);
                c.fill(r);
                s.fill(r);
                before.copy(x);
                simt_set_seed(dim);
                struct rope_tables tables = {
                    dim, static_cast<float *>(c.t.data), static_cast<float *>(s.t.data)};
                assert_int_equal(kernel_rope(nullptr, x.t, heads, &tables, positions), 0);
                for (int64_t i = 0; i < 4; i++)
                    for (uint32_t j = 0; j < heads * dim; j++) {
                        uint32_t k = j % half;
                        bool low = j % dim < half;
                        double own = before.at(i, j),
                               other = before.at(i, low ? j + half : j - half);
                        double want = own * c.at(positions[i], k) +
                                      (low ? -1 : 1) * other * s.at(positions[i], k);
                        check(x.at(i, j), want, fabs(want) * unit_of(t) + 2e-7, "rope");
                    }
                assert_true(x.rest_untouched());
            }
}

static void check_swiglu(enum dtype t, enum dtype out_type, int64_t cols, const layout &l)
{
    random_numbers r = {7};
    const int64_t rows = 2;
    owned_tensor both(t, rows, 2 * cols, l.pad, l.shift), own(out_type, rows, cols, l.pad);
    both.fill(r, 6);
    both.set(0, 0, -200); /* exp overflows */
    std::vector<std::vector<double>> want(rows, std::vector<double>(static_cast<size_t>(cols)));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            want[static_cast<size_t>(i)][static_cast<size_t>(j)] =
                both.at(i, j) / (1 + exp(-both.at(i, j))) * both.at(i, cols + j);
    struct tensor gate = tensor_columns(both.t, 0, cols), up = tensor_columns(both.t, cols, cols);
    simt_set_seed(static_cast<uint64_t>(cols));
    assert_int_equal(kernel_silu_mul(nullptr, own.t, gate, up), 0);
    for (int64_t i = 0; i < rows; i++) {
        const std::vector<double> &row = want[static_cast<size_t>(i)];
        if (own.t.scale)
            check_quantized(own, i, row);
        for (int64_t j = 0; j < cols && !own.t.scale; j++)
            check(own.at(i, j), row[static_cast<size_t>(j)],
                fabs(row[static_cast<size_t>(j)]) * (unit_of(t) + 1e-6) + 1e-7, "swiglu");
    }
    assert_true(own.rest_untouched() && both.rest_untouched());
    if (own.t.scale)
        return;
    assert_int_equal(kernel_silu_mul(nullptr, gate, gate, up), 0); /* in place */
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            assert_true(both.at(i, j) == own.at(i, j));
}

static void test_swiglu(void **)
{
    for (enum dtype t : floats)
        for (int64_t cols : {1, 9, 100, 2050})
            for (const layout &l : layouts) {
                check_swiglu(t, t, cols, l);
                check_swiglu(t, DTYPE_F8, cols, l);
                check_swiglu(t, DTYPE_I8, cols, l);
            }
}

/* ---- head, pooler ---- */

static void test_bias_and_relu(void **)
{
    random_numbers r = {8};
    for (enum dtype t : floats) {
        owned_tensor x(t, 4, 133, 3), before(t, 4, 133), bias(t, 1, 133);
        x.fill(r);
        bias.fill(r);
        before.copy(x);
        assert_int_equal(kernel_add_bias(nullptr, x.t, bias.t.data), 0);
        assert_int_equal(kernel_relu(nullptr, x.t), 0);
        for (int64_t i = 0; i < 4; i++)
            for (int64_t j = 0; j < 133; j++) {
                double want = before.at(i, j) + bias.at(0, j);
                check(x.at(i, j), want > 0 ? want : 0, fabs(want) * unit_of(t) + 1e-7, "bias");
            }
        assert_true(x.rest_untouched());
    }
}

/* Value j of what activation makes of one row of logits. */
static double activated(const std::vector<double> &x, uint32_t activation, size_t j)
{
    double sum = 0, largest = x[0];
    if (activation == ACTIVATION_NONE)
        return x[j];
    if (activation == ACTIVATION_SIGMOID)
        return 1 / (1 + exp(-x[j]));
    for (double v : x)
        largest = v > largest ? v : largest;
    for (double v : x)
        sum += exp(v - largest);
    return exp(x[activation == ACTIVATION_CLASS1 ? 1 : j] - largest) / sum;
}

static void check_pool(int64_t n_labels, uint64_t seed)
{
    static const uint32_t activations[] = {
        ACTIVATION_NONE, ACTIVATION_SOFTMAX, ACTIVATION_SIGMOID, ACTIVATION_CLASS1};
    random_numbers r = {seed + 9};
    owned_tensor logits(DTYPE_F32, 150, n_labels, 5);
    std::vector<struct pool_span> spans;
    std::vector<double> want;
    logits.fill(r, 9);
    for (uint32_t a = 0; a < (n_labels > 1 ? 8u : 6u); a++) {
        struct pool_span span = {a * 7, a % 2 ? 100u : 1u + a, a >= 4, activations[a / 2],
            static_cast<uint32_t>(want.size())};
        span.mean = a % 3 == 0;
        spans.push_back(span);
        for (uint32_t i = 0; i < (span.mean ? 1 : span.n); i++) {
            std::vector<double> row(static_cast<size_t>(n_labels));
            for (size_t j = 0; j < row.size(); j++)
                for (uint32_t k = 0; k < (span.mean ? span.n : 1); k++)
                    row[j] += logits.at(span.first + i + k, static_cast<int64_t>(j)) /
                              (span.mean ? span.n : 1);
            size_t n = span.activation == ACTIVATION_CLASS1 ? 1 : row.size();
            for (size_t j = 0; j < n; j++)
                want.push_back(activated(row, span.activation, j));
        }
    }
    owned_tensor values(DTYPE_F32, 1, static_cast<int64_t>(want.size()));
    simt_set_seed(seed);
    assert_int_equal(
        kernel_pool(nullptr, static_cast<float *>(values.t.data), logits.t,
            test_array<struct pool_span>(spans).data, static_cast<uint32_t>(spans.size())),
        0);
    for (size_t i = 0; i < want.size(); i++)
        check(values.at(0, static_cast<int64_t>(i)), want[i], fabs(want[i]) * 4e-6 + 1e-7, "pool");
}

static void test_pool(void **)
{
    for (uint64_t seed = 0; seed < n_seeds; seed++)
        for (int64_t n_labels : {1, 2, 3, 300})
            check_pool(n_labels, seed);
}

/* ---- ranks, quantized products ---- */

static void test_sum_ranks(void **)
{
    random_numbers r = {10};
    for (enum dtype t : floats)
        for (int64_t n : {1, 8, 77, 4096})
            for (uint32_t ranks : {2u, 3u, 8u}) {
                owned_tensor parts(t, ranks, n, n % 3 ? 3 : 0), out(t, 1, n);
                parts.fill(r);
                assert_int_equal(kernel_sum_ranks(nullptr, out.t.data, parts.t), 0);
                for (int64_t j = 0; j < n; j++) {
                    float sum = static_cast<float>(parts.at(0, j));
                    for (uint32_t k = 1; k < ranks; k++)
                        sum += static_cast<float>(parts.at(k, j));
                    double want = static_cast<double>(sum);
                    check(
                        out.at(0, j), want, fabs(want) * (t == DTYPE_F32 ? 0 : unit_of(t)), "sum");
                }
                /* into the first part's place */
                assert_int_equal(kernel_sum_ranks(nullptr, parts.t.data, parts.t), 0);
                for (int64_t j = 0; j < n; j++)
                    assert_true(parts.at(0, j) == out.at(0, j));
            }
}

static void test_quantize_and_back(void **)
{
    random_numbers r = {11};
    for (enum dtype t : floats)
        for (enum dtype q : {DTYPE_F8, DTYPE_I8})
            for (int64_t cols : {1, 16, 333}) {
                owned_tensor x(t, 4, cols, 1), out(q, 4, cols, 3);
                x.fill(r, 0.02);
                assert_int_equal(kernel_quantize_rows(nullptr, out.t, x.t), 0);
                for (int64_t i = 0; i < 4; i++) {
                    std::vector<double> row;
                    for (int64_t j = 0; j < cols; j++)
                        row.push_back(x.at(i, j));
                    check_quantized(out, i, row);
                }
                assert_true(out.rest_untouched());
            }
    for (enum dtype t : floats) {
        const int64_t cols = 300;
        std::vector<int32_t> sums(2 * 304);
        owned_tensor out(t, 2, cols, 2), bias(t, 1, cols);
        std::vector<float> by_row = {0.5f, 0.001f}, by_column(cols);
        bias.fill(r);
        for (size_t i = 0; i < sums.size(); i++)
            sums[i] = static_cast<int32_t>(r.next() * 2e6);
        for (float &x : by_column)
            x = static_cast<float>(r.next()) * 1e-3f;
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            test_array<int32_t> given(sums);
            test_array<float> scale_x(by_row), scale_w(by_column);
            struct tensor held = {given.data, DTYPE_F32, 2, cols, 304, scale_x.data};
            assert_int_equal(kernel_dequantize(nullptr, out.t, held, scale_w.data,
                                 with_bias ? bias.t.data : nullptr),
                0);
            for (int64_t i = 0; i < 2; i++)
                for (int64_t j = 0; j < cols; j++) {
                    double want = sums[static_cast<size_t>(i * 304 + j)] *
                                  static_cast<double>(by_row[static_cast<size_t>(i)]) *
                                  static_cast<double>(by_column[static_cast<size_t>(j)]);
                    double size = fabs(want);
                    want += with_bias ? bias.at(0, j) : 0;
                    check(out.at(i, j), want, fabs(want) * unit_of(t) + size * 2e-7 + 1e-7, "back");
                }
        }
    }
}

static void test_unknown_types_are_refused(void **)
{
    owned_tensor x(DTYPE_I8, 1, 8), f(DTYPE_F32, 1, 8);
    assert_int_equal(kernel_relu(nullptr, x.t), cudaErrorInvalidValue);
    assert_int_equal(kernel_quantize_rows(nullptr, f.t, f.t), cudaErrorInvalidValue);
    assert_int_equal(kernel_silu_mul(nullptr, f.t, x.t, x.t), cudaErrorInvalidValue);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_embed), cmocka_unit_test(test_gather),
        cmocka_unit_test(test_keep), cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_norm_alone_in_place_and_empty), cmocka_unit_test(test_head_norm),
        cmocka_unit_test(test_rope), cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_bias_and_relu), cmocka_unit_test(test_pool),
        cmocka_unit_test(test_sum_ranks), cmocka_unit_test(test_quantize_and_back),
        cmocka_unit_test(test_unknown_types_are_refused)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
