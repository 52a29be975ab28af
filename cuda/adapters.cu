/* adapters.cu - the products of adapters (worker/lora.h) in float32: x A^T, which has few columns,
 * and out + (x A^T) B^T.
 *
 * An element of out is one chain of fused multiply-adds over the columns of x, in order, from 0 or
 * from what is in out: its bits depend on its own row and column alone, and with float32 in and out
 * they are the CPU's. A block has ROWS rows of x and COLS rows of w, of which STEP columns at a time
 * are in shared memory, transposed; a thread has every 16th row and column of them.
 *
 * LIMITS: no tensor cores, which do not have float32's precision; a batch of few tokens waits for
 * memory at each step. */
#include "cuda/rows.h"

namespace
{

const unsigned THREADS = 256;
const int ROWS = 64, STEP = 32, SIDE = 16; /* SIDE * SIDE threads */

template <typename X, typename Out> struct adapter_arguments {
    rows_of<Out> out;
    rows_of<X> x;
    const float *x_scale; /* of quantized types */
    rows_of<f32_t> w;
    int64_t rows, outs, cols;
    bool adds;
};

/* Eight numbers from p on, with zeros from the n-th. */
template <typename T>
SIMT_DEVICE void load_numbers(
    float v[GROUP], const rows_of<T> &t, const float *scale, int64_t row, int64_t column, int64_t n)
{
    const T *p = t.row(row) + column;
    if constexpr (is_quantized<T>::value) {
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            v[i] = i < n ? to_float(p[i]) * scale[row] : 0.0f;
    } else {
        load_group(v, p, n, t.vectors);
    }
}

/* Puts STEP columns of HEIGHT rows, from `row` and `column` on, into tile[column][row]. A thread has
 * a group of one row. */
template <int HEIGHT, typename T>
SIMT_DEVICE void load_tile(float *tile, const rows_of<T> &t, const float *scale, int64_t row,
    int64_t end, int64_t column, int64_t cols)
{
    int at = static_cast<int>(threadIdx.x) / (STEP / GROUP),
        group = static_cast<int>(threadIdx.x) % (STEP / GROUP) * GROUP;
    int64_t n = row + at < end ? cols - column - group : 0;
    float v[GROUP] = {};
    if (at >= HEIGHT)
        return;
    if (n > 0)
        load_numbers(v, t, scale, row + at, column + group, n);
#pragma unroll
    for (int i = 0; i < GROUP; i++)
        tile[(group + i) * (HEIGHT + 1) + at] = v[i];
}

template <typename X, typename Out, int COLS>
__global__ void __launch_bounds__(THREADS) adapter_kernel(adapter_arguments<X, Out> a)
{
    SIMT_SHARED(float, shared);
    const int across = COLS / SIDE, down = ROWS / SIDE;
    float *xs = shared, *ws = shared + STEP * (ROWS + 1), sum[down][across] = {};
    int tx = static_cast<int>(threadIdx.x) % SIDE, ty = static_cast<int>(threadIdx.x) / SIDE;
    int64_t row = static_cast<int64_t>(blockIdx.x) * ROWS,
            column = static_cast<int64_t>(blockIdx.y) * COLS;
    for (int i = 0; i < down && a.adds; i++)
        for (int j = 0; j < across; j++)
            if (row + ty + i * SIDE < a.rows && column + tx + j * SIDE < a.outs)
                sum[i][j] = to_float(a.out.row(row + ty + i * SIDE)[column + tx + j * SIDE]);
    for (int64_t k = 0; k < a.cols; k += STEP) {
        __syncthreads(); /* the tiles before these are done with */
        load_tile<ROWS>(xs, a.x, a.x_scale, row, a.rows, k, a.cols);
        load_tile<COLS>(ws, a.w, nullptr, column, a.outs, k, a.cols);
        __syncthreads();
        int n = a.cols - k < STEP ? static_cast<int>(a.cols - k) : STEP;
        for (int c = 0; c < n; c++)
#pragma unroll
            for (int i = 0; i < down; i++)
#pragma unroll
                for (int j = 0; j < across; j++)
                    sum[i][j] = fma_rn(xs[c * (ROWS + 1) + ty + i * SIDE],
                        ws[c * (COLS + 1) + tx + j * SIDE], sum[i][j]);
    }
    for (int i = 0; i < down; i++)
        for (int j = 0; j < across; j++)
            if (row + ty + i * SIDE < a.rows && column + tx + j * SIDE < a.outs)
                a.out.row(row + ty + i * SIDE)[column + tx + j * SIDE] = from_float<Out>(sum[i][j]);
}

template <int COLS, typename X, typename Out>
cudaError_t launch(cudaStream_t stream, const adapter_arguments<X, Out> &a)
{
    dim3 grid(static_cast<unsigned>((a.rows + ROWS - 1) / ROWS),
        static_cast<unsigned>((a.outs + COLS - 1) / COLS));
    return SIMT_LAUNCH(stream, (adapter_kernel<X, Out, COLS>), grid, THREADS,
        STEP * (ROWS + 1 + COLS + 1) * sizeof(float), a);
}

template <typename X, typename Out>
cudaError_t multiply(
    cudaStream_t stream, struct tensor out, struct tensor x, const struct weight *w, bool adds)
{
    struct tensor matrix =
        tensor_of(const_cast<void *>(w->data), DTYPE_F32, w->rows, w->cols, w->stride);
    adapter_arguments<X, Out> a = {rows_view<Out>(out), rows_view<X>(x), x.scale,
        rows_view<f32_t>(matrix), x.rows, w->rows, x.cols, adds};
    return w->rows > SIDE ? launch<ROWS>(stream, a) : launch<SIDE>(stream, a);
}

} // namespace

cudaError_t kernel_linear_narrow(
    cudaStream_t stream, struct tensor out, struct tensor x, const struct weight *w)
{
    if (x.rows == 0)
        return cudaSuccess;
    if (out.dtype != DTYPE_F32 || w->dtype != DTYPE_F32)
        return cudaErrorInvalidValue;
    return with_any_type(x.dtype,
        [&](auto tag) { return multiply<decltype(tag), f32_t>(stream, out, x, w, false); });
}

cudaError_t kernel_linear_add(
    cudaStream_t stream, struct tensor out, struct tensor x, const struct weight *w)
{
    if (x.rows == 0)
        return cudaSuccess;
    if (x.dtype != DTYPE_F32 || w->dtype != DTYPE_F32)
        return cudaErrorInvalidValue;
    return with_float_type(out.dtype,
        [&](auto tag) { return multiply<f32_t, decltype(tag)>(stream, out, x, w, true); });
}
