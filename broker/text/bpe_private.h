/* bpe_private.h - the tables of tokens and merges, and how to find in them (bpe_tables.c fills
 * them). Private to bpe*.c. */
#ifndef ASSAY_BPE_PRIVATE_H
#define ASSAY_BPE_PRIVATE_H

#include <string.h>

#include "broker/text/bpe.h"

#define BPE_NO_RANK UINT32_MAX

struct slot {
    uint32_t hash, token; /* token: index + 1 into tokens; 0: empty */
};

struct token {
    uint32_t from, len; /* in bytes */
    int32_t id;
    uint8_t is_whole; /* the merges of its own bytes lead to this token alone */
    uint8_t is_control;
};

struct merge {
    uint64_t pair; /* left << 32 | right */
    uint32_t rank; /* BPE_NO_RANK: an empty slot */
    int32_t whole;
};

struct bpe {
    struct token *tokens;
    uint8_t *bytes; /* of all tokens, one after another */
    struct slot *slots;
    struct merge *merges;
    uint32_t n_tokens, slot_mask, merge_mask;
    int32_t byte_ids[256];  /* of one byte, or of <0x..>; -1: none */
    int32_t *character_ids; /* by code point, -1: none; NULL: words start as bytes */
    int fuse_unk, cuts_at_space;
    int32_t unk;
};

static inline uint64_t bpe_mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0x9e3779b97f4a7c15ull;
    return x ^ x >> 29;
}

static inline uint32_t bpe_hash(const uint8_t *word, size_t len)
{
    uint64_t h = len, piece = 0;
    for (; len >= 8; len -= 8, word += 8) {
        memcpy(&piece, word, 8);
        h = bpe_mix(h ^ piece);
    }
    piece = 0;
    memcpy(&piece, word, len);
    return (uint32_t)(bpe_mix(h ^ piece) >> 8);
}

static inline const struct token *bpe_find_token(
    const struct bpe *b, const uint8_t *word, size_t len, uint32_t hash)
{
    for (uint32_t i = hash & b->slot_mask; b->slots[i].token; i = (i + 1) & b->slot_mask) {
        if (b->slots[i].hash != hash)
            continue;
        const struct token *t = &b->tokens[b->slots[i].token - 1];
        if (t->len == len && memcmp(b->bytes + t->from, word, len) == 0)
            return t;
    }
    return NULL;
}

static inline struct merge *bpe_find_merge(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint32_t i = (uint32_t)(bpe_mix(pair) >> 8) & b->merge_mask;
    while (b->merges[i].rank != BPE_NO_RANK && b->merges[i].pair != pair)
        i = (i + 1) & b->merge_mask;
    return &b->merges[i];
}

/* All of the options' tokens: 0, or ASSAY_EFORMAT. */
int bpe_add_tokens(struct bpe *b, const struct bpe_options *o, struct err *e);
void bpe_add_merges(struct bpe *b, const struct bpe_options *o);

#endif
