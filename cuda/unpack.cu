/* unpack.cu - a matrix of few bits (struct packing in worker/tensor.h) becomes one of floats, for the
 * product that follows: value = (stored - zero) * scale in float32, each step rounded, then rounded
 * to the product's type. So in float32 the values are bit for bit the CPU's.
 *
 * A block has a tile of TILE rows and columns. Its words go to shared memory as they lie, whatever
 * their order, so that they are read in lines; then a thread has eight columns of a row at a time,
 * so that values are written in lines too. The scale and zero point of a group are loaded where it
 * begins; with an order of the columns, for each column. */
#include "cuda/rows.h"

namespace
{

const unsigned THREADS = 256;
const int TILE = 64, AWQ_ROWS = 8; /* rows in one of AWQ's words */

template <typename T> struct unpack_arguments {
    rows_of<T> out;
    int64_t rows, cols;
    const uint32_t *words;
    int64_t stride;
    struct packing packing;
};

/* The words of a tile: lines of `across` neighbours. */
struct word_lines {
    int lines, across;
    int64_t first_line, first_word, end_line, end_word;
};

template <enum packing_order ORDER, typename T>
SIMT_DEVICE word_lines lines_of(const unpack_arguments<T> &a, int64_t row, int64_t column)
{
    int per_word = 32 / a.packing.bits;
    int64_t word = column / per_word, end = (a.cols + per_word - 1) / per_word;
    if (ORDER == PACKED_ROWS)
        return {TILE, TILE / per_word, row, word, a.rows, end};
    if (ORDER == PACKED_COLUMNS)
        return {TILE / per_word, TILE, word, row, end, a.rows};
    return {
        TILE, TILE / AWQ_ROWS, column, row / AWQ_ROWS, a.cols, (a.rows + AWQ_ROWS - 1) / AWQ_ROWS};
}

template <typename T>
SIMT_DEVICE void load_words(uint32_t *to, const unpack_arguments<T> &a, const word_lines &l)
{
    for (int i = static_cast<int>(threadIdx.x); i < l.lines * l.across;
         i += static_cast<int>(THREADS)) {
        int64_t line = l.first_line + i / l.across, word = l.first_word + i % l.across;
        to[i] = line < l.end_line && word < l.end_word ? a.words[line * a.stride + word] : 0;
    }
}

/* What is stored for a row and column of the tile. In AWQ's words rows are in the order 0 2 4 6 1 3
 * 5 7. */
template <enum packing_order ORDER>
SIMT_DEVICE uint32_t stored_at(const uint32_t *words, const word_lines &l, int bits, int r, int c)
{
    int per_word = 32 / bits, at = c % per_word;
    uint32_t word;
    if (ORDER == PACKED_ROWS) {
        word = words[r * l.across + c / per_word];
    } else if (ORDER == PACKED_COLUMNS) {
        word = words[c / per_word * l.across + r];
    } else {
        word = words[c * l.across + r / AWQ_ROWS];
        at = r % 2 * 4 + r % AWQ_ROWS / 2;
    }
    return word >> at * bits & ((1u << bits) - 1);
}

SIMT_DEVICE float number_of(enum packed_numbers numbers, uint32_t stored)
{
    if (numbers == PACKED_E4M3)
        return to_float(f8_t{static_cast<uint8_t>(stored)});
    return static_cast<float>(numbers == PACKED_SIGNED ? stored ^ 0x80 : stored);
}

/* Scale and zero point of a row, and the column where they end. */
struct group_numbers {
    float scale, zero;
    int64_t end;
};

SIMT_DEVICE group_numbers find_group(const struct packing &p, int64_t row, int64_t column)
{
    uint32_t size = static_cast<uint32_t>(p.group_size), group;
    int64_t end = column + 1;
    if (p.group_of) {
        group = static_cast<uint32_t>(p.group_of[column]);
    } else {
        group = static_cast<uint32_t>(p.first + column) / size;
        end = (static_cast<int64_t>(group) + 1) * size - p.first;
    }
    int64_t at = group * p.group_stride + row;
    return {p.scale[at], p.zero[at], end};
}

template <enum packing_order ORDER, typename T>
__global__ void __launch_bounds__(THREADS) unpack_kernel(unpack_arguments<T> a)
{
    SIMT_SHARED(uint32_t, words);
    int64_t row = static_cast<int64_t>(blockIdx.x) * TILE,
            column = static_cast<int64_t>(blockIdx.y) * TILE;
    word_lines lines = lines_of<ORDER>(a, row, column);
    load_words(words, a, lines);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < TILE * TILE / GROUP;
         i += static_cast<int>(THREADS)) {
        int r = i / (TILE / GROUP), c = i % (TILE / GROUP) * GROUP;
        int64_t n = row + r < a.rows ? a.cols - column - c : 0;
        group_numbers group = {0, 0, 0};
        float v[GROUP];
        if (n <= 0)
            continue;
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
            if (k < n && column + c + k >= group.end)
                group = find_group(a.packing, row + r, column + c + k);
            uint32_t stored = stored_at<ORDER>(words, lines, a.packing.bits, r, c + k);
            v[k] = (number_of(a.packing.numbers, stored) - group.zero) * group.scale;
        }
        store_group(a.out.row(row + r) + column + c, v, n, a.out.vectors);
    }
}

template <enum packing_order ORDER, typename T>
cudaError_t launch(cudaStream_t stream, struct tensor out, const struct weight *w)
{
    unpack_arguments<T> a = {rows_view<T>(out), w->rows, w->cols,
        static_cast<const uint32_t *>(w->data), w->stride, *w->packing};
    dim3 grid(static_cast<unsigned>((w->rows + TILE - 1) / TILE),
        static_cast<unsigned>((w->cols + TILE - 1) / TILE));
    size_t words = ORDER == PACKED_AWQ ? TILE * TILE / AWQ_ROWS
                                       : static_cast<size_t>(TILE * TILE / 32 * w->packing->bits);
    return SIMT_LAUNCH(
        stream, (unpack_kernel<ORDER, T>), grid, THREADS, words * sizeof(uint32_t), a);
}

} // namespace

cudaError_t kernel_unpack(cudaStream_t stream, struct tensor out, const struct weight *w)
{
    if (w->dtype != DTYPE_PACKED || out.rows != w->rows || out.cols != w->cols)
        return cudaErrorInvalidValue;
    return with_float_type(out.dtype, [&](auto tag) {
        using T = decltype(tag);
        switch (w->packing->order) {
        case PACKED_ROWS:
            return launch<PACKED_ROWS, T>(stream, out, w);
        case PACKED_COLUMNS:
            return launch<PACKED_COLUMNS, T>(stream, out, w);
        default:
            return launch<PACKED_AWQ, T>(stream, out, w);
        }
    });
}
