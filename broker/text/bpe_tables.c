/* bpe_tables.c - fills the tables of tokens and merges (bpe_private.h). */
#include <stdio.h>

#include "broker/text/bpe_private.h"
#include "broker/text/unicode.h"
#include "schema/alloc.h"

/* A power of two, at least twice n. */
static uint32_t table_size(uint32_t n)
{
    uint32_t size = 1024;
    while (size < 2 * n)
        size *= 2;
    return size;
}

/* A token that is one character, or one byte as <0x0A>. */
static void note_character(struct bpe *b, const struct bpe_token *t)
{
    unsigned bytes, byte;
    char text[8];
    uint32_t code = unicode_decode(t->bytes.at, &bytes);
    if (bytes == t->bytes.len)
        b->character_ids[code] = t->id;
    if (t->bytes.len != 6)
        return;
    memcpy(text, t->bytes.at, 6);
    text[6] = 0;
    if (sscanf(text, "<0x%2X>", &byte) != 1)
        return;
    snprintf(text, sizeof text, "<0x%02X>", byte);
    if (memcmp(text, t->bytes.at, 6) == 0)
        b->byte_ids[byte] = t->id;
}

static int add_token(struct bpe *b, const struct bpe_token *t, uint32_t *used, struct err *e)
{
    uint32_t hash = bpe_hash(t->bytes.at, t->bytes.len), i = hash & b->slot_mask;
    const struct token *same = bpe_find_token(b, t->bytes.at, t->bytes.len, hash);
    if (same)
        return err_set(
            e, ASSAY_EFORMAT, "tokens %d and %d stand for the same bytes", same->id, t->id);
    b->tokens[b->n_tokens] =
        (struct token){*used, (uint32_t)t->bytes.len, t->id, 0, (uint8_t)t->is_control};
    memcpy(b->bytes + *used, t->bytes.at, t->bytes.len);
    *used += (uint32_t)t->bytes.len;
    while (b->slots[i].token)
        i = (i + 1) & b->slot_mask;
    b->slots[i] = (struct slot){hash, ++b->n_tokens};
    if (b->character_ids)
        note_character(b, t);
    else if (t->bytes.len == 1)
        b->byte_ids[t->bytes.at[0]] = t->id;
    return 0;
}

int bpe_add_tokens(struct bpe *b, const struct bpe_options *o, struct err *e)
{
    uint64_t bytes = 0;
    uint32_t used = 0, size = table_size(o->n_tokens);
    int rc = 0;
    for (uint32_t i = 0; i < o->n_tokens; i++)
        bytes += o->tokens[i].bytes.len;
    if (bytes > UINT32_MAX)
        return err_set(e, ASSAY_EFORMAT, "expected at most 4 GiB of tokens");
    b->tokens = xcalloc(o->n_tokens + 1ul, sizeof *b->tokens);
    b->bytes = xcalloc(bytes + 1, 1);
    b->slots = xcalloc(size, sizeof *b->slots);
    b->slot_mask = size - 1;
    memset(b->byte_ids, 0xff, sizeof b->byte_ids);
    if (o->of_characters) {
        b->character_ids = xcalloc(UNICODE_END, sizeof *b->character_ids);
        memset(b->character_ids, 0xff, UNICODE_END * sizeof *b->character_ids);
    }
    for (uint32_t i = 0; rc == 0 && i < o->n_tokens; i++)
        rc = add_token(b, &o->tokens[i], &used, e);
    for (int c = 0; rc == 0 && !o->of_characters && c < 256; c++)
        if (b->byte_ids[c] < 0)
            rc = err_set(e, ASSAY_EFORMAT,
                "expected a token for each of the 256 bytes, found none for byte 0x%02x", c);
    return rc;
}

void bpe_add_merges(struct bpe *b, const struct bpe_options *o)
{
    uint32_t size = table_size(o->n_merges);
    b->merges = xcalloc(size, sizeof *b->merges);
    b->merge_mask = size - 1;
    for (uint32_t i = 0; i < size; i++)
        b->merges[i].rank = BPE_NO_RANK;
    for (uint32_t i = 0; i < o->n_merges; i++) {
        const struct bpe_merge *m = &o->merges[i];
        *bpe_find_merge(b, m->left, m->right) =
            (struct merge){(uint64_t)(uint32_t)m->left << 32 | (uint32_t)m->right, i, m->whole};
    }
}

/* ---- comparing ---- */

/* Has `b` each token of `a`, as it is there? */
static int has_tokens(const struct bpe *b, const struct bpe *a)
{
    int same = 1;
    for (uint32_t i = 0; same && i < a->n_tokens; i++) {
        const struct token *t = &a->tokens[i], *other;
        const uint8_t *bytes = a->bytes + t->from;
        other = bpe_find_token(b, bytes, t->len, bpe_hash(bytes, t->len));
        same = other && other->id == t->id && other->is_control == t->is_control;
    }
    return same;
}

/* Does each token stay whole in both, or in neither? */
static int keep_same_whole(const struct bpe *a, const struct bpe *b)
{
    int same = 1;
    for (uint32_t i = 0; same && i < a->n_tokens; i++) {
        const struct token *t = &a->tokens[i];
        const uint8_t *bytes = a->bytes + t->from;
        same = t->is_whole == bpe_find_token(b, bytes, t->len, bpe_hash(bytes, t->len))->is_whole;
    }
    return same;
}

/* Has `b` each merge of `a`, with its rank? */
static int has_merges(const struct bpe *b, const struct bpe *a)
{
    int same = 1;
    for (uint32_t i = 0; same && i <= a->merge_mask; i++) {
        const struct merge *m = &a->merges[i];
        if (m->rank != BPE_NO_RANK)
            same = bpe_find_merge(b, (int32_t)(m->pair >> 32), (int32_t)m->pair)->rank == m->rank;
    }
    return same;
}

static int have_same_characters(const struct bpe *a, const struct bpe *b)
{
    return a->fuse_unk == b->fuse_unk && a->unk == b->unk &&
           !a->character_ids == !b->character_ids &&
           memcmp(a->byte_ids, b->byte_ids, sizeof a->byte_ids) == 0;
}

const char *bpe_difference(const struct bpe *a, const struct bpe *b)
{
    if (a->n_tokens != b->n_tokens || !has_tokens(b, a))
        return "vocab and which of its tokens are special";
    if (!has_merges(b, a) || !has_merges(a, b))
        return "merges";
    if (!keep_same_whole(a, b))
        return "ignore_merges";
    return have_same_characters(a, b) ? NULL : "unk_token, fuse_unk or byte_fallback";
}
