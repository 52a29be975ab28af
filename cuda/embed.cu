/* embed.cu - moves rows by index: of the embedding table, widened; of activations, unchanged,
 * gathered or to their slots in a KV cache. One block per row, or per run of slots. */
#include "cuda/rows.h"

namespace
{

template <typename T> struct embed_arguments {
    rows_of<f32_t> out;
    rows_of<T> table;
    int64_t table_rows, cols;
    const int32_t *ids;
};

template <typename T> __global__ void embed_kernel(embed_arguments<T> a)
{
    int64_t row = blockIdx.x, id = a.ids[row];
    bool inside = id >= 0 && id < a.table_rows;
    for (int64_t at = static_cast<int64_t>(threadIdx.x) * GROUP; at < a.cols;
         at += static_cast<int64_t>(blockDim.x) * GROUP) {
        float v[GROUP];
        if (inside)
            load_group(v, a.table.row(id) + at, a.cols - at, a.table.vectors);
        for (int i = 0; i < GROUP; i++)
            v[i] = inside ? v[i] : float_from_bits(0x7fc00000);
        store_group(a.out.row(row) + at, v, a.cols - at, a.out.vectors);
    }
}

struct gather_arguments {
    char *out;
    const char *x;
    int64_t out_step, x_step, bytes; /* of a row */
    const uint32_t *rows;
};

/* Unit: the type of one access. */
template <typename Unit> __global__ void gather_kernel(gather_arguments a)
{
    const Unit *from = reinterpret_cast<const Unit *>(a.x + a.rows[blockIdx.x] * a.x_step);
    Unit *to = reinterpret_cast<Unit *>(a.out + blockIdx.x * a.out_step);
    for (int64_t i = threadIdx.x; i < a.bytes / static_cast<int64_t>(sizeof(Unit)); i += blockDim.x)
        to[i] = from[i];
}

struct keep_arguments {
    char *out;
    const char *x;
    int64_t out_step, x_step, bytes; /* of a row */
    const struct kv_slots *slots;
};

template <typename Unit> __global__ void keep_kernel(keep_arguments a)
{
    struct kv_slots run = a.slots[blockIdx.x];
    for (uint32_t k = 0; k < run.n; k++) {
        const Unit *from =
            reinterpret_cast<const Unit *>(a.x + static_cast<int64_t>(run.token + k) * a.x_step);
        Unit *to =
            reinterpret_cast<Unit *>(a.out + static_cast<int64_t>(run.slot + k) * a.out_step);
        for (int64_t i = threadIdx.x; i < a.bytes / static_cast<int64_t>(sizeof(Unit));
             i += blockDim.x)
            to[i] = from[i];
    }
}

/* What the pointers, steps and sizes are all multiples of, at most 16 bytes, is the unit of the
 * accesses: calls f with a value of such a type. */
template <typename A, typename F> cudaError_t with_unit(const A &a, F f)
{
    uintptr_t all = reinterpret_cast<uintptr_t>(a.out) | reinterpret_cast<uintptr_t>(a.x) |
                    static_cast<uintptr_t>(a.out_step | a.x_step | a.bytes);
    if (all % 16 == 0)
        return f(simt_vec16{});
    if (all % 4 == 0)
        return f(uint32_t{});
    if (all % 2 == 0)
        return f(uint16_t{});
    return f(uint8_t{});
}

} // namespace

cudaError_t kernel_embed(
    cudaStream_t stream, struct tensor out, const struct weight *table, const int32_t *ids)
{
    if (out.rows == 0)
        return cudaSuccess;
    struct tensor t = tensor_of(
        const_cast<void *>(table->data), table->dtype, table->rows, table->cols, table->stride);
    return with_float_type(table->dtype, [&](auto tag) {
        using T = decltype(tag);
        embed_arguments<T> a = {rows_view<f32_t>(out), rows_view<T>(t), table->rows, out.cols, ids};
        return SIMT_LAUNCH(
            stream, embed_kernel<T>, static_cast<unsigned>(out.rows), block_for(out.cols), 0, a);
    });
}

cudaError_t kernel_gather(
    cudaStream_t stream, struct tensor out, struct tensor x, const uint32_t *rows)
{
    int64_t size = dtype_bytes(x.dtype);
    if (out.rows == 0)
        return cudaSuccess;
    gather_arguments a = {static_cast<char *>(out.data), static_cast<const char *>(x.data),
        out.stride * size, x.stride * size, out.cols * size, rows};
    return with_unit(a, [&](auto unit) {
        return SIMT_LAUNCH(stream, gather_kernel<decltype(unit)>, static_cast<unsigned>(out.rows),
            block_for(out.cols), 0, a);
    });
}

cudaError_t kernel_keep(cudaStream_t stream, struct tensor out, struct tensor x,
    const struct kv_slots *slots, uint32_t n_slots)
{
    int64_t size = dtype_bytes(x.dtype);
    if (n_slots == 0)
        return cudaSuccess;
    keep_arguments a = {static_cast<char *>(out.data), static_cast<const char *>(x.data),
        out.stride * size, x.stride * size, x.cols * size, slots};
    return with_unit(a, [&](auto unit) {
        return SIMT_LAUNCH(stream, keep_kernel<decltype(unit)>, n_slots, block_for(x.cols), 0, a);
    });
}
