/* attention_simt.cu - causal attention without tensor cores: for float32, and for the head sizes
 * and alignments that the other kernel (attention.cu) does not take. The same tiles and the same
 * online softmax, all in float32.
 *
 * A block of 256 threads computes 64 query tokens of one sequence and one query head. Shared memory
 * holds, as float32, the queries, one tile of 64 keys and later of their values, and the scores.
 * Scores: thread (y, x) of 16 x 16 has rows y + 16 i and keys x + 16 j. Softmax and output: each
 * row has four threads, each with every fourth column of the output in registers. */
#include "cuda/attention_tile.h"
#include "cuda/simt.h"

namespace
{

const int THREADS = 256, TILE = 64, SCORE_STRIDE = TILE + 1;

struct simt_attention_arguments {
    const struct attention_tile *tiles;
    uint32_t n_heads, heads_per_kv, head_dim, window;
    float scale;
    int64_t out_stride;
    uint32_t *progress;
};

/* Widens positions [from, from + 64) of a sequence into shared memory, with rows of dim + 1; zeros
 * beyond its end. */
template <typename T>
SIMT_DEVICE void load_tile(
    float *to, const tile_rows<T> &rows, int32_t from, const struct attention_tile &t, int dim)
{
    int32_t length = static_cast<int32_t>(t.length);
    for (int i = static_cast<int>(threadIdx.x); i < TILE * dim; i += THREADS) {
        int row = i / dim, column = i % dim;
        to[row * (dim + 1) + column] =
            from + row < length ? to_float(tile_token(rows, t, from + row)[column]) : 0.0f;
    }
}

/* The same of queries, which cached tokens have not: zeros. */
template <typename T>
SIMT_DEVICE void load_queries(
    float *to, const T *base, int64_t stride, const struct attention_tile &t, int dim)
{
    int32_t length = static_cast<int32_t>(t.length), from = static_cast<int32_t>(t.from);
    for (int i = static_cast<int>(threadIdx.x); i < TILE * dim; i += THREADS) {
        int row = i / dim, column = i % dim;
        bool valid = from + row < length && !tile_cached(t, from + row);
        to[row * (dim + 1) + column] =
            valid ? to_float(base[tile_row(t, from + row) * stride + column]) : 0.0f;
    }
}

/* scores[query][key] = q k scale, or -infinity if the key is not seen */
SIMT_DEVICE void multiply_keys(float *scores, const float *q, const float *k, int32_t from,
    int32_t first_key, const simt_attention_arguments &a)
{
    int x = static_cast<int>(threadIdx.x % 16), y = static_cast<int>(threadIdx.x / 16);
    int dim = static_cast<int>(a.head_dim);
    float s[4][4] = {};
    for (int d = 0; d < dim; d++) {
        float left[4], right[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            left[i] = q[(y + 16 * i) * (dim + 1) + d];
            right[i] = k[(x + 16 * i) * (dim + 1) + d];
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                s[i][j] = fma_rn(left[i], right[j], s[i][j]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int32_t query = from + y + 16 * i, key = first_key + x + 16 * j;
            bool hidden =
                key > query || (a.window > 0 && key <= query - static_cast<int32_t>(a.window));
            scores[(y + 16 * i) * SCORE_STRIDE + x + 16 * j] =
                hidden ? float_from_bits(0xff800000) : s[i][j] * a.scale;
        }
}

/* Turns this thread's quarter of a row into weights; returns the factor for the sums so far. */
SIMT_DEVICE float softmax_step(float *row, float &m, float &l)
{
    float *mine = row + threadIdx.x % 4 * 16, largest = m, sum = 0;
    for (int i = 0; i < 16; i++)
        largest = fmaxf(largest, mine[i]);
    largest = fmaxf(largest, shfl_xor(largest, 1));
    largest = fmaxf(largest, shfl_xor(largest, 2));
    float base = largest == float_from_bits(0xff800000) ? 0.0f : largest;
    float kept = exp_precise(m - base);
    for (int i = 0; i < 16; i++) {
        mine[i] = exp_precise(mine[i] - base);
        sum += mine[i];
    }
    sum += shfl_xor(sum, 1);
    sum += shfl_xor(sum, 2);
    m = largest;
    l = fma_rn(l, kept, sum);
    return kept;
}

template <typename T, int MAX_DIM>
__global__ void __launch_bounds__(THREADS, 1) attention_simt_kernel(simt_attention_arguments a,
    const T *q_all, int64_t q_stride, tile_rows<T> k, tile_rows<T> v, T *out_all)
{
    SIMT_SHARED(float, q);
    const int dim = static_cast<int>(a.head_dim), mine = static_cast<int>(threadIdx.x % 4);
    float *kv = q + TILE * (dim + 1), *scores = kv + TILE * (dim + 1);
    float *row_scores = scores + threadIdx.x / 4 * SCORE_STRIDE;
    struct attention_tile t = a.tiles[blockIdx.x / a.n_heads];
    int32_t length = static_cast<int32_t>(t.length), from = static_cast<int32_t>(t.from);
    uint32_t head = blockIdx.x % a.n_heads, kv_head = head / a.heads_per_kv;
    k = tile_columns(k, kv_head * a.head_dim);
    v = tile_columns(v, kv_head * a.head_dim);
    int32_t last_query = from + TILE < length ? from + TILE - 1 : length - 1;
    int32_t first_seen = from + 1 - static_cast<int32_t>(a.window);
    int32_t tile = a.window > 0 && first_seen > 0 ? first_seen / TILE : 0;
    float o[MAX_DIM / 4] = {}, m = float_from_bits(0xff800000), l = 0;
    load_queries(q, q_all + head * a.head_dim, q_stride, t, dim);
    for (; tile <= last_query / TILE; tile++) {
        __syncthreads(); /* the previous values are no longer needed */
        load_tile(kv, k, tile * TILE, t, dim);
        __syncthreads();
        multiply_keys(scores, q, kv, from, tile * TILE, a);
        __syncthreads();
        load_tile(kv, v, tile * TILE, t, dim);
        float kept = softmax_step(row_scores, m, l);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < MAX_DIM / 4; i++) {
            int column = mine + 4 * i;
            float sum = o[i] * kept;
            for (int key = 0; column < dim && key < TILE; key++)
                sum = fma_rn(row_scores[key], kv[key * (dim + 1) + column], sum);
            o[i] = sum;
        }
    }
    if (blockIdx.x % ATTENTION_BLOCKS_PER_SIGN == 0 && threadIdx.x == 0)
        show_progress(a.progress);
    int32_t query = from + static_cast<int32_t>(threadIdx.x / 4);
    if (!tile_writes(t, query))
        return;
    T *out = out_all + tile_row(t, query) * a.out_stride + head * a.head_dim;
#pragma unroll
    for (int i = 0; i < MAX_DIM / 4; i++)
        if (mine + 4 * i < dim)
            out[mine + 4 * i] = from_float<T>(div_rn(o[i], l));
}

template <typename T, int MAX_DIM>
cudaError_t launch(cudaStream_t stream, struct tensor out, const struct attention_input *in,
    const simt_attention_arguments &a, const struct attention_tiles *tiles)
{
    return SIMT_LAUNCH(stream, (attention_simt_kernel<T, MAX_DIM>), tiles->n * a.n_heads, THREADS,
        kernel_attention_simt_shared_bytes(a.head_dim), a, static_cast<const T *>(in->q.data),
        in->q.stride, tile_rows_of<T>(in->k, in->cached_k, tiles),
        tile_rows_of<T>(in->v, in->cached_v, tiles), static_cast<T *>(out.data));
}

template <typename T>
cudaError_t launch_type(cudaStream_t stream, struct tensor out, const struct attention_input *in,
    const simt_attention_arguments &a, const struct attention_tiles *tiles)
{
    if (a.head_dim <= 64)
        return launch<T, 64>(stream, out, in, a, tiles);
    if (a.head_dim <= 128)
        return launch<T, 128>(stream, out, in, a, tiles);
    if (a.head_dim <= 256)
        return launch<T, 256>(stream, out, in, a, tiles);
    return cudaErrorInvalidValue;
}

} // namespace

size_t kernel_attention_simt_shared_bytes(uint32_t head_dim)
{
    return (2 * TILE * (static_cast<size_t>(head_dim) + 1) + TILE * SCORE_STRIDE) * sizeof(float);
}

cudaError_t kernel_attention_simt(cudaStream_t stream, struct tensor out,
    const struct attention_input *in, const struct attention_shape *shape,
    const struct attention_tiles *tiles, uint32_t *progress)
{
    if (tiles->n == 0)
        return cudaSuccess;
    simt_attention_arguments a = {tiles->list, shape->n_heads, shape->n_heads / shape->n_kv_heads,
        shape->head_dim, shape->window, shape->scale, out.stride, progress};
    switch (in->q.dtype) {
    case DTYPE_F32:
        return launch_type<f32_t>(stream, out, in, a, tiles);
    case DTYPE_F16:
        return launch_type<f16_t>(stream, out, in, a, tiles);
    case DTYPE_BF16:
        return launch_type<bf16_t>(stream, out, in, a, tiles);
    default:
        return cudaErrorInvalidValue;
    }
}
