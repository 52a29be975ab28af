/* swiglu.cu - out = silu(gate) * up, silu(x) = x / (1 + exp(-x)), in one pass; if out is quantized,
 * an earlier pass finds each row's scale. */
#include "cuda/rows.h"

namespace
{

const unsigned THREADS = 256; /* of a block without a row of its own */

template <typename T, typename Out> struct swiglu_arguments {
    rows_of<Out> out;
    float *out_scale;
    rows_of<T> gate, up;
    int64_t cols;
};

template <typename T, typename Out>
SIMT_DEVICE void swiglu_group(
    float v[GROUP], const swiglu_arguments<T, Out> &a, int64_t row, int64_t at)
{
    float up[GROUP];
    load_group(v, a.gate.row(row) + at, a.cols - at, a.gate.vectors);
    load_group(up, a.up.row(row) + at, a.cols - at, a.up.vectors);
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        v[i] = div_rn(v[i], 1.0f + exp_precise(-v[i])) * up[i];
}

/* Several blocks share a row. */
template <typename T> __global__ void swiglu_kernel(swiglu_arguments<T, T> a)
{
    int64_t at = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * GROUP;
    float v[GROUP];
    if (at >= a.cols)
        return;
    swiglu_group(v, a, blockIdx.x, at);
    store_group(a.out.row(blockIdx.x) + at, v, a.cols - at, a.out.vectors);
}

/* One block per row. */
template <typename T, typename Out>
__global__ void __launch_bounds__(MAX_BLOCK) swiglu_quantized_kernel(swiglu_arguments<T, Out> a)
{
    SIMT_SHARED(float, scratch);
    int64_t row = blockIdx.x, first = static_cast<int64_t>(threadIdx.x) * GROUP,
            step = static_cast<int64_t>(blockDim.x) * GROUP;
    float v[GROUP], largest = 0;
    for (int64_t at = first; at < a.cols; at += step) {
        swiglu_group(v, a, row, at);
        largest = largest_magnitude(v, largest);
    }
    float scale = scale_for<Out>(over_block<larger_value>(largest, scratch));
    if (threadIdx.x == 0)
        a.out_scale[row] = scale;
    for (int64_t at = first; at < a.cols; at += step) {
        swiglu_group(v, a, row, at);
        divide_group(v, scale);
        store_group(a.out.row(row) + at, v, a.cols - at, a.out.vectors);
    }
}

template <typename T, typename Out>
cudaError_t launch_quantized(
    cudaStream_t stream, struct tensor out, struct tensor gate, struct tensor up)
{
    swiglu_arguments<T, Out> a = {
        rows_view<Out>(out), out.scale, rows_view<T>(gate), rows_view<T>(up), out.cols};
    return SIMT_LAUNCH(stream, (swiglu_quantized_kernel<T, Out>), static_cast<unsigned>(out.rows),
        block_for(out.cols), 32 * sizeof(float), a);
}

} // namespace

cudaError_t kernel_silu_mul(
    cudaStream_t stream, struct tensor out, struct tensor gate, struct tensor up)
{
    if (out.rows == 0)
        return cudaSuccess;
    return with_float_type(gate.dtype, [&](auto tag) {
        using T = decltype(tag);
        if (out.dtype == DTYPE_F8)
            return launch_quantized<T, f8_t>(stream, out, gate, up);
        if (out.dtype == DTYPE_I8)
            return launch_quantized<T, i8_t>(stream, out, gate, up);
        swiglu_arguments<T, T> a = {
            rows_view<T>(out), nullptr, rows_view<T>(gate), rows_view<T>(up), out.cols};
        int64_t groups = (out.cols + GROUP - 1) / GROUP;
        dim3 grid(static_cast<unsigned>(out.rows),
            static_cast<unsigned>((groups + THREADS - 1) / THREADS));
        return SIMT_LAUNCH(stream, swiglu_kernel<T>, grid, THREADS, 0, a);
    });
}
