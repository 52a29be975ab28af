/* kv_cache.h - which tokens' keys and values a rank keeps from batch to batch, and where.
 *
 * Keys and values are kept in blocks of KV_BLOCK_TOKENS tokens. A block is known by its content:
 * the block before it (none for the first of a row), the adapter, and its ids. All of them are
 * compared when it is looked for, so a hash decides nothing. Rows that begin alike have the same
 * first blocks.
 *
 * A block that is needed and not there takes the place of the one that was not used for longest.
 * Whoever uses a block also uses those before it, so a block is never older than one that follows
 * it, and what is taken away is always the end of a chain. Blocks used by the present batch stay.
 *
 * All of this is a function of the batches so far, so the ranks of a group, which get the same
 * batches and begin empty together, agree without a word. This file keeps books only; the memory is
 * the device's (struct kv_caches in qwen2.h). */
#ifndef ASSAY_KV_CACHE_H
#define ASSAY_KV_CACHE_H

#include <stdint.h>

#include "worker/ops.h"

#define KV_NO_BLOCK UINT32_MAX

struct kv_cache;

struct kv_cache *kv_cache_new(uint32_t n_blocks); /* at least 1 */
void kv_cache_free(struct kv_cache **c);

/* Begins a batch: the blocks that it finds or makes stay until the next one begins. */
void kv_cache_begin(struct kv_cache *c);

/* Finds the blocks of a row's whole blocks, from the first one on, as far as they are there: how
 * many. `ids` are the row's, n_tokens of them; blocks has room for n_tokens / KV_BLOCK_TOKENS. */
uint32_t kv_cache_find(
    struct kv_cache *c, uint32_t adapter, const int32_t *ids, uint32_t n_tokens, uint32_t *blocks);

/* The same, and makes those that are missing, as far as there is room. The new ones' contents are
 * the caller's to write before the batch ends. */
uint32_t kv_cache_extend(
    struct kv_cache *c, uint32_t adapter, const int32_t *ids, uint32_t n_tokens, uint32_t *blocks);

/* Takes back the blocks that this batch made: it failed. */
void kv_cache_take_back(struct kv_cache *c);

/* Whether the logits of a slot's token are kept too. A new block has none. */
int kv_cache_has_logits(const struct kv_cache *c, uint32_t slot);
void kv_cache_set_logits(struct kv_cache *c, uint32_t slot);

uint32_t kv_cache_used(const struct kv_cache *c); /* blocks that hold something */

#endif
