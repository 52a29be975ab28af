/* reduce.cu - sums one share over the ranks, in rank order, so that a tensor-parallel score is the
 * same in every run (comm_nccl.c gathers the parts). */
#include "cuda/rows.h"

namespace
{

const unsigned THREADS = 256;

template <typename T> struct sum_arguments {
    T *out;
    const T *parts;
    int64_t n, stride;
    uint32_t n_ranks;
    bool vectors;
};

template <typename T> __global__ void sum_ranks_kernel(sum_arguments<T> a)
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
            sum[i] += v[i];
    }
    store_group(a.out + at, sum, a.n - at, a.vectors);
}

} // namespace

cudaError_t kernel_sum_ranks(cudaStream_t stream, void *out, struct tensor parts)
{
    if (parts.cols == 0)
        return cudaSuccess;
    uintptr_t all = reinterpret_cast<uintptr_t>(out) | reinterpret_cast<uintptr_t>(parts.data) |
                    static_cast<uintptr_t>(parts.stride * dtype_bytes(parts.dtype));
    int64_t groups = (parts.cols + GROUP - 1) / GROUP;
    unsigned blocks = static_cast<unsigned>((groups + THREADS - 1) / THREADS);
    return with_float_type(parts.dtype, [&](auto tag) {
        using T = decltype(tag);
        sum_arguments<T> a = {static_cast<T *>(out), static_cast<const T *>(parts.data), parts.cols,
            parts.stride, static_cast<uint32_t>(parts.rows), all % 16 == 0};
        return SIMT_LAUNCH(stream, sum_ranks_kernel<T>, blocks, THREADS, 0, a);
    });
}
