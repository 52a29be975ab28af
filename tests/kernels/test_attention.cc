/* test_attention.cc - both attention kernels against the formula in double precision: every head
 * size and type, grouped heads, windows, lengths around the tiles' edges, several sequences in a
 * batch; the same bits under every order of threads and in every batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}

#include "tests/kernels/tensors.h"

struct problem {
    enum dtype type;
    uint32_t heads, kv_heads, dim, window;
    std::vector<uint32_t> lengths;
    int64_t pad, shift; /* of the tensor that holds q, k and v side by side */
    double size;        /* of q and k: how sharp the softmax is */
};

typedef cudaError_t attention_kernel(cudaStream_t, struct tensor, const struct attention_input *,
    const struct attention_shape *, const struct attention_tiles *, uint32_t *);

static struct attention_shape shape_of(const problem &p)
{
    return {p.heads, p.kv_heads, p.dim, 1 / sqrtf(static_cast<float>(p.dim)), p.window};
}

/* The sequences of `which`, packed in that order: their rows of all, and the tiles. */
struct batch {
    owned_tensor qkv, out;
    std::vector<struct attention_tile> tiles;
    std::vector<uint32_t> blocks; /* of what is cached */
    struct tensor cached_k = {}, cached_v = {};

    batch(const problem &p, const owned_tensor &all, const std::vector<size_t> &which)
        : qkv(p.type, tokens(p, which), all.t.cols, p.pad, p.shift),
          out(p.type, tokens(p, which), p.heads * p.dim, p.pad, 0)
    {
        uint32_t at = 0;
        for (size_t s : which) {
            uint32_t first = 0;
            for (size_t i = 0; i < s; i++)
                first += p.lengths[i];
            for (uint32_t i = 0; i < p.lengths[s]; i++)
                for (int64_t j = 0; j < all.t.cols; j++)
                    qkv.set(at + i, j, all.at(first + i, j));
            for (uint32_t from = 0; from < p.lengths[s]; from += ATTENTION_TILE_TOKENS)
                tiles.push_back({at, p.lengths[s], from, 0, 0, 0, 0});
            at += p.lengths[s];
        }
    }
    static int64_t tokens(const problem &p, const std::vector<size_t> &which)
    {
        int64_t n = 0;
        for (size_t s : which)
            n += p.lengths[s];
        return n;
    }
    struct tensor q(const problem &p) const
    {
        return tensor_columns(qkv.t, 0, p.heads * p.dim);
    }
    struct tensor k(const problem &p) const
    {
        return tensor_columns(qkv.t, p.heads * p.dim, p.kv_heads * p.dim);
    }
    struct tensor v(const problem &p) const
    {
        return tensor_columns(qkv.t, (p.heads + p.kv_heads) * p.dim, p.kv_heads * p.dim);
    }
    void run(const problem &p, attention_kernel *kernel)
    {
        struct attention_shape shape = shape_of(p);
        test_array<struct attention_tile> list(tiles);
        owned_tensor counter(DTYPE_F32, 1, 1);
        auto *progress = static_cast<uint32_t *>(counter.t.data);
        *progress = 7;
        struct attention_input in = {q(p), k(p), v(p), cached_k, cached_v};
        test_array<uint32_t> table(blocks);
        struct attention_tiles all = {
            list.data, static_cast<uint32_t>(tiles.size()), blocks.empty() ? nullptr : table.data};
        assert_int_equal(kernel(nullptr, out.t, &in, &shape, &all, progress), cudaSuccess);
        assert_true(*progress > 7);
    }
};

static double value(struct tensor t, int64_t row, int64_t column)
{
    return element_at(t.data, t.dtype, row * t.stride + column);
}

