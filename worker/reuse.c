/* reuse.c - see reuse.h.
 *
 * First the cached blocks of every sequence are found, so that none of them makes room for another.
 * Then it is decided what is computed; then blocks are made for what will be kept. "Token" is an
 * index into the whole batch here, "at" one into the computed part. */
#include "worker/reuse.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"

#define NOT_COMPUTED UINT32_MAX
#define NOT_WANTED UINT32_MAX

/* A sequence: its own tokens are n from `first` on, at positions from `from` on. */
struct part {
    uint32_t first, n, from, owner, adapter;
    uint32_t *blocks; /* of the row, from its first token on */
    uint32_t n_blocks;
    uint32_t
        cached; /* its tokens at lower positions come from blocks, the others of its row from */
    int joins;  /* the batch: its prefix's, if it joins that, and its own */
    int is_prefix, is_joined;
};

struct plan {
    struct reuse *u;
    const struct stage_batch *b;
    const struct pooling_metadata *pooling;
    struct part *parts; /* [n] */
    uint32_t n;
    int32_t *row_ids;  /* [longest] of one row */
    uint8_t *wanted;   /* [tokens] */
    uint32_t *part_of; /* [tokens] */
    uint32_t *at;      /* [tokens] its place in what is computed, or NOT_COMPUTED */
};

/* ---- what is cached ---- */

/* The ids of a part's row up to its end, which has *n. */
static const int32_t *ids_of(const struct plan *p, const struct part *part, uint32_t *n)
{
    const int32_t *own = p->b->ids + part->first;
    *n = part->from + part->n;
    if (part->from == 0)
        return own;
    memcpy(p->row_ids, p->b->ids + p->parts[part->owner].first, part->from * sizeof *own);
    memcpy(p->row_ids + part->from, own, part->n * sizeof *own);
    return p->row_ids;
}

static void find_parts(struct plan *p, const struct sequences *s)
{
    uint32_t *blocks = p->u->blocks;
    for (uint32_t k = 0; k < p->n; k++) {
        struct part *part = &p->parts[k];
        uint32_t n, first = s->cu_seqlens[k];
        *part = (struct part){.first = first,
            .n = s->cu_seqlens[k + 1] - first,
            .from = s->prefixes[k].n,
            .owner = s->owners[k],
            .adapter = p->b->rows[s->rows[k]].adapter,
            .blocks = blocks};
        if (part->owner != SEQUENCES_NONE)
            p->parts[part->owner].is_prefix = 1;
        const int32_t *ids = ids_of(p, part, &n);
        part->n_blocks = kv_cache_find(p->u->cache, part->adapter, ids, n, blocks);
        blocks += n / KV_BLOCK_TOKENS;
        for (uint32_t i = 0; i < part->n; i++)
            p->part_of[first + i] = k;
    }
}

