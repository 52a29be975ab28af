/* quant.cu - quantizes matrices to eight bits with a scale per row, and turns products' int32 sums
 * back into floats. */
#include "cuda/rows.h"

namespace
{

const unsigned THREADS = 256;

template <typename T, typename Out> struct quantize_arguments {
    rows_of<Out> out;
    float *scale;
    rows_of<T> x;
    int64_t cols;
};

/* One block per row. */
template <typename T, typename Out>
__global__ void __launch_bounds__(MAX_BLOCK) quantize_kernel(quantize_arguments<T, Out> a)
{
    SIMT_SHARED(float, scratch);
    int64_t row = blockIdx.x, first = static_cast<int64_t>(threadIdx.x) * GROUP,
            step = static_cast<int64_t>(blockDim.x) * GROUP;
    float v[GROUP], largest = 0;
    for (int64_t at = first; at < a.cols; at += step) {
        load_group(v, a.x.row(row) + at, a.cols - at, a.x.vectors);
        largest = largest_magnitude(v, largest);
    }
    float scale = scale_for<Out>(over_block<larger_value>(largest, scratch));
    if (threadIdx.x == 0)
        a.scale[row] = scale;
    for (int64_t at = first; at < a.cols; at += step) {
        load_group(v, a.x.row(row) + at, a.cols - at, a.x.vectors);
        divide_group(v, scale);
        store_group(a.out.row(row) + at, v, a.cols - at, a.out.vectors);
    }
}

template <typename T> struct dequantize_arguments {
    rows_of<T> out;
    const int32_t *sums;
    int64_t sums_stride, cols;
    const float *x_scale, *w_scale;
    const T *bias;
};

template <typename T> __global__ void dequantize_kernel(dequantize_arguments<T> a)
{
    int64_t column = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column >= a.cols)
        return;
    float v = static_cast<float>(a.sums[row * a.sums_stride + column]) * a.x_scale[row] *
              a.w_scale[column];
    if (a.bias)
        v += to_float(a.bias[column]);
    a.out.row(row)[column] = from_float<T>(v);
}

template <typename T, typename Out>
cudaError_t launch_quantize(cudaStream_t stream, struct tensor out, struct tensor x)
{
    quantize_arguments<T, Out> a = {rows_view<Out>(out), out.scale, rows_view<T>(x), x.cols};
    return SIMT_LAUNCH(stream, (quantize_kernel<T, Out>), static_cast<unsigned>(x.rows),
        block_for(x.cols), 32 * sizeof(float), a);
}

} // namespace

cudaError_t kernel_quantize_rows(cudaStream_t stream, struct tensor out, struct tensor x)
{
    if (x.rows == 0)
        return cudaSuccess;
    if (out.dtype != DTYPE_F8 && out.dtype != DTYPE_I8)
        return cudaErrorInvalidValue;
    return with_float_type(x.dtype, [&](auto tag) {
        using T = decltype(tag);
        return out.dtype == DTYPE_F8 ? launch_quantize<T, f8_t>(stream, out, x)
                                     : launch_quantize<T, i8_t>(stream, out, x);
    });
}

cudaError_t kernel_dequantize(cudaStream_t stream, struct tensor out, struct tensor sums,
    const float *w_scale, const void *bias)
{
    if (out.rows == 0)
        return cudaSuccess;
    dim3 grid(
        static_cast<unsigned>(out.rows), static_cast<unsigned>((out.cols + THREADS - 1) / THREADS));
    return with_float_type(out.dtype, [&](auto tag) {
        using T = decltype(tag);
        dequantize_arguments<T> a = {rows_view<T>(out), static_cast<const int32_t *>(sums.data),
            sums.stride, out.cols, sums.scale, w_scale, static_cast<const T *>(bias)};
        return SIMT_LAUNCH(stream, dequantize_kernel<T>, grid, THREADS, 0, a);
    });
}
