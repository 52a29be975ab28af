/* reuse.h - what of a batch need not be computed, since the KV cache has it (kv_cache.h).
 *
 * Of each sequence the first whole blocks that are cached are left out, but for these rules:
 *     - the last token of a row is computed, unless it is the last of a prefix;
 *     - a token that is pooled is left out only if its logits are kept too. They are, where it was
 *       pooled before, in any row: hidden states are not;
 *     - a prefix and those that name it leave out the same. A sequence that has cached more than
 *       its prefix does not name it any more.
 * Of the rest, what fills whole blocks is kept, as far as there is room. */
#ifndef ASSAY_REUSE_H
#define ASSAY_REUSE_H

#include "worker/kv_cache.h"
#include "worker/pooler.h"
#include "worker/sequences.h"

struct reuse {
    struct kv_cache *cache;
    struct stage_batch batch;       /* the batch's computed tokens: ids, cu_seqlens, n_tokens */
    struct pooling_metadata wanted; /* the pooled ones among them: out_rows, first */
    struct kept_logits logits;      /* of all the batch's pooled tokens */
    struct kv_slots *slots;         /* [n_slots] what of the computed tokens is kept */
    uint32_t n_slots;
    uint32_t *blocks; /* what the sequences' tables point to */
};

/* Decides for a batch and its pooling, and cuts `s`, which is of the whole batch, down to what is
 * computed. End it with reuse_end, then reuse_release. */
void reuse_init(struct reuse *u, struct kv_cache *cache, const struct stage_batch *b,
    const struct pooling_metadata *pooling, struct sequences *s);

/* The batch was computed; or else it failed, and nothing of it is kept. */
void reuse_end(struct reuse *u, int is_computed);
void reuse_release(struct reuse *u);

#endif
