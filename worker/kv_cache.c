/* kv_cache.c - an index of blocks by content, and their order by last use (kv_cache.h).
 *
 * The order is a list through the blocks, from the newest to the oldest. Finding and extending use
 * a row's blocks from the last to the first, so that a block becomes newer than those that follow
 * it. Blocks without content are at the list's old end. */
#include "worker/kv_cache.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/fnv.h"

struct block_key {
    uint32_t parent; /* the block before; KV_NO_BLOCK: none */
    uint32_t adapter;
    int32_t ids[KV_BLOCK_TOKENS];
};

struct block {
    struct block_key key;
    uint32_t next; /* in its bucket */
    uint32_t newer, older;
    uint32_t n_children;
    uint32_t logits; /* bit i: token i's are kept */
    uint64_t batch;  /* that used it last; 0: it has no content */
};

struct kv_cache {
    uint32_t n_blocks, n_used, newest, oldest, mask;
    uint64_t batch;
    struct block *blocks;
    uint32_t *buckets; /* [mask + 1] */
    uint32_t *made;    /* [n_blocks] by this batch, in order */
    uint32_t n_made;
};

struct kv_cache *kv_cache_new(uint32_t n_blocks)
{
    struct kv_cache *c = xcalloc(1, sizeof *c);
    uint32_t n_buckets = 1;
    while (n_buckets < n_blocks)
        n_buckets *= 2;
    c->n_blocks = n_blocks;
    c->mask = n_buckets - 1;
    c->blocks = xcalloc(n_blocks, sizeof *c->blocks);
    c->buckets = xcalloc(n_buckets, sizeof *c->buckets);
    c->made = xcalloc(n_blocks, sizeof *c->made);
    memset(c->buckets, 0xff, n_buckets * sizeof *c->buckets);
    for (uint32_t i = 0; i < n_blocks; i++) {
        c->blocks[i].newer = i > 0 ? i - 1 : KV_NO_BLOCK;
        c->blocks[i].older = i + 1 < n_blocks ? i + 1 : KV_NO_BLOCK;
    }
    c->oldest = n_blocks - 1;
    return c;
}

void kv_cache_free(struct kv_cache **out)
{
    struct kv_cache *c = *out;
    if (!c)
        return;
    free(c->blocks);
    free(c->buckets);
    free(c->made);
    free(c);
    *out = NULL;
}

/* ---- the order by last use ---- */

static void unlink_block(struct kv_cache *c, uint32_t i)
{
    const struct block *b = &c->blocks[i];
    *(b->newer == KV_NO_BLOCK ? &c->newest : &c->blocks[b->newer].older) = b->older;
    *(b->older == KV_NO_BLOCK ? &c->oldest : &c->blocks[b->older].newer) = b->newer;
}

static void use(struct kv_cache *c, uint32_t i)
{
    struct block *b = &c->blocks[i];
    b->batch = c->batch;
    if (c->newest == i)
        return;
    unlink_block(c, i);
    b->newer = KV_NO_BLOCK;
    b->older = c->newest;
    c->blocks[c->newest].newer = i;
    c->newest = i;
}

/* Uses a row's blocks, from the last to the first. */
static void use_all(struct kv_cache *c, const uint32_t *blocks, uint32_t n)
{
    while (n > 0)
        use(c, blocks[--n]);
}

static void make_oldest(struct kv_cache *c, uint32_t i)
{
    if (c->oldest == i)
        return;
    unlink_block(c, i);
    c->blocks[i].older = KV_NO_BLOCK;
    c->blocks[i].newer = c->oldest;
    c->blocks[c->oldest].older = i;
    c->oldest = i;
}

/* ---- the index ---- */

static uint32_t *bucket_of(const struct kv_cache *c, const struct block_key *key)
{
    uint64_t hash = fnv_add(FNV_NOTHING, key, sizeof *key);
    return &c->buckets[(hash ^ hash >> 32) & c->mask];
}

static uint32_t look_up(const struct kv_cache *c, const struct block_key *key)
{
    uint32_t i = *bucket_of(c, key);
    while (i != KV_NO_BLOCK && memcmp(&c->blocks[i].key, key, sizeof *key) != 0)
        i = c->blocks[i].next;
    return i;
}

/* Takes the content from a block that none follows. */
static void empty(struct kv_cache *c, uint32_t i)
{
    struct block *b = &c->blocks[i];
    uint32_t *at = bucket_of(c, &b->key);
    assert(b->n_children == 0);
    while (*at != i)
        at = &c->blocks[*at].next;
    *at = b->next;
    if (b->key.parent != KV_NO_BLOCK)
        c->blocks[b->key.parent].n_children--;
    b->batch = 0;
    b->logits = 0;
    c->n_used--;
}

/* Gives the key to the block that was not used for longest; KV_NO_BLOCK if this batch uses all. */
static uint32_t make(struct kv_cache *c, const struct block_key *key)
{
    uint32_t i = c->oldest;
    struct block *b = &c->blocks[i];
    if (b->batch == c->batch)
        return KV_NO_BLOCK;
    if (b->batch != 0)
        empty(c, i);
    uint32_t *at = bucket_of(c, key);
    b->key = *key;
    b->next = *at;
    *at = i;
    if (key->parent != KV_NO_BLOCK)
        c->blocks[key->parent].n_children++;
    c->made[c->n_made++] = i;
    c->n_used++;
    use(c, i);
    return i;
}

void kv_cache_begin(struct kv_cache *c)
{
    c->batch++;
    c->n_made = 0;
}

static uint32_t walk(struct kv_cache *c, uint32_t adapter, const int32_t *ids, uint32_t n_tokens,
    uint32_t *blocks, int makes)
{
    struct block_key key = {.parent = KV_NO_BLOCK, .adapter = adapter};
    uint32_t n = 0;
    for (; n < n_tokens / KV_BLOCK_TOKENS; n++) {
        memcpy(key.ids, ids + n * KV_BLOCK_TOKENS, sizeof key.ids);
        uint32_t i = look_up(c, &key);
        if (i == KV_NO_BLOCK && makes)
            i = make(c, &key);
        if (i == KV_NO_BLOCK)
            break;
        use(c, i); /* it stays while the next one is made */
        key.parent = blocks[n] = i;
    }
    use_all(c, blocks, n);
    return n;
}

uint32_t kv_cache_find(
    struct kv_cache *c, uint32_t adapter, const int32_t *ids, uint32_t n_tokens, uint32_t *blocks)
{
    return walk(c, adapter, ids, n_tokens, blocks, 0);
}

uint32_t kv_cache_extend(
    struct kv_cache *c, uint32_t adapter, const int32_t *ids, uint32_t n_tokens, uint32_t *blocks)
{
    return walk(c, adapter, ids, n_tokens, blocks, 1);
}

void kv_cache_take_back(struct kv_cache *c)
{
    while (c->n_made > 0) {
        uint32_t i = c->made[--c->n_made];
        empty(c, i);
        make_oldest(c, i);
    }
}

int kv_cache_has_logits(const struct kv_cache *c, uint32_t slot)
{
    return c->blocks[slot / KV_BLOCK_TOKENS].logits >> slot % KV_BLOCK_TOKENS & 1;
}

void kv_cache_set_logits(struct kv_cache *c, uint32_t slot)
{
    c->blocks[slot / KV_BLOCK_TOKENS].logits |= 1u << slot % KV_BLOCK_TOKENS;
}

uint32_t kv_cache_used(const struct kv_cache *c)
{
    return c->n_used;
}
