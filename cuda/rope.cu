/* rope.cu - rotary positions, in place: in each head, with half = head_dim / 2,
 *     (x[i], x[i + half]) -> (x[i] cos - x[i + half] sin, x[i + half] cos + x[i] sin)
 * for i < half, with cos and sin from the tables' row for the token's position. One block per
 * token; a thread takes eight pairs of one head at a time. */
#include "cuda/rows.h"

namespace
{

struct rope_arguments {
    uint32_t n_heads, half;
    const int32_t *positions;
    const float *cos_table, *sin_table;
    bool vectors, table_vectors;
};

template <typename T> __global__ void rope_kernel(rows_of<T> x, rope_arguments a)
{
    int64_t row = blockIdx.x;
    uint32_t groups = (a.half + GROUP - 1) / GROUP;
    const float *cos_row = a.cos_table + static_cast<int64_t>(a.positions[row]) * a.half;
    const float *sin_row = a.sin_table + static_cast<int64_t>(a.positions[row]) * a.half;
    for (uint32_t unit = threadIdx.x; unit < a.n_heads * groups; unit += blockDim.x) {
        uint32_t at = unit % groups * GROUP, n = a.half - at;
        T *low = x.row(row) + unit / groups * 2 * a.half + at, *high = low + a.half;
        float c[GROUP], s[GROUP], p[GROUP], q[GROUP], turned[GROUP];
        load_group(c, cos_row + at, n, a.table_vectors);
        load_group(s, sin_row + at, n, a.table_vectors);
        load_group(p, low, n, a.vectors);
        load_group(q, high, n, a.vectors);
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            turned[i] = p[i] * c[i] - q[i] * s[i];
        store_group(low, turned, n, a.vectors);
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            turned[i] = q[i] * c[i] + p[i] * s[i];
        store_group(high, turned, n, a.vectors);
    }
}

} // namespace

cudaError_t kernel_rope(cudaStream_t stream, struct tensor x, uint32_t n_heads,
    const struct rope_tables *tables, const int32_t *positions)
{
    uint32_t half = tables->head_dim / 2;
    if (x.rows == 0)
        return cudaSuccess;
    uintptr_t bases =
        reinterpret_cast<uintptr_t>(tables->cos) | reinterpret_cast<uintptr_t>(tables->sin);
    return with_float_type(x.dtype, [&](auto tag) {
        using T = decltype(tag);
        rows_of<T> rows = rows_view<T>(x);
        rope_arguments a = {n_heads, half, positions, tables->cos, tables->sin,
            rows.vectors && half % GROUP == 0, bases % 16 == 0 && half % 4 == 0};
        int64_t units = static_cast<int64_t>(n_heads) * ((half + GROUP - 1) / GROUP);
        unsigned threads = units > 256 ? 256 : static_cast<unsigned>((units + 31) / 32 * 32);
        return SIMT_LAUNCH(
            stream, rope_kernel<T>, static_cast<unsigned>(x.rows), threads, 0, rows, a);
    });
}
