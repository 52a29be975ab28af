/* unpack.cu - a matrix of few bits (struct packing in worker/tensor.h) becomes one of floats, for
 * the product that follows: value = (stored - zero) * scale in float32, each step rounded, then
 * rounded to the product's type. So in float32 the values are bit for bit the CPU's.
 *
 * A block has a tile of TILE rows and columns. Its words go to shared memory as they lie,
 * whatever their order, so that they are read in lines. Then a warp has one row after the other,
 * and a thread in each the same two neighbouring columns: values are written in lines too, and a
 * column's group is found once. */
#include "cuda/rows.h"

namespace
{

const int THREADS = 256, TILE = 64, AWQ_ROWS = 8; /* rows in one of AWQ's words */

template <typename T> struct unpack_arguments {
    rows_of<T> out;
    int64_t rows, cols;
    const uint32_t *words;
    int64_t stride;
    struct packing packing;
};

/* A kind of packing, with what the compiler then knows of a tile: its words are `lines` of `across`
 * neighbours, in shared memory `step` words apart, so that what a warp reads is in many banks. */
template <packing_order ORDER, packed_numbers NUMBERS, int BITS> struct format {
    static constexpr packing_order order = ORDER;
    static constexpr int per_word = 32 / BITS;
    static constexpr int lines = ORDER == PACKED_COLUMNS ? TILE / per_word : TILE;
    static constexpr int across = ORDER == PACKED_ROWS      ? TILE / per_word
                                  : ORDER == PACKED_COLUMNS ? TILE
                                                            : TILE / AWQ_ROWS;
    static constexpr int step = across + 1;

    /* What is stored for a row and column of the tile. In AWQ's words rows are in the order 0 2 4 6
     * 1 3 5 7. */
    SIMT_DEVICE static uint32_t stored(const uint32_t *words, int r, int c)
    {
        int line = ORDER == PACKED_ROWS      ? r
                   : ORDER == PACKED_COLUMNS ? c / per_word
                                             : c,
            word = ORDER == PACKED_ROWS      ? c / per_word
                   : ORDER == PACKED_COLUMNS ? r
                                             : r / AWQ_ROWS,
            at = ORDER == PACKED_AWQ ? r % 2 * 4 + r % AWQ_ROWS / 2 : c % per_word;
        return words[line * step + word] >> at * BITS & ((1u << BITS) - 1);
    }
    SIMT_DEVICE static float number(const uint32_t *words, int r, int c)
    {
        uint32_t x = stored(words, r, c);
        if (NUMBERS == PACKED_E4M3)
            return to_float(f8_t{static_cast<uint8_t>(x)});
        return static_cast<float>(NUMBERS == PACKED_SIGNED ? x ^ 0x80 : x);
    }
};

/* Loads the words of the tile that begins at this row and column; beyond the matrix they are 0. */
template <typename Format, typename T>
SIMT_DEVICE void load_words(uint32_t *to, const unpack_arguments<T> &a, int64_t row, int64_t column)
{
    const bool is_rows = Format::order == PACKED_ROWS, is_awq = Format::order == PACKED_AWQ;
    const int64_t end = (a.cols + Format::per_word - 1) / Format::per_word,
                  word = column / Format::per_word;
    int64_t first_line = is_rows  ? row
                         : is_awq ? column
                                  : word,
            end_line = is_rows  ? a.rows
                       : is_awq ? a.cols
                                : end,
            first_word = is_rows  ? word
                         : is_awq ? row / AWQ_ROWS
                                  : row,
            end_word = is_rows  ? end
                       : is_awq ? (a.rows + AWQ_ROWS - 1) / AWQ_ROWS
                                : a.rows;
#pragma unroll
    for (int first = 0; first < Format::lines * Format::across; first += THREADS) {
        int i = first + static_cast<int>(threadIdx.x);
        int64_t at_line = first_line + i / Format::across,
                at_word = first_word + i % Format::across;
        to[i / Format::across * Format::step + i % Format::across] =
            at_line < end_line && at_word < end_word ? a.words[at_line * a.stride + at_word] : 0;
    }
}

/* Where the numbers of a column's group begin in the tables. */
SIMT_DEVICE int64_t table_row(const struct packing &p, int64_t column)
{
    uint32_t size = static_cast<uint32_t>(p.group_size);
    return p.group_stride *
           (p.group_of ? p.group_of[column] : static_cast<uint32_t>(p.first + column) / size);
}

struct group_numbers {
    float scale, zero;
};

SIMT_DEVICE group_numbers load_group_numbers(const struct packing &p, int64_t at)
{
    return {p.scale[at], p.zero[at]};
}

/* Two neighbours, or the first alone. vectors: p is aligned for both. */
template <typename T> SIMT_DEVICE void store_pair(T *p, const float v[2], bool both, bool vectors)
{
    if constexpr (sizeof(T) == 2) {
        if (both && vectors) {
            *reinterpret_cast<uint32_t *>(p) = pack_pair<T>(v[0], v[1]);
            return;
        }
    }
    p[0] = from_float<T>(v[0]);
    if (both)
        p[1] = from_float<T>(v[1]);
}

template <packing_order ORDER, packed_numbers NUMBERS, int BITS, typename T>
__global__ void __launch_bounds__(THREADS) unpack_kernel(unpack_arguments<T> a)
{
    SIMT_SHARED(uint32_t, words);
    using f = format<ORDER, NUMBERS, BITS>;
    int64_t row = static_cast<int64_t>(blockIdx.x) * TILE,
            column = static_cast<int64_t>(blockIdx.y) * TILE;
    load_words<f>(words, a, row, column);
    __syncthreads();
    int c = static_cast<int>(threadIdx.x) % 32 * 2, r = static_cast<int>(threadIdx.x) / 32;
    if (column + c >= a.cols)
        return;
    bool both = column + c + 1 < a.cols;
    int64_t first = table_row(a.packing, column + c),
            second = both ? table_row(a.packing, column + c + 1) : first;
    for (; r < TILE && row + r < a.rows; r += THREADS / 32) {
        group_numbers g = load_group_numbers(a.packing, first + row + r), h = g;
        if (second != first)
            h = load_group_numbers(a.packing, second + row + r);
        float v[2] = {(f::number(words, r, c) - g.zero) * g.scale,
            (f::number(words, r, c + 1) - h.zero) * h.scale};
        store_pair(a.out.row(row + r) + column + c, v, both, a.out.vectors);
    }
}

template <packing_order ORDER, packed_numbers NUMBERS, int BITS, typename T>
cudaError_t launch(cudaStream_t stream, struct tensor out, const struct weight *w)
{
    using f = format<ORDER, NUMBERS, BITS>;
    unpack_arguments<T> a = {rows_view<T>(out), w->rows, w->cols,
        static_cast<const uint32_t *>(w->data), w->stride, *w->packing};
    dim3 grid(static_cast<unsigned>((w->rows + TILE - 1) / TILE),
        static_cast<unsigned>((w->cols + TILE - 1) / TILE));
    return SIMT_LAUNCH(stream, (unpack_kernel<ORDER, NUMBERS, BITS, T>), grid, THREADS,
        f::lines * f::step * sizeof(uint32_t), a);
}

/* Of the kinds that checkpoints have. */
template <typename T>
cudaError_t launch_kind(cudaStream_t stream, struct tensor out, const struct weight *w)
{
    const struct packing *p = w->packing;
    bool is_plain = p->numbers == PACKED_UNSIGNED;
    if (p->order == PACKED_AWQ && p->bits == 4 && is_plain)
        return launch<PACKED_AWQ, PACKED_UNSIGNED, 4, T>(stream, out, w);
    if (p->order == PACKED_COLUMNS && p->bits == 4 && is_plain)
        return launch<PACKED_COLUMNS, PACKED_UNSIGNED, 4, T>(stream, out, w);
    if (p->order == PACKED_COLUMNS && p->bits == 8 && is_plain)
        return launch<PACKED_COLUMNS, PACKED_UNSIGNED, 8, T>(stream, out, w);
    if (p->order == PACKED_ROWS && p->bits == 4 && is_plain)
        return launch<PACKED_ROWS, PACKED_UNSIGNED, 4, T>(stream, out, w);
    if (p->order == PACKED_ROWS && p->bits == 8 && is_plain)
        return launch<PACKED_ROWS, PACKED_UNSIGNED, 8, T>(stream, out, w);
    if (p->order == PACKED_ROWS && p->bits == 8 && p->numbers == PACKED_SIGNED)
        return launch<PACKED_ROWS, PACKED_SIGNED, 8, T>(stream, out, w);
    if (p->order == PACKED_ROWS && p->bits == 8)
        return launch<PACKED_ROWS, PACKED_E4M3, 8, T>(stream, out, w);
    return cudaErrorInvalidValue;
}

} // namespace

cudaError_t kernel_unpack(cudaStream_t stream, struct tensor out, const struct weight *w)
{
    if (w->dtype != DTYPE_PACKED || out.rows != w->rows || out.cols != w->cols)
        return cudaErrorInvalidValue;
    return with_float_type(
        out.dtype, [&](auto tag) { return launch_kind<decltype(tag)>(stream, out, w); });
}
