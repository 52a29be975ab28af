/* reduce.cu - sums one share over the ranks, in rank order, so that a tensor-parallel score is the
 * same in every run (comm_nccl.c gathers the parts); or finds the largest. */
#include "cuda/rows.h"

namespace
{

const unsigned THREADS = 256;

template <typename T> struct reduce_arguments {
    T *out;
    const T *parts;
    int64_t n, stride;
    uint32_t n_ranks;
    bool vectors;
};

template <typename How, typename T> SIMT_DEVICE void reduce_group(const reduce_arguments<T> &a)
{
    int64_t at = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * GROUP;
    float sum[GROUP], v[GROUP];
    if (at >= a.n)
        return;
    load_group(sum, a.parts + at, a.n - at, a.vectors);
    for (uint32_t rank = 1; rank < a.n_ranks; rank++) {
        load_group(v, a.parts + rank * a.stride + at, a.n - at, a.vectors);
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            sum[i] = How::of(sum[i], v[i]);
    }
    store_group(a.out + at, sum, a.n - at, a.vectors);
}

template <typename T> __global__ void sum_ranks_kernel(reduce_arguments<T> a)
{
    reduce_group<add_values>(a);
}

template <typename T> __global__ void largest_of_ranks_kernel(reduce_arguments<T> a)
{
    reduce_group<larger_value>(a);
}

/* Calls f with the arguments and the number of blocks. */
template <typename F> cudaError_t with_parts(void *out, struct tensor parts, F f)
{
    if (parts.cols == 0)
        return cudaSuccess;
    uintptr_t all = reinterpret_cast<uintptr_t>(out) | reinterpret_cast<uintptr_t>(parts.data) |
                    static_cast<uintptr_t>(parts.stride * dtype_bytes(parts.dtype));
    int64_t groups = (parts.cols + GROUP - 1) / GROUP;
    unsigned blocks = static_cast<unsigned>((groups + THREADS - 1) / THREADS);
    return with_float_type(parts.dtype, [&](auto tag) {
        using T = decltype(tag);
        reduce_arguments<T> a = {static_cast<T *>(out), static_cast<const T *>(parts.data),
            parts.cols, parts.stride, static_cast<uint32_t>(parts.rows), all % 16 == 0};
        return f(a, blocks, tag);
    });
}

} // namespace

cudaError_t kernel_sum_ranks(cudaStream_t stream, void *out, struct tensor parts)
{
    return with_parts(out, parts, [&](auto a, unsigned blocks, auto tag) {
        return SIMT_LAUNCH(stream, sum_ranks_kernel<decltype(tag)>, blocks, THREADS, 0, a);
    });
}

cudaError_t kernel_largest_of_ranks(cudaStream_t stream, void *out, struct tensor parts)
{
    return with_parts(out, parts, [&](auto a, unsigned blocks, auto tag) {
        return SIMT_LAUNCH(stream, largest_of_ranks_kernel<decltype(tag)>, blocks, THREADS, 0, a);
    });
}