static uint32_t slot_of(const struct part *part, uint32_t position)
{
    return part->blocks[position / KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS;
}

/* How many of the part's first positions may be left out, for what it pools itself. */
static uint32_t may_leave_out(const struct plan *p, const struct part *part)
{
    uint32_t n = part->n_blocks * KV_BLOCK_TOKENS, end = part->from + part->n;
    if (!part->is_prefix && n > end - 1)
        n = (end - 1) / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    for (uint32_t i = part->from; i < n; i++)
        if (p->wanted[part->first + i - part->from] &&
            !kv_cache_has_logits(p->u->cache, slot_of(part, i)))
            return i / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    return n;
}

static int wants_from(const struct plan *p, const struct part *part, uint32_t position)
{
    for (uint32_t i = position; i < part->n; i++)
        if (p->wanted[part->first + i])
            return 1;
    return 0;
}

/* Prefixes come before those that name them, and depend on them: so from the last to the first. A
 * prefix that nobody joins and nobody pools from is left out to its end. */
static void decide(struct plan *p)
{
    for (uint32_t k = p->n; k-- > 0;) {
        struct part *part = &p->parts[k];
        part->cached = may_leave_out(p, part);
        if (part->is_prefix && !part->is_joined && !wants_from(p, part, part->cached))
            part->cached = part->n;
        part->joins = part->cached < part->from;
        if (part->joins)
            p->parts[part->owner].is_joined = 1;
    }
    for (uint32_t k = 0; k < p->n; k++)
        if (p->parts[k].joins)
            p->parts[k].cached = p->parts[p->parts[k].owner].cached;
}

/* ---- what is computed ---- */

static void compute(struct plan *p, uint32_t token)
{
    struct stage_batch *b = &p->u->batch;
    ((int32_t *)b->ids)[b->n_tokens] = p->b->ids[token];
    p->at[token] = b->n_tokens++;
}

/* The computed part of a sequence becomes sequence s->n; nothing, if there is none. */
static void cut_part(struct plan *p, const struct part *part, struct sequences *s)
{
    uint32_t skip = part->joins || part->cached < part->from ? 0 : part->cached - part->from;
    if (skip >= part->n)
        return;
    struct attn_prefix prefix = {0, 0};
    if (part->joins) {
        const struct part *owner = &p->parts[part->owner];
        prefix.n = owner->n - owner->cached;
        prefix.first = prefix.n > 0 ? p->at[owner->first + owner->cached] : 0;
    }
    for (uint32_t i = skip; i < part->n; i++)
        compute(p, part->first + i);
    s->prefixes[s->n] = prefix;
    s->tables[s->n] = (struct attn_block_table){part->blocks, part->cached};
    s->cu_seqlens[++s->n] = p->u->batch.n_tokens;
}

static void cut_rows(struct plan *p)
{
    uint32_t *cu = (uint32_t *)p->u->batch.cu_seqlens, n = 0;
    for (uint32_t r = 0; r < p->b->n_rows; r++) {
        for (uint32_t t = p->b->cu_seqlens[r]; t < p->b->cu_seqlens[r + 1]; t++)
            n += p->at[t] != NOT_COMPUTED;
        cu[r + 1] = n;
    }
}

/* ---- what is kept ---- */

/* Runs end with their block: a device may copy each by itself. */
static void add_slot(struct kv_slots *slots, uint32_t *n, uint32_t token, uint32_t slot)
{
    struct kv_slots *last = *n > 0 ? &slots[*n - 1] : NULL;
    if (last && last->token + last->n == token && last->slot + last->n == slot &&
        slot % KV_BLOCK_TOKENS > 0)
        last->n++;
    else
        slots[(*n)++] = (struct kv_slots){token, slot, 1};
}

/* Where the part's row has its computed token of this position. */
static uint32_t at_position(const struct plan *p, const struct part *part, uint32_t position)
{
    return position < part->from ? p->at[p->parts[part->owner].first + position]
                                 : p->at[part->first + position - part->from];
}

/* The prefix keeps its own blocks; a block that it has only the beginning of is kept by each that
 * names it. */
static void keep_part(struct plan *p, struct part *part)
{
    uint32_t n, begin = part->cached, whole = part->from / KV_BLOCK_TOKENS * KV_BLOCK_TOKENS;
    const int32_t *ids = ids_of(p, part, &n);
    part->n_blocks = kv_cache_extend(p->u->cache, part->adapter, ids, n, part->blocks);
    if (part->joins && begin < whole)
        begin = whole;
    for (uint32_t i = begin; i < part->n_blocks * KV_BLOCK_TOKENS; i++)
        add_slot(p->u->slots, &p->u->n_slots, at_position(p, part, i), slot_of(part, i));
}

/* ---- logits ---- */

/* Sorts the pooled tokens into those that are computed, each once, and those whose logits are
 * kept. */
static void sort_wanted(struct plan *p)
{
    struct reuse *u = p->u;
    const struct pooling_metadata *all = p->pooling;
    uint32_t n = 0, *cached = (uint32_t *)u->logits.cached, *order = (uint32_t *)u->logits.order;
    uint32_t *place = xcalloc(u->batch.n_tokens + 1u, sizeof *place);
    memset(place, 0xff, u->batch.n_tokens * sizeof *place);
    for (uint32_t r = 0; r < all->n_rows; u->wanted.first[++r] = n)
        for (uint32_t i = all->first[r]; i < all->first[r + 1]; i++) {
            uint32_t at = p->at[all->out_rows[i]];
            if (at == NOT_COMPUTED)
                continue;
            if (place[at] == NOT_WANTED)
                u->wanted.out_rows[place[at] = n++] = at;
            order[i] = place[at];
        }
    u->wanted.n_out_rows = n;
    for (uint32_t i = 0; i < all->n_out_rows; i++) {
        uint32_t token = all->out_rows[i];
        const struct part *part = &p->parts[p->part_of[token]];
        if (p->at[token] != NOT_COMPUTED)
            continue;
        order[i] = n + u->logits.n_cached;
        cached[u->logits.n_cached++] = slot_of(part, part->from + token - part->first);
    }
    free(place);
}

/* The pooled ones among the tokens that are kept. */
static void keep_logits(struct reuse *u)
{
    uint32_t *place = xcalloc(u->batch.n_tokens, sizeof *place), most = 0;
    memset(place, 0xff, u->batch.n_tokens * sizeof *place);
    for (uint32_t i = 0; i < u->wanted.n_out_rows; i++)
        place[u->wanted.out_rows[i]] = i;
    for (uint32_t k = 0; k < u->n_slots; k++)
        most += u->slots[k].n;
    struct kv_slots *slots = xcalloc(most + 1u, sizeof *slots);
    for (uint32_t k = 0; k < u->n_slots; k++)
        for (uint32_t i = 0; i < u->slots[k].n; i++)
            if (place[u->slots[k].token + i] != NOT_WANTED)
                add_slot(
                    slots, &u->logits.n_slots, place[u->slots[k].token + i], u->slots[k].slot + i);
    u->logits.slots = slots;
    free(place);
}

/* ---- all of it ---- */

static void take_memory(struct plan *p, const struct sequences *s)
{
    struct reuse *u = p->u;
    uint32_t n_tokens = p->b->n_tokens, n_out = p->pooling->n_out_rows;
    size_t blocks = 0, slots = 0;
    for (uint32_t k = 0; k < s->n; k++) {
        uint32_t n = s->prefixes[k].n + s->cu_seqlens[k + 1] - s->cu_seqlens[k];
        blocks += n / KV_BLOCK_TOKENS;
        slots += 2 * (n / KV_BLOCK_TOKENS + 1u); /* a block's tokens lie in one place or two */
    }
    p->parts = xcalloc(s->n, sizeof *p->parts);
    p->row_ids = xcalloc(s->longest, sizeof *p->row_ids);
    p->wanted = xcalloc(n_tokens, sizeof *p->wanted);
    p->part_of = xcalloc(n_tokens, sizeof *p->part_of);
    p->at = xcalloc(n_tokens, sizeof *p->at);
    memset(p->at, 0xff, n_tokens * sizeof *p->at);
    u->blocks = xcalloc(blocks + 1, sizeof *u->blocks);
    u->slots = xcalloc(slots + 1, sizeof *u->slots);
    u->batch.ids = xcalloc(n_tokens, sizeof *u->batch.ids);
    u->batch.cu_seqlens = xcalloc(p->b->n_rows + 1u, sizeof *u->batch.cu_seqlens);
    u->wanted.out_rows = xcalloc(n_out, sizeof *u->wanted.out_rows);
    u->wanted.first = xcalloc(p->b->n_rows + 1u, sizeof *u->wanted.first);
    u->logits.cached = xcalloc(n_out, sizeof *u->logits.cached);
    u->logits.order = xcalloc(n_out, sizeof *u->logits.order);
}

void reuse_init(struct reuse *u, struct kv_cache *cache, const struct stage_batch *b,
    const struct pooling_metadata *pooling, struct sequences *s)
{
    struct plan p = {.u = u, .b = b, .pooling = pooling, .n = s->n};
    *u = (struct reuse){.cache = cache, .batch = *b};
    u->batch.n_tokens = 0;
    take_memory(&p, s);
    kv_cache_begin(cache);
    for (uint32_t i = 0; i < pooling->n_out_rows; i++)
        p.wanted[pooling->out_rows[i]] = 1;
    find_parts(&p, s);
    decide(&p);
    s->n = 0;
    for (uint32_t k = 0; k < p.n; k++)
        cut_part(&p, &p.parts[k], s);
    cut_rows(&p);
    sort_wanted(&p);
    for (uint32_t k = 0; k < p.n; k++)
        keep_part(&p, &p.parts[k]);
    keep_logits(u);
    free(p.parts);
    free(p.row_ids);
    free(p.wanted);
    free(p.part_of);
    free(p.at);
}

void reuse_end(struct reuse *u, int is_computed)
{
    if (!is_computed)
        kv_cache_take_back(u->cache);
    for (uint32_t k = 0; is_computed && k < u->logits.n_slots; k++)
        for (uint32_t i = 0; i < u->logits.slots[k].n; i++)
            kv_cache_set_logits(u->cache, u->logits.slots[k].slot + i);
}

void reuse_release(struct reuse *u)
{
    free((void *)u->batch.ids);
    free((void *)u->batch.cu_seqlens);
    free(u->wanted.out_rows);
    free(u->wanted.first);
    free((void *)u->logits.cached);
    free((void *)u->logits.order);
    free((void *)u->logits.slots);
    free(u->slots);
    free(u->blocks);
    *u = (struct reuse){0};
}
