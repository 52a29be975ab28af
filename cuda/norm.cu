/* norm.cu - RMSNorm of rows, with the addition before it and the quantization after it, and of
 * heads.
 *
 *     x += y;  out = x * (1 / sqrt(mean(x^2) + eps)) * weight
 *
 * One block per row. Each thread keeps its first group of eight in registers between the passes, so
 * a row of up to 8192 columns is read once. */
#include "cuda/rows.h"

namespace
{

template <typename Y, typename Out> struct norm_arguments {
    rows_of<Out> out;
    float *out_scale;
    rows_of<f32_t> x;
    rows_of<Y> y;
    bool has_y;
    const float *weight;
    bool weight_vectors;
    float eps;
    int64_t cols;
    uint32_t *progress;
};

/* Loads group `at` of row `row` after the addition. */
template <typename Y, typename Out>
SIMT_DEVICE void add_group(float v[GROUP], const norm_arguments<Y, Out> &a, int64_t row, int64_t at)
{
    float y[GROUP];
    load_group(v, a.x.row(row) + at, a.cols - at, a.x.vectors);
    if (!a.has_y)
        return;
    load_group(y, a.y.row(row) + at, a.cols - at, a.y.vectors);
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        v[i] += y[i];
    store_group(a.x.row(row) + at, v, a.cols - at, a.x.vectors);
}

template <typename Y, typename Out>
SIMT_DEVICE void scale_group(float v[GROUP], const norm_arguments<Y, Out> &a, int64_t at, float by)
{
    float w[GROUP];
    load_group(w, a.weight + at, a.cols - at, a.weight_vectors);
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        v[i] = v[i] * by * w[i];
}

/* Normalizes group `at`: the kept one, or x as it is in memory now. */
template <typename Y, typename Out>
SIMT_DEVICE void norm_group(float v[GROUP], const float kept[GROUP],
    const norm_arguments<Y, Out> &a, int64_t row, int64_t at, float by)
{
    if (at == static_cast<int64_t>(threadIdx.x) * GROUP) {
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            v[i] = kept[i];
    } else {
        load_group(v, a.x.row(row) + at, a.cols - at, a.x.vectors);
    }
    scale_group(v, a, at, by);
}

template <typename Y, typename Out>
__global__ void __launch_bounds__(MAX_BLOCK) rms_norm_kernel(norm_arguments<Y, Out> a)
{
    SIMT_SHARED(float, scratch);
    int64_t row = blockIdx.x, first = static_cast<int64_t>(threadIdx.x) * GROUP,
            step = static_cast<int64_t>(blockDim.x) * GROUP;
    float kept[GROUP], v[GROUP], sum = 0;
    for (int64_t at = first; at < a.cols; at += step) {
        add_group(v, a, row, at);
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            sum = fma_rn(v[i], v[i], sum);
            kept[i] = at == first ? v[i] : kept[i];
        }
    }
    sum = over_block<add_values>(sum, scratch);
    float by = rsqrt_precise(div_rn(sum, static_cast<float>(a.cols)) + a.eps), scale = 1;
    if constexpr (is_quantized<Out>::value) {
        float largest = 0;
        for (int64_t at = first; at < a.cols; at += step) {
            norm_group(v, kept, a, row, at, by);
            largest = largest_magnitude(v, largest);
        }
        scale = scale_for<Out>(over_block<larger_value>(largest, scratch));
        if (threadIdx.x == 0)
            a.out_scale[row] = scale;
    }
    for (int64_t at = first; at < a.cols; at += step) {
        norm_group(v, kept, a, row, at, by);
        if constexpr (is_quantized<Out>::value)
            divide_group(v, scale);
        store_group(a.out.row(row) + at, v, a.cols - at, a.out.vectors);
    }
    if (row == 0 && threadIdx.x == 0)
        show_progress(a.progress);
}

struct head_arguments {
    uint32_t n_heads, head_dim;
    int64_t rows;
    const float *weight;
    float eps;
};

/* One warp per head of each row. */
template <typename T> __global__ void head_norm_kernel(rows_of<T> x, head_arguments a)
{
    int64_t head = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (head >= a.rows * a.n_heads)
        return;
    T *at = x.row(head / a.n_heads) + head % a.n_heads * a.head_dim;
    float sum = 0;
    for (uint32_t i = threadIdx.x % 32; i < a.head_dim; i += 32)
        sum = fma_rn(to_float(at[i]), to_float(at[i]), sum);
    sum = over_warp<add_values>(sum);
    float by = rsqrt_precise(div_rn(sum, static_cast<float>(a.head_dim)) + a.eps);
    for (uint32_t i = threadIdx.x % 32; i < a.head_dim; i += 32)
        at[i] = from_float<T>(to_float(at[i]) * by * a.weight[i]);
}

bool is_aligned(const void *p)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

} // namespace

cudaError_t kernel_rms_norm(cudaStream_t stream, struct tensor out, struct tensor x,
    const struct tensor *y, const float *weight, float eps, uint32_t *progress)
{
    if (x.rows == 0)
        return cudaSuccess;
    return with_float_type(y ? y->dtype : DTYPE_F32, [&](auto y_tag) {
        return with_any_type(out.dtype, [&](auto out_tag) {
            using Y = decltype(y_tag);
            using Out = decltype(out_tag);
            norm_arguments<Y, Out> a = {rows_view<Out>(out), out.scale, rows_view<f32_t>(x),
                rows_view<Y>(y ? *y : x), y != nullptr, weight, is_aligned(weight), eps, x.cols,
                progress};
            return SIMT_LAUNCH(stream, (rms_norm_kernel<Y, Out>), static_cast<unsigned>(x.rows),
                block_for(x.cols), 32 * sizeof(float), a);
        });
    });
}

cudaError_t kernel_head_norm(
    cudaStream_t stream, struct tensor x, uint32_t n_heads, const float *weight, float eps)
{
    const unsigned warps = 4;
    if (x.rows == 0)
        return cudaSuccess;
    head_arguments a = {n_heads, static_cast<uint32_t>(x.cols) / n_heads, x.rows, weight, eps};
    unsigned blocks = static_cast<unsigned>((x.rows * n_heads + warps - 1) / warps);
    return with_float_type(x.dtype, [&](auto tag) {
        using T = decltype(tag);
        return SIMT_LAUNCH(stream, head_norm_kernel<T>, blocks, warps * 32, 0, rows_view<T>(x), a);
    });
}
