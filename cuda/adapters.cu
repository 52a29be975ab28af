/* adapters.cu - the products of adapters (worker/lora.h) in float32: x A^T, which has few columns,
 * and out + (x A^T) B^T.
 *
 * An element of out is one chain of fused multiply-adds over the columns of x, in order, from 0 or
 * from what is in out: its bits depend on its own row and column alone, and with float32 in and out
 * they are the CPU's. A block has ROWS rows of x and COLS rows of w, of which STEP columns at a
 * time are in shared memory, transposed. A thread has DOWN neighbouring rows, one access of 16
 * bytes, and every so many-th column of them, so that a warp reads and writes out in lines.
 *
 * LIMITS: no tensor cores, which do not have float32's precision; a batch of few tokens waits
 * for memory at each step. */
#include "cuda/rows.h"

namespace
{

const int ROWS = 64, STEP = 32, DOWN = 4, ROW_STEP = ROWS + 4; /* whole 16 bytes */
const int NARROW = 16, WIDE = 64;                              /* rows of w of a block */

/* A block with COLS rows of w: its threads, those beside each other, and the columns of out that
 * each has. */
template <int COLS> struct shape {
    static constexpr int across = COLS == WIDE ? 16 : 8;
    static constexpr int threads = across * ROWS / DOWN;
    static constexpr int each = COLS / across;
};

template <typename X, typename Out> struct adapter_arguments {
    rows_of<Out> out;
    rows_of<X> x;
    const float *x_scale; /* of quantized types */
    rows_of<f32_t> w;
    int64_t rows, outs, cols;
    bool adds;
};

/* Puts a row's group of eight from `column` on, n of which exist, into a tile's rows; the others
 * are zeros. */
template <int TILE_STEP, typename T>
SIMT_DEVICE void load_numbers(
    float *tile, const rows_of<T> &t, const float *scale, int64_t row, int64_t column, int64_t n)
{
    if constexpr (is_quantized<T>::value) {
#pragma unroll 1
        for (int i = 0; i < GROUP; i++)
            tile[i * TILE_STEP] = i < n ? to_float(t.row(row)[column + i]) * scale[row] : 0.0f;
    } else {
        float v[GROUP] = {};
        if (n > 0)
            load_group(v, t.row(row) + column, n, t.vectors);
#pragma unroll
        for (int i = 0; i < GROUP; i++)
            tile[i * TILE_STEP] = v[i];
    }
}

/* Puts STEP columns from `column` on, of HEIGHT rows, the block-th so many, into
 * tile[column][row]. A thread has a group of one row at a time, and its neighbour the next
 * row's. */
template <int HEIGHT, int TILE_STEP, typename T>
SIMT_DEVICE void load_tile(float *tile, const rows_of<T> &t, const float *scale, unsigned block,
    int64_t rows, int64_t column, int64_t cols)
{
    for (unsigned item = threadIdx.x; item < HEIGHT * STEP / GROUP; item += blockDim.x) {
        int at = static_cast<int>(item) % HEIGHT, group = static_cast<int>(item) / HEIGHT * GROUP;
        int64_t row = static_cast<int64_t>(block) * HEIGHT + at,
                n = row < rows ? cols - column - group : 0;
        load_numbers<TILE_STEP>(tile + group * TILE_STEP + at, t, scale, row, column + group, n);
    }
}

/* The element of out whose chain is sum[i][j] of this thread; nullptr: there is none. */
template <int COLS, typename X, typename Out>
SIMT_DEVICE Out *element(const adapter_arguments<X, Out> &a, int i, int j)
{
    int x = static_cast<int>(threadIdx.x) % shape<COLS>::across,
        y = static_cast<int>(threadIdx.x) / shape<COLS>::across;
    int64_t row = static_cast<int64_t>(blockIdx.x) * ROWS + y * DOWN + i,
            column = static_cast<int64_t>(blockIdx.y) * COLS + x + j * shape<COLS>::across;
    return row < a.rows && column < a.outs ? a.out.row(row) + column : nullptr;
}

/* n columns of the tiles. */
template <int COLS>
SIMT_DEVICE void multiply_tiles(
    float sum[DOWN][shape<COLS>::each], const float *xs, const float *ws, int n)
{
    xs += static_cast<int>(threadIdx.x) / shape<COLS>::across * DOWN;
    ws += static_cast<int>(threadIdx.x) % shape<COLS>::across;
#pragma unroll 2
    for (int k = 0; k < n; k++, xs += ROW_STEP, ws += COLS) {
        simt_vec16 x = load_16(xs);
#pragma unroll
        for (int j = 0; j < shape<COLS>::each; j++)
#pragma unroll
            for (int i = 0; i < DOWN; i++)
                sum[i][j] = fma_rn(float_from_bits(x.w[i]), ws[j * shape<COLS>::across], sum[i][j]);
    }
}

/* Two blocks at least to a multiprocessor: without this the compiler saves registers until they
 * spill. */
template <typename X, typename Out, int COLS>
__global__ void __launch_bounds__(shape<COLS>::threads, 2)
    adapter_kernel(adapter_arguments<X, Out> a)
{
    SIMT_SHARED(float, xs);
    const int n = shape<COLS>::each;
    float *ws = xs + STEP * ROW_STEP, sum[DOWN][n] = {};
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
        for (int j = 0; j < n; j++)
            if (a.adds && element<COLS>(a, i, j))
                sum[i][j] = to_float(*element<COLS>(a, i, j));
    for (int64_t k = 0; k < a.cols; k += STEP) {
        __syncthreads(); /* the tiles before these are done with */
        load_tile<ROWS, ROW_STEP>(xs, a.x, a.x_scale, blockIdx.x, a.rows, k, a.cols);
        load_tile<COLS, COLS>(ws, a.w, nullptr, blockIdx.y, a.outs, k, a.cols);
        __syncthreads();
        multiply_tiles<COLS>(sum, xs, ws, a.cols - k < STEP ? static_cast<int>(a.cols - k) : STEP);
    }
#pragma unroll
    for (int i = 0; i < DOWN; i++)
#pragma unroll
        for (int j = 0; j < n; j++)
            if (Out *at = element<COLS>(a, i, j))
                *at = from_float<Out>(sum[i][j]);
}

template <int COLS, typename X, typename Out>
cudaError_t launch(cudaStream_t stream, const adapter_arguments<X, Out> &a)
{
    dim3 grid(static_cast<unsigned>((a.rows + ROWS - 1) / ROWS),
        static_cast<unsigned>((a.outs + COLS - 1) / COLS));
    return SIMT_LAUNCH(stream, (adapter_kernel<X, Out, COLS>), grid, shape<COLS>::threads,
        STEP * (ROW_STEP + COLS) * sizeof(float), a);
}

template <typename X, typename Out>
cudaError_t multiply(
    cudaStream_t stream, struct tensor out, struct tensor x, const struct weight *w, bool adds)
{
    struct tensor matrix =
        tensor_of(const_cast<void *>(w->data), DTYPE_F32, w->rows, w->cols, w->stride);
    adapter_arguments<X, Out> a = {rows_view<Out>(out), rows_view<X>(x), x.scale,
        rows_view<f32_t>(matrix), x.rows, w->rows, x.cols, adds};
    return w->rows > NARROW ? launch<WIDE>(stream, a) : launch<NARROW>(stream, a);
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
