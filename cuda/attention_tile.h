/* attention_tile.h - where the tokens of an attention tile (kernels.h) lie; shared by both kernels.
 * */
#ifndef ASSAY_CUDA_ATTENTION_TILE_H
#define ASSAY_CUDA_ATTENTION_TILE_H

#include "cuda/simt.h"

/* The row of q, k, v and out that holds the token at this position of the tile's sequence. */
SIMT_DEVICE int64_t tile_row(const struct attention_tile &t, int32_t position)
{
    bool shared = position < static_cast<int32_t>(t.prefix);
    return static_cast<int64_t>(shared ? t.prefix_first : t.first) + position;
}

/* Whether the token at this position belongs to the sequence itself and must be written. */
SIMT_DEVICE bool tile_writes(const struct attention_tile &t, int32_t position)
{
    return position >= static_cast<int32_t>(t.prefix) && position < static_cast<int32_t>(t.length);
}

#endif
