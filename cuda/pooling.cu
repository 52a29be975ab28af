/* pooling.cu - the head's small operations, and the pooler's on logits: the mean over rows in
 * order, softmax over labels, sigmoid, class 1 (struct pool_span). */
#include "cuda/rows.h"
#include "schema/pooling.h"

namespace
{

const unsigned POOL_THREADS = 128, ROW_BLOCKS = 64;

/* Element i of a tensor's rows, for kernels too small to matter. */
template <typename T> __global__ void relu_kernel(rows_of<T> x, int64_t cols)
{
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
        T *at = x.row(blockIdx.x) + i;
        *at = to_float(*at) < 0 ? from_float<T>(0.0f) : *at;
    }
}

template <typename T> __global__ void add_bias_kernel(rows_of<T> x, const T *bias, int64_t cols)
{
    for (int64_t i = threadIdx.x; i < cols; i += blockDim.x) {
        T *at = x.row(blockIdx.x) + i;
        *at = from_float<T>(to_float(*at) + to_float(bias[i]));
    }
}

struct pool_arguments {
    float *values;
    rows_of<f32_t> logits;
    uint32_t n_labels;
    const struct pool_span *spans;
};

/* Copies row `row` of the span's logits, or the mean of all its rows, into shared memory. */
SIMT_DEVICE void take_logits(
    float *to, const pool_arguments &a, const struct pool_span &span, uint32_t row)
{
    for (uint32_t i = threadIdx.x; i < a.n_labels; i += blockDim.x) {
        if (!span.mean) {
            to[i] = a.logits.row(span.first + row)[i];
            continue;
        }
        float sum = 0;
        for (uint32_t r = 0; r < span.n; r++)
            sum += a.logits.row(span.first + r)[i];
        to[i] = div_rn(sum, static_cast<float>(span.n));
    }
}

SIMT_DEVICE void softmax(float *x, uint32_t n, float *scratch)
{
    float largest = float_from_bits(0xff800000), sum = 0;
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        largest = larger_value::of(x[i], largest);
    largest = over_block<larger_value>(largest, scratch);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
        x[i] = exp_precise(x[i] - largest);
        sum += x[i];
    }
    sum = over_block<add_values>(sum, scratch);
    for (uint32_t i = threadIdx.x; i < n; i += blockDim.x)
        x[i] = div_rn(x[i], sum);
}

/* Block (s, j): rows j, j + ROW_BLOCKS, .. of span s. Shared memory: the logits, 32 floats. */
__global__ void pool_kernel(pool_arguments a)
{
    SIMT_SHARED(float, logits);
    float *scratch = logits + a.n_labels;
    struct pool_span span = a.spans[blockIdx.x];
    uint32_t rows = span.mean ? 1 : span.n;
    uint32_t each = span.activation == ACTIVATION_CLASS1 ? 1 : a.n_labels;
    for (uint32_t row = blockIdx.y; row < rows; row += gridDim.y) {
        __syncthreads(); /* the previous row is written */
        take_logits(logits, a, span, row);
        if (span.activation == ACTIVATION_SOFTMAX || span.activation == ACTIVATION_CLASS1)
            softmax(logits, a.n_labels, scratch);
        for (uint32_t i = threadIdx.x; i < a.n_labels; i += blockDim.x)
            if (span.activation == ACTIVATION_SIGMOID)
                logits[i] = div_rn(1.0f, 1.0f + exp_precise(-logits[i]));
        float *to = a.values + span.at + static_cast<int64_t>(row) * each;
        for (uint32_t i = threadIdx.x; i < a.n_labels; i += blockDim.x) {
            if (span.activation != ACTIVATION_CLASS1)
                to[i] = logits[i];
            else if (i == 1)
                to[0] = logits[1];
        }
    }
}

} // namespace

cudaError_t kernel_relu(cudaStream_t stream, struct tensor x)
{
    if (x.rows == 0)
        return cudaSuccess;
    return with_float_type(x.dtype, [&](auto tag) {
        using T = decltype(tag);
        return SIMT_LAUNCH(stream, relu_kernel<T>, static_cast<unsigned>(x.rows), POOL_THREADS, 0,
            rows_view<T>(x), x.cols);
    });
}

cudaError_t kernel_add_bias(cudaStream_t stream, struct tensor x, const void *bias)
{
    if (x.rows == 0)
        return cudaSuccess;
    return with_float_type(x.dtype, [&](auto tag) {
        using T = decltype(tag);
        return SIMT_LAUNCH(stream, add_bias_kernel<T>, static_cast<unsigned>(x.rows), POOL_THREADS,
            0, rows_view<T>(x), static_cast<const T *>(bias), x.cols);
    });
}

cudaError_t kernel_pool(cudaStream_t stream, float *values, struct tensor logits,
    const struct pool_span *spans, uint32_t n_spans)
{
    if (n_spans == 0)
        return cudaSuccess;
    pool_arguments a = {
        values, rows_view<f32_t>(logits), static_cast<uint32_t>(logits.cols), spans};
    return SIMT_LAUNCH(stream, pool_kernel, dim3(n_spans, ROW_BLOCKS), POOL_THREADS,
        (static_cast<size_t>(a.n_labels) + 32) * sizeof(float), a);
}