/* One row and head in double precision: out[dim], and how large the weighted values are. */
static void reference(const problem &p, const batch &b, uint32_t first, uint32_t query,
    uint32_t head, std::vector<double> &out, std::vector<double> &size)
{
    uint32_t kv_head = head / (p.heads / p.kv_heads);
    uint32_t low = p.window > 0 && query + 1 > p.window ? query + 1 - p.window : 0;
    std::vector<double> s;
    double largest = -INFINITY, sum = 0;
    for (uint32_t key = low; key <= query; key++) {
        double x = 0;
        for (uint32_t d = 0; d < p.dim; d++)
            x += value(b.q(p), first + query, head * p.dim + d) *
                 value(b.k(p), first + key, kv_head * p.dim + d);
        s.push_back(x / sqrt(p.dim));
        largest = s.back() > largest ? s.back() : largest;
    }
    for (double &x : s)
        sum += x = exp(x - largest);
    out.assign(p.dim, 0);
    size.assign(p.dim, 0);
    for (uint32_t key = low; key <= query; key++)
        for (uint32_t d = 0; d < p.dim; d++) {
            double term = s[key - low] / sum * value(b.v(p), first + key, kv_head * p.dim + d);
            out[d] += term;
            size[d] += fabs(term);
        }
}

/* Weights are rounded to the type before they meet the values (mma), the result once more. Scores
 * of float32 products are off by some ulp of their terms' size, which exp turns into as much
 * relative error. */
static void check_batch(
    const problem &p, const batch &b, const std::vector<size_t> &which, bool mma)
{
    uint32_t first = 0;
    std::vector<double> want, size;
    double weight_error = (mma ? unit_of(p.type) : 0) + 2e-6 * (1 + p.size * p.size * sqrt(p.dim));
    for (size_t s : which) {
        for (uint32_t i = 0; i<p.lengths[s]; i += i % 64> 2 && i % 64 < 60 ? 7 : 1)
            for (uint32_t h = 0; h < p.heads; h++) {
                reference(p, b, first, i, h, want, size);
                for (uint32_t d = 0; d < p.dim; d++) {
                    double found = b.out.at(first + i, h * p.dim + d);
                    double limit = size[d] * weight_error + fabs(want[d]) * unit_of(p.type) + 1e-7;
                    if (!(fabs(found - want[d]) <= limit))
                        fail_msg("dim %u window %u length %u query %u head %u column %u: expected "
                                 "%.8g within %.2g, found %.8g",
                            p.dim, p.window, p.lengths[s], i, h, d, want[d], limit, found);
                }
            }
        first += p.lengths[s];
    }
    assert_true(b.out.rest_untouched() && b.qkv.rest_untouched());
}

static void check_problem(const problem &p, attention_kernel *kernel, uint64_t seeds)
{
    random_numbers r = {p.dim * 31 + p.window};
    std::vector<size_t> in_order, backwards;
    int64_t tokens = 0;
    for (size_t s = 0; s < p.lengths.size(); s++) {
        in_order.push_back(s);
        backwards.insert(backwards.begin(), s);
        tokens += p.lengths[s];
    }
    owned_tensor all(p.type, tokens, (p.heads + 2 * p.kv_heads) * p.dim);
    all.fill(r);
    for (int64_t i = 0; i < tokens; i++)
        for (int64_t j = 0; j < (p.heads + p.kv_heads) * p.dim; j++)
            all.set(i, j, all.at(i, j) * p.size);
    simt_set_seed(0);
    batch first(p, all, in_order);
    first.run(p, kernel);
    check_batch(p, first, in_order, kernel == kernel_attention_mma);
    for (uint64_t seed = 1; seed < seeds; seed++) {
        simt_set_seed(seed);
        batch again(p, all, in_order);
        again.run(p, kernel);
        assert_true(same_bits(first.out, again.out));
    }
    /* the last sequence alone, and first of all */
    size_t last = p.lengths.size() - 1;
    batch alone(p, all, {last}), turned(p, all, backwards);
    alone.run(p, kernel);
    turned.run(p, kernel);
    owned_tensor tail(p.type, p.lengths[last], p.heads * p.dim);
    for (int64_t i = 0; i < p.lengths[last]; i++)
        for (int64_t j = 0; j < p.heads * p.dim; j++)
            tail.set(i, j, first.out.at(tokens - p.lengths[last] + i, j));
    assert_true(same_bits(tail, alone.out));
    turned.out.t.rows = p.lengths[last];
    assert_true(same_bits(tail, turned.out));
}

/* Sequences with a prefix: the batch begins with the prefix alone, then has what follows it in
 * each. Each sequence's own tokens have the bits that they have where it is whole. */
