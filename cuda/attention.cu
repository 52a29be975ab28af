/* attention.cu - causal attention over packed sequences on tensor cores, in bfloat16 or float16
 * with sums in float32.
 *
 * A block computes 64 query tokens of one sequence and one query head; each of its 4 warps has 16
 * of the rows. Keys and values come in tiles of 64, counted from position 0 of the sequence; the
 * next pair is copied (cp.async) while one is used. For each tile:
 *     S = Q K^T                       [16, 64] per warp, in mma accumulators
 *     m' = max(m, max S), P = exp2((S - m') c), c = scale log2(e)
 *     l = l exp2((m - m') c) + sum P,  O = O exp2((m - m') c) + P V
 * and at the end O / l. This is the online softmax of Milakov and Gimelshein (2018), in the form of
 * FlashAttention-2 (Dao, 2023): P stays in registers, since the accumulators of S already have the
 * layout of the A operand of P V.
 *
 * A row's result depends on its sequence alone. Tiles of queries and of keys begin at fixed
 * positions, so a row meets the same tiles wherever the sequence lies, and whether its first tokens
 * are its own, a prefix, or cached (attention_tile.h). Rows of shared memory are padded by 8
 * elements: their length in 16-byte units is then odd for every head_dim here, so ldmatrix has no
 * bank conflicts. Q lies in the second buffer of K until it is in registers. */
#include "cuda/attention_tile.h"
#include "cuda/simt.h"

namespace
{

const int WARPS = 4, THREADS = WARPS * 32, KEYS = 64, PAD = 8;

struct attention_arguments {
    const struct attention_tile *tiles;
    uint32_t n_heads, heads_per_kv, window;
    float scale_log2; /* scale * log2(e) */
    int64_t out_stride, q_stride;
    uint32_t *progress;
};

/* A block's work. q, out: the batch's first row, this head's first column. */
template <typename T> struct attention_block {
    const T *q;
    tile_rows<T> k, v;
    T *out;
    struct attention_tile tile;
    int32_t length, from; /* the tile's, signed */
};

/* One thread's share of a warp's 16 rows: rows g and g + 8, g = lane / 4. */
template <int DIM> struct row_state {
    float o[DIM / 8][4];
    float m[2], l[2];
};

/* Copies positions [from, from + 64) of a sequence, columns [0, DIM), to shared memory; zeros
 * beyond its end. */
template <typename T, int DIM>
SIMT_DEVICE void copy_tile(
    T *to, const tile_rows<T> &rows, int32_t from, const attention_block<T> &b)
{
    const int units = DIM / 8;
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < KEYS * units; i += THREADS) {
        int row = i / units, column = i % units * 8;
        bool valid = from + row < b.length;
        const T *source = tile_token(rows, b.tile, valid ? from + row : b.length - 1) + column;
        cp_async_16(to + row * (DIM + PAD) + column, source, valid);
    }
}

/* The same of the tile's queries, which cached tokens have not: zeros. */
template <typename T, int DIM>
SIMT_DEVICE void copy_queries(T *to, int64_t stride, const attention_block<T> &b)
{
    const int units = DIM / 8;
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < KEYS * units; i += THREADS) {
        int row = i / units, column = i % units * 8;
        bool valid = b.from + row < b.length && !tile_cached(b.tile, b.from + row);
        const T *source =
            b.q + tile_row(b.tile, valid ? b.from + row : b.length - 1) * stride + column;
        cp_async_16(to + row * (DIM + PAD) + column, source, valid);
    }
}

/* s [16, 64] = this warp's queries times the tile's keys */
template <typename T, int DIM>
SIMT_DEVICE void multiply_keys(float s[8][4], const uint32_t q[DIM / 16][4], const T *keys)
{
    int lane = static_cast<int>(threadIdx.x % 32);
    const T *at = keys + (lane % 8 + lane / 16 * 8) * (DIM + PAD) + lane / 8 % 2 * 8;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            s[i][j] = 0;
#pragma unroll
    for (int step = 0; step < DIM / 16; step++)
#pragma unroll
        for (int pair = 0; pair < 4; pair++) {
            uint32_t b[4];
            ldmatrix_x4(b, at + pair * 16 * (DIM + PAD) + step * 16);
            mma_16816<T>(s[2 * pair], q[step], b[0], b[1]);
            mma_16816<T>(s[2 * pair + 1], q[step], b[2], b[3]);
        }
}

/* Sets s to -infinity if key > query or the key is outside the window. first_key: the tile's; row:
 * position of this thread's first row. */
SIMT_DEVICE void mask_tile(float s[8][4], int32_t first_key, int32_t row, uint32_t window)
{
    int32_t column = first_key + static_cast<int32_t>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int32_t key = column + i * 8 + j % 2, query = row + j / 2 * 8;
            bool hidden =
                key > query || (window > 0 && key <= query - static_cast<int32_t>(window));
            s[i][j] = hidden ? float_from_bits(0xff800000) : s[i][j];
        }
}

