/* attention_tile.h - where the tokens of an attention tile (kernels.h) lie; shared by both kernels.
 * */
#ifndef ASSAY_CUDA_ATTENTION_TILE_H
#define ASSAY_CUDA_ATTENTION_TILE_H

#include "cuda/simt.h"

/* The row of q, k, v and out that holds the token at this position of the tile's sequence, which is
 * not cached. */
SIMT_DEVICE int64_t tile_row(const struct attention_tile &t, int32_t position)
{
    bool shared = position < static_cast<int32_t>(t.prefix);
    return (shared ? t.prefix_first : t.first) + static_cast<uint32_t>(position);
}

SIMT_DEVICE bool tile_cached(const struct attention_tile &t, int32_t position)
{
    return position < static_cast<int32_t>(t.cached);
}

/* Keys or values of one head: the batch's, and those of all slots. */
template <typename T> struct tile_rows {
    const T *batch, *cached;
    int64_t stride, cached_stride;
    const uint32_t *blocks;
};

template <typename T>
static inline tile_rows<T> tile_rows_of(
    struct tensor batch, struct tensor cached, const struct attention_tiles *tiles)
{
    if (!tiles->blocks)
        cached = batch;
    return {static_cast<const T *>(batch.data), static_cast<const T *>(cached.data), batch.stride,
        cached.stride, tiles->blocks};
}

/* The same from this column on. */
template <typename T> SIMT_DEVICE tile_rows<T> tile_columns(tile_rows<T> r, uint32_t column)
{
    r.batch += column;
    r.cached += column;
    return r;
}

/* The row of the token at this position. */
template <typename T>
SIMT_DEVICE const T *tile_token(
    const tile_rows<T> &r, const struct attention_tile &t, int32_t position)
{
    if (!tile_cached(t, position))
        return r.batch + tile_row(t, position) * r.stride;
    int64_t block = r.blocks[t.table + static_cast<uint32_t>(position) / KV_BLOCK_TOKENS];
    return r.cached + (block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS) * r.cached_stride;
}

/* Whether the token at this position belongs to the sequence itself and must be written. */
SIMT_DEVICE bool tile_writes(const struct attention_tile &t, int32_t position)
{
    return position >= static_cast<int32_t>(t.prefix) && position < static_cast<int32_t>(t.length);
}

#endif