static void check_prefix(const problem &p, uint32_t prefix, attention_kernel *kernel)
{
    random_numbers r = {p.dim * 17 + prefix};
    int64_t tokens = prefix, whole_tokens = 0;
    uint32_t at = prefix, whole_at = 0;
    for (uint32_t length : p.lengths) {
        tokens += length - prefix;
        whole_tokens += length;
    }
    int64_t columns = (p.heads + 2 * p.kv_heads) * p.dim;
    owned_tensor once(p.type, tokens, columns), all(p.type, whole_tokens, columns);
    once.fill(r);
    std::vector<int64_t>
        source; /* of each token of the whole sequences, in the batch that shares */
    std::vector<struct attention_tile> tiles;
    for (uint32_t from = 0; from < prefix; from += ATTENTION_TILE_TOKENS)
        tiles.push_back({0, prefix, from, 0, 0, 0, 0});
    for (uint32_t length : p.lengths) {
        for (uint32_t i = 0; i < length; i++)
            source.push_back(i < prefix ? i : at + (i - prefix));
        uint32_t from = prefix / ATTENTION_TILE_TOKENS * ATTENTION_TILE_TOKENS;
        for (; from < length; from += ATTENTION_TILE_TOKENS)
            tiles.push_back({at - prefix, length, from, 0, prefix, 0, 0});
        at += length - prefix;
    }
    for (int64_t i = 0; i < whole_tokens; i++)
        for (int64_t j = 0; j < columns; j++)
            all.set(i, j, once.at(source[static_cast<size_t>(i)], j));
    std::vector<size_t> order;
    for (size_t s = 0; s < p.lengths.size(); s++)
        order.push_back(s);
    problem packed = p;
    packed.lengths = {static_cast<uint32_t>(tokens)};
    batch whole(p, all, order), shared(packed, once, {0});
    shared.tiles = tiles;
    whole.run(p, kernel);
    shared.run(packed, kernel);
    owned_tensor found(p.type, whole_tokens, p.heads * p.dim),
        wanted(p.type, whole_tokens, p.heads * p.dim);
    for (whole_at = 0; whole_at < whole_tokens; whole_at++)
        for (int64_t j = 0; j < p.heads * p.dim; j++) {
            found.set(whole_at, j, shared.out.at(source[whole_at], j));
            wanted.set(whole_at, j, whole.out.at(whole_at, j));
        }
    assert_true(same_bits(found, wanted));
    assert_true(shared.out.rest_untouched());
}

/* Two sequences of one beginning: its first tokens are cached, in scattered blocks, those after
 * them are a prefix, and the rest of each is its own. Each one's own tokens have the bits that they
 * have where it is whole. */
struct cached_problem {
    const problem &p;
    uint32_t cached, before; /* tokens that are cached; with those of the prefix */
    int64_t q, kv, columns;
    owned_tensor begin, rest, all, cache;