/* Turns s into weights and rescales the state's sums to the new maximum. */
template <int DIM> SIMT_DEVICE void softmax_step(float s[8][4], row_state<DIM> &r, float scale_log2)
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float m = r.m[half], sum = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            m = fmaxf(m, fmaxf(s[i][2 * half], s[i][2 * half + 1]));
        m = fmaxf(m, shfl_xor(m, 1));
        m = fmaxf(m, shfl_xor(m, 2));
        float base = m == float_from_bits(0xff800000) ? 0.0f : m * scale_log2;
        float kept = exp2_approx(fma_rn(r.m[half], scale_log2, -base));
        r.m[half] = m;
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 2 * half; j < 2 * half + 2; j++) {
                s[i][j] = exp2_approx(fma_rn(s[i][j], scale_log2, -base));
                sum += s[i][j];
            }
        r.l[half] = fma_rn(r.l[half], kept, sum);
#pragma unroll
        for (int i = 0; i < DIM / 8; i++) {
            r.o[i][2 * half] *= kept;
            r.o[i][2 * half + 1] *= kept;
        }
    }
}

/* o [16, DIM] += weights [16, 64] times the tile's values */
template <typename T, int DIM>
SIMT_DEVICE void multiply_values(row_state<DIM> &r, const float s[8][4], const T *values)
{
    int lane = static_cast<int>(threadIdx.x % 32);
    const T *at = values + lane % 16 * (DIM + PAD) + lane / 16 * 8;
#pragma unroll
    for (int step = 0; step < 4; step++) {
        const float *low = s[2 * step], *high = s[2 * step + 1];
        uint32_t p[4] = {pack_pair<T>(low[0], low[1]), pack_pair<T>(low[2], low[3]),
            pack_pair<T>(high[0], high[1]), pack_pair<T>(high[2], high[3])};
#pragma unroll
        for (int pair = 0; pair < DIM / 16; pair++) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, at + step * 16 * (DIM + PAD) + pair * 16);
            mma_16816<T>(r.o[2 * pair], p, b[0], b[1]);
            mma_16816<T>(r.o[2 * pair + 1], p, b[2], b[3]);
        }
    }
}

/* Writes O / l of this warp's rows, through its own rows of shared memory so that stores are of 16
 * bytes. first_row: the warp's, in the sequence. */
template <typename T, int DIM>
SIMT_DEVICE void write_rows(
    const attention_block<T> &b, int64_t stride, row_state<DIM> &r, T *rows, int32_t first_row)
{
    int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float l = r.l[half];
        l += shfl_xor(l, 1);
        l += shfl_xor(l, 2);
        float by = div_rn(1.0f, l);
        uint32_t *to = reinterpret_cast<uint32_t *>(rows + (lane / 4 + 8 * half) * (DIM + PAD));
#pragma unroll
        for (int i = 0; i < DIM / 8; i++)
            to[i * 4 + lane % 4] = pack_pair<T>(r.o[i][2 * half] * by, r.o[i][2 * half + 1] * by);
    }
    __syncwarp();
    for (int i = lane; i < 16 * (DIM / 8); i += 32) {
        int row = i / (DIM / 8), column = i % (DIM / 8) * 8;
        if (tile_writes(b.tile, first_row + row))
            store_16(b.out + tile_row(b.tile, first_row + row) * stride + column,
                load_16(rows + row * (DIM + PAD) + column));
    }
}

template <typename T>
SIMT_DEVICE attention_block<T> block_of(const attention_arguments &a, const T *q,
    const tile_rows<T> &k, const tile_rows<T> &v, T *out, uint32_t dim)
{
    struct attention_tile tile = a.tiles[blockIdx.x / a.n_heads];
    uint32_t head = blockIdx.x % a.n_heads, kv_head = head / a.heads_per_kv;
    return {q + head * dim, tile_columns(k, kv_head * dim), tile_columns(v, kv_head * dim),
        out + head * dim, tile, static_cast<int32_t>(tile.length), static_cast<int32_t>(tile.from)};
}

/* Processes a tile of keys for one warp. row: position of this thread's first row. */
template <typename T, int DIM>
SIMT_DEVICE void take_tile(row_state<DIM> &r, const uint32_t q[DIM / 16][4], const T *keys,
    const T *values, int32_t first_key, int32_t row, const attention_arguments &a)
{
    float s[8][4];
    int32_t warp_row = row - static_cast<int32_t>(threadIdx.x % 32 / 4);
    multiply_keys<T, DIM>(s, q, keys);
    bool passed = a.window > 0 && first_key <= warp_row + 15 - static_cast<int32_t>(a.window);
    if (first_key + KEYS - 1 > warp_row || passed)
        mask_tile(s, first_key, row, a.window);
    softmax_step<DIM>(s, r, a.scale_log2);
    multiply_values<T, DIM>(r, s, values);
}