    cached_problem(const problem &of, uint32_t n_cached, uint32_t prefix)
        : p(of), cached(n_cached), before(n_cached + prefix), q(of.heads * of.dim),
          kv(of.kv_heads * of.dim), columns(q + 2 * kv), begin(of.type, before, columns),
          rest(of.type, prefix + of.lengths[0] + of.lengths[1] - 2 * before, columns),
          all(of.type, of.lengths[0] + of.lengths[1], columns),
          cache(of.type, 2 * n_cached + KV_BLOCK_TOKENS, 2 * kv, of.pad, of.shift)
    {
        random_numbers r = {of.dim * 13 + before};
        begin.fill(r);
        rest.fill(r);
        for (uint32_t i = 0; i < prefix; i++)
            for (int64_t j = 0; j < columns; j++)
                rest.set(i, j, begin.at(cached + i, j));
    }
    /* The sequence is rows [first, ..) of `all`; its own tokens are rows [at, ..) of `rest`. */
    void add_whole(uint32_t first, uint32_t at, uint32_t length)
    {
        for (uint32_t i = 0; i < length; i++)
            for (int64_t j = 0; j < columns; j++)
                all.set(first + i, j, i < before ? begin.at(i, j) : rest.at(at + i - before, j));
    }
    /* Every other block, from the last on, has 16 of the first tokens. */
    void keep(batch &b)
    {
        for (uint32_t n = cached / KV_BLOCK_TOKENS; n > 0; n--)
            b.blocks.push_back(2 * n);
        for (uint32_t i = 0; i < cached; i++)
            for (int64_t j = 0; j < 2 * kv; j++)
                cache.set(b.blocks[i / KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS + i % KV_BLOCK_TOKENS, j,
                    begin.at(i, q + j));
        b.cached_k = tensor_columns(cache.t, 0, kv);
        b.cached_v = tensor_columns(cache.t, kv, kv);
    }
};

/* Tiles of a sequence whose own tokens, from position `own` on, begin at token `at`; the prefix is
 * at the batch's beginning. */
static void add_tiles(batch &b, uint32_t at, uint32_t own, uint32_t length, uint32_t cached)
{
    for (uint32_t from = own / ATTENTION_TILE_TOKENS * ATTENTION_TILE_TOKENS; from < length;
         from += ATTENTION_TILE_TOKENS)
        b.tiles.push_back({at - own, length, from, 0 - cached, own, cached, 0});
}

static void check_cached(
    const problem &p, uint32_t cached, uint32_t prefix, attention_kernel *kernel)
{
    cached_problem c(p, cached, prefix);
    problem packed = p;
    packed.lengths = {static_cast<uint32_t>(c.rest.t.rows)};
    batch found(packed, c.rest, {0});
    found.tiles.clear();
    c.keep(found);
    uint32_t at = prefix, first = 0;
    if (prefix > 0)
        add_tiles(found, 0, cached, c.before, cached);
    for (uint32_t length : p.lengths) {
        add_tiles(found, at, c.before, length, cached);
        c.add_whole(first, at, length);
        at += length - c.before;
        first += length;
    }
    batch whole(p, c.all, {0, 1});
    whole.run(p, kernel);
    found.run(packed, kernel);
    at = first = 0;
    for (uint32_t length : p.lengths) { /* the prefix's tokens are the first sequence's */
        for (uint32_t i = first == 0 ? cached : c.before; i < length; i++, at++)
            for (int64_t j = 0; j < c.q; j++)
                assert_true(whole.out.at(first + i, j) == found.out.at(at, j));
        first += length;
    }
    assert_true(found.out.rest_untouched() && c.cache.rest_untouched());
}

static void test_cached(void **)
{
    simt_set_seed(0);
    for (uint32_t cached : {16u, 48u, 64u, 80u, 144u})
        for (uint32_t prefix : {0u, 5u, 64u}) {
            uint32_t n = cached + prefix;
            check_cached({DTYPE_BF16, 2, 1, 64, 0, {n + 1, n + 70}, 8, 0, 1}, cached, prefix,
                kernel_attention_mma);
            check_cached({DTYPE_F32, 2, 1, 20, 0, {n + 66, n + 17}, 3, 1, 1}, cached, prefix,
                kernel_attention_simt);
            check_cached({DTYPE_F16, 2, 2, 80, 50, {n + 66, n + 1}, 0, 0, 9}, cached, prefix,
                kernel_attention_mma);
        }
}

/* Rows that the kernel cannot read 16 bytes at a time are refused, as another kernel would give
 * other bits. */
static void test_cached_askew(void **)
{
    owned_tensor x(DTYPE_BF16, 17, 64), cache(DTYPE_BF16, 16, 64, 3, 1), out(DTYPE_BF16, 17, 64);
    test_array<struct attention_tile> list({{0u - 16, 17, 0, 0, 16, 16, 0}});
    test_array<uint32_t> blocks({0});
    struct attention_shape shape = {1, 1, 64, 0.125f, 0};
    struct attention_input in = {x.t, x.t, x.t, cache.t, cache.t};
    struct attention_tiles tiles = {list.data, 1, blocks.data};
    assert_int_equal(
        kernel_attention_mma(nullptr, out.t, &in, &shape, &tiles, nullptr), cudaErrorInvalidValue);
}

static void test_prefixes(void **)
{
    simt_set_seed(0);
    for (uint32_t prefix : {1u, 31u, 63u, 64u, 65u, 127u, 130u}) {
        check_prefix({DTYPE_BF16, 2, 1, 64, 0, {prefix + 1, prefix + 70, prefix + 17}, 8, 0, 1},
            prefix, kernel_attention_mma);
        check_prefix({DTYPE_F32, 2, 1, 20, 0, {prefix + 1, prefix + 70, prefix + 17}, 3, 1, 1},
            prefix, kernel_attention_simt);
        check_prefix({DTYPE_F16, 2, 2, 80, 50, {prefix + 66, prefix + 1}, 0, 0, 9}, prefix,
            kernel_attention_mma);
        check_prefix({DTYPE_F16, 2, 2, 72, 50, {prefix + 66, prefix + 1}, 0, 0, 9}, prefix,
            kernel_attention_simt);
    }
}

static void test_mma_every_size_and_type(void **)
{
    for (enum dtype t : {DTYPE_BF16, DTYPE_F16})
        for (uint32_t dim : {64u, 80u, 96u, 128u})
            check_problem({t, 2, 1, dim, 0, {65, 1, 17}, 8, 0, 1}, kernel_attention_mma, 3);
}

static void test_mma_lengths(void **)
{
    check_problem({DTYPE_BF16, 1, 1, 64, 0, {1, 2, 15, 16, 63, 64, 127, 130, 200}, 0, 0, 1},
        kernel_attention_mma, 2);
    check_problem({DTYPE_F16, 6, 2, 64, 0, {33, 70}, 0, 8, 1}, kernel_attention_mma, 2);
}

static void test_mma_windows(void **)
{
    for (uint32_t window : {1u, 7u, 64u, 100u, 1000u})
        check_problem({DTYPE_BF16, 2, 2, 64, window, {200, 66}, 0, 0, 1}, kernel_attention_mma, 2);
}

static void test_mma_sharp_scores(void **)
{
    check_problem({DTYPE_BF16, 1, 1, 128, 0, {140}, 0, 0, 12}, kernel_attention_mma, 2);
    check_problem({DTYPE_F16, 1, 1, 64, 30, {140}, 0, 0, 12}, kernel_attention_mma, 2);
}

static void test_simt(void **)
{
    for (enum dtype t : {DTYPE_F32, DTYPE_BF16, DTYPE_F16})
        for (uint32_t dim : {4u, 20u, 64u, 72u, 144u})
            check_problem(
                {t, 2, 1, dim, dim == 20 ? 9u : 0, {65, 1, 17}, t % 2 ? 3 : 0, t % 2 ? 1 : 0, 1},
                kernel_attention_simt, 2);
    check_problem({DTYPE_F32, 1, 1, 64, 0, {64, 130, 200}, 0, 0, 1}, kernel_attention_simt, 2);
    check_problem({DTYPE_F32, 3, 1, 16, 70, {200}, 0, 0, 8}, kernel_attention_simt, 2);
}

static void test_what_fits(void **)
{
    owned_tensor x(DTYPE_BF16, 4, 64), f(DTYPE_F32, 4, 64), askew(DTYPE_BF16, 4, 64, 3, 1);
    struct attention_shape shape = {1, 1, 64, 0.125f, 0}, odd = {1, 1, 72, 0.1f, 0};
    struct attention_input in = {x.t, x.t, x.t, {}, {}}, floats = {f.t, f.t, f.t, {}, {}},
                           unaligned = {x.t, askew.t, x.t, {}, {}};
    assert_true(kernel_attention_mma_fits(x.t, &in, &shape));
    assert_false(kernel_attention_mma_fits(x.t, &in, &odd));
    assert_false(kernel_attention_mma_fits(f.t, &floats, &shape));
    assert_false(kernel_attention_mma_fits(x.t, &unaligned, &shape));
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mma_every_size_and_type),
        cmocka_unit_test(test_mma_lengths), cmocka_unit_test(test_mma_windows),
        cmocka_unit_test(test_mma_sharp_scores), cmocka_unit_test(test_simt),
        cmocka_unit_test(test_prefixes), cmocka_unit_test(test_cached),
        cmocka_unit_test(test_cached_askew), cmocka_unit_test(test_what_fits)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