template <typename T, int DIM>
__global__ void __launch_bounds__(THREADS) attention_kernel(
    attention_arguments a, const T *q_all, tile_rows<T> k_all, tile_rows<T> v_all, T *out)
{
    SIMT_SHARED(T, shared);
    const int tile_elements = KEYS * (DIM + PAD);
    T *keys = shared, *values = shared + 2 * tile_elements; /* two buffers each */
    attention_block<T> b = block_of(a, q_all, k_all, v_all, out, DIM);
    int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
    int32_t warp_row = b.from + warp * 16, row = warp_row + lane / 4;
    bool works = warp_row < b.length &&
                 tile_writes(b.tile, b.length - 1 < warp_row + 15 ? b.length - 1 : warp_row + 15);
    int32_t last_query = b.from + KEYS < b.length ? b.from + KEYS - 1 : b.length - 1;
    int32_t first_seen = b.from + 1 - static_cast<int32_t>(a.window);
    int32_t tile = a.window > 0 && first_seen > 0 ? first_seen / KEYS : 0;
    int32_t last_tile = last_query / KEYS;
    copy_queries<T, DIM>(keys + tile_elements, a.q_stride, b);
    copy_tile<T, DIM>(keys, b.k, tile * KEYS, b);
    copy_tile<T, DIM>(values, b.v, tile * KEYS, b);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    uint32_t q[DIM / 16][4];
    row_state<DIM> r;
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
        ldmatrix_x4(q[i],
            keys + tile_elements + (warp * 16 + lane % 16) * (DIM + PAD) + lane / 16 * 8 + i * 16);
#pragma unroll
    for (int i = 0; i < DIM / 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            r.o[i][j] = 0;
    r.m[0] = r.m[1] = float_from_bits(0xff800000);
    r.l[0] = r.l[1] = 0;
    for (int buffer = 0; tile <= last_tile; tile++, buffer ^= 1) {
        __syncthreads(); /* the other buffer is free */
        if (tile < last_tile) {
            int other = (buffer ^ 1) * tile_elements;
            copy_tile<T, DIM>(keys + other, b.k, (tile + 1) * KEYS, b);
            copy_tile<T, DIM>(values + other, b.v, (tile + 1) * KEYS, b);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if (works)
            take_tile<T, DIM>(r, q, keys + buffer * tile_elements, values + buffer * tile_elements,
                tile * KEYS, row, a);
    }
    cp_async_wait<0>();
    __syncthreads();
    if (blockIdx.x % ATTENTION_BLOCKS_PER_SIGN == 0 && threadIdx.x == 0)
        show_progress(a.progress);
    if (works)
        write_rows<T, DIM>(b, a.out_stride, r, keys + warp * 16 * (DIM + PAD), warp_row);
}

template <typename T, int DIM>
cudaError_t launch(cudaStream_t stream, struct tensor out, const struct attention_input *in,
    const attention_arguments &a, const struct attention_tiles *tiles)
{
    size_t bytes = static_cast<size_t>(4 * KEYS * (DIM + PAD)) * sizeof(T);
    return SIMT_LAUNCH(stream, (attention_kernel<T, DIM>), tiles->n * a.n_heads, THREADS, bytes, a,
        static_cast<const T *>(in->q.data), tile_rows_of<T>(in->k, in->cached_k, tiles),
        tile_rows_of<T>(in->v, in->cached_v, tiles), static_cast<T *>(out.data));
}

template <typename T>
cudaError_t launch_type(cudaStream_t stream, struct tensor out, const struct attention_input *in,
    uint32_t head_dim, const attention_arguments &a, const struct attention_tiles *tiles)
{
    switch (head_dim) {
    case 64:
        return launch<T, 64>(stream, out, in, a, tiles);
    case 80:
        return launch<T, 80>(stream, out, in, a, tiles);
    case 96:
        return launch<T, 96>(stream, out, in, a, tiles);
    case 128:
        return launch<T, 128>(stream, out, in, a, tiles);
    default:
        return cudaErrorInvalidValue;
    }
}

bool rows_aligned(struct tensor t)
{
    return reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.stride * 2 % 16 == 0;
}

} // namespace

int kernel_attention_mma_fits(
    struct tensor out, const struct attention_input *in, const struct attention_shape *shape)
{
    uint32_t d = shape->head_dim;
    int type = in->q.dtype == DTYPE_BF16 || in->q.dtype == DTYPE_F16;
    return type && (d == 64 || d == 80 || d == 96 || d == 128) && rows_aligned(out) &&
           rows_aligned(in->q) && rows_aligned(in->k) && rows_aligned(in->v);
}

cudaError_t kernel_attention_mma(cudaStream_t stream, struct tensor out,
    const struct attention_input *in, const struct attention_shape *shape,
    const struct attention_tiles *tiles, uint32_t *progress)
{
    if (tiles->n == 0)
        return cudaSuccess;
    attention_arguments a = {tiles->list, shape->n_heads, shape->n_heads / shape->n_kv_heads,
        shape->window, shape->scale * 1.44269504f, out.stride, in->q.stride, progress};
    if (tiles->blocks && !(rows_aligned(in->cached_k) && rows_aligned(in->cached_v)))
        return cudaErrorInvalidValue;
    if (in->q.dtype == DTYPE_BF16)
        return launch_type<bf16_t>(stream, out, in, shape->head_dim, a, tiles);
    return launch_type<f16_t>(stream, out, in, shape->head_dim, a, tiles);
}
