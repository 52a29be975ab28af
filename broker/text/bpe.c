/* bpe.c - merges words: short ones by search, long ones with a heap (bpe.h). */
#include "broker/text/bpe.h"

#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "broker/text/bpe_private.h"
#include "broker/text/buffer.h"
#include "broker/text/unicode.h"
#include "schema/alloc.h"
#include "schema/log.h"

#define SPACE "\xe2\x96\x81" /* U+2581, which stands for a space */
#define SHORT_WORD 48        /* bytes; a longer word keeps its candidates in a heap */
#define CACHE_WORDS (1u << 15)
#define CACHE_WORD_BYTES 24
#define CACHE_WORD_IDS 9

/* A part of a word during its merges. */
struct part {
    int32_t id;
    uint32_t rank; /* of the merge with the next part */
    int32_t whole; /* what that merge gives */
    uint32_t next, before;
};

struct cached {
    uint8_t len, n_ids; /* len 0: empty */
    uint8_t word[CACHE_WORD_BYTES];
    int32_t ids[CACHE_WORD_IDS];
};

struct bpe_encoder {
    const struct bpe *bpe;
    struct cached *cache;
    struct part *parts; /* [parts_room] */
    uint64_t *heap;     /* rank << 32 | place */
    size_t parts_room, heap_room, heap_len;
    int avoids_controls;
};

void id_list_add(struct id_list *l, int32_t id)
{
    if (l->len == l->room)
        l->at = list_grow(l->at, l->len, &l->room, sizeof *l->at);
    l->at[l->len++] = id;
}

/* ---- one word ---- */

static void rank_part(const struct bpe_encoder *n, uint32_t at, uint32_t end)
{
    struct part *p = &n->parts[at];
    p->rank = BPE_NO_RANK;
    if (p->next == end)
        return;
    const struct merge *m = bpe_find_merge(n->bpe, p->id, n->parts[p->next].id);
    p->rank = m->rank;
    p->whole = m->whole;
}

/* Merges the part at `at` with its right neighbour. */
static void merge_part(const struct bpe_encoder *n, uint32_t at, uint32_t end)
{
    struct part *p = &n->parts[at];
    n->parts[p->next].id = -1;
    p->id = p->whole;
    p->next = n->parts[p->next].next;
    if (p->next != end)
        n->parts[p->next].before = at;
    rank_part(n, at, end);
    if (at != 0)
        rank_part(n, p->before, end);
}

static void heap_push(struct bpe_encoder *n, uint32_t at)
{
    if (n->parts[at].rank == BPE_NO_RANK)
        return;
    if (n->heap_len == n->heap_room) {
        n->heap_room = n->heap_room ? n->heap_room * 2 : 1024;
        n->heap = realloc(n->heap, n->heap_room * sizeof *n->heap);
        if (!n->heap)
            die(EX_OSERR, "out of memory: a word of %zu candidates", n->heap_room);
    }
    uint64_t v = (uint64_t)n->parts[at].rank << 32 | at;
    size_t i = n->heap_len++;
    for (; i > 0 && n->heap[(i - 1) / 2] > v; i = (i - 1) / 2)
        n->heap[i] = n->heap[(i - 1) / 2];
    n->heap[i] = v;
}

static uint64_t heap_pop(struct bpe_encoder *n)
{
    uint64_t top = n->heap[0], v = n->heap[--n->heap_len];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < n->heap_len) {
        if (child + 1 < n->heap_len && n->heap[child + 1] < n->heap[child])
            child++;
        if (n->heap[child] >= v)
            break;
        n->heap[i] = n->heap[child];
        i = child;
    }
    n->heap[i] = v;
    return top;
}

static void merge_long(struct bpe_encoder *n, uint32_t end)
{
    n->heap_len = 0;
    for (uint32_t i = 0; i < end; i++)
        heap_push(n, i);
    while (n->heap_len > 0) {
        uint64_t top = heap_pop(n);
        uint32_t at = (uint32_t)top;
        if (n->parts[at].id < 0 || n->parts[at].rank != top >> 32)
            continue; /* merged since */
        merge_part(n, at, end);
        heap_push(n, at);
        if (at != 0)
            heap_push(n, n->parts[at].before);
    }
}

static void merge_short(const struct bpe_encoder *n, uint32_t end)
{
    for (;;) {
        uint32_t best = 0;
        for (uint32_t i = n->parts[0].next; i != end; i = n->parts[i].next)
            if (n->parts[i].rank < n->parts[best].rank)
                best = i;
        if (n->parts[best].rank == BPE_NO_RANK)
            return;
        merge_part(n, best, end);
    }
}

/* Appends a part to the *n of the word. */
static void add_part(const struct bpe_encoder *n, uint32_t *parts, int32_t id)
{
    n->parts[*parts] = (struct part){id, BPE_NO_RANK, 0, *parts + 1, *parts - 1};
    ++*parts;
}

/* Has each of the character's bytes a token? */
static int has_bytes(const struct bpe *b, const uint8_t *character, unsigned bytes)
{
    for (unsigned i = 0; i < bytes; i++)
        if (b->byte_ids[character[i]] < 0)
            return 0;
    return 1;
}

/* Splits a word into characters. The unknown token waits for the next known character, even behind
 * the tokens of bytes, as in the reference. */
static uint32_t split_characters(const struct bpe_encoder *n, const uint8_t *word, size_t len)
{
    const struct bpe *b = n->bpe;
    uint32_t parts = 0;
    unsigned bytes;
    int waits = 0;
    for (size_t i = 0; i < len; i += bytes) {
        int32_t id = b->character_ids[unicode_decode(word + i, &bytes)];
        if (id < 0 && has_bytes(b, word + i, bytes)) {
            for (unsigned k = 0; k < bytes; k++)
                add_part(n, &parts, b->byte_ids[word[i + k]]);
            continue;
        }
        if (waits && (id >= 0 || !b->fuse_unk))
            add_part(n, &parts, b->unk);
        waits = id < 0 && b->unk >= 0;
        if (id >= 0)
            add_part(n, &parts, id);
    }
    if (waits)
        add_part(n, &parts, b->unk);
    return parts;
}

static uint32_t split_bytes(const struct bpe_encoder *n, const uint8_t *word, size_t len)
{
    uint32_t parts = 0;
    for (size_t i = 0; i < len; i++)
        add_part(n, &parts, n->bpe->byte_ids[word[i]]);
    return parts;
}

static void merge_word(struct bpe_encoder *n, const uint8_t *word, size_t len, struct id_list *out)
{
    if (len > n->parts_room) {
        free(n->parts);
        n->parts_room = len + SHORT_WORD;
        n->parts = xcalloc(n->parts_room, sizeof *n->parts);
    }
    uint32_t end =
        n->bpe->character_ids ? split_characters(n, word, len) : split_bytes(n, word, len);
    if (end == 0)
        return;
    for (uint32_t i = 0; i < end; i++)
        rank_part(n, i, end);
    if (end <= SHORT_WORD)
        merge_short(n, end);
    else
        merge_long(n, end);
    for (uint32_t i = 0; i != end; i = n->parts[i].next)
        id_list_add(out, n->parts[i].id);
}

/* ---- a word that was seen before ---- */

static int recall(const struct cached *c, const uint8_t *word, size_t len, struct id_list *out)
{
    if (c->len != len || memcmp(c->word, word, len) != 0)
        return 0;
    for (int i = 0; i < c->n_ids; i++)
        id_list_add(out, c->ids[i]);
    return 1;
}

static void remember(
    struct cached *c, const uint8_t *word, size_t len, const int32_t *ids, size_t n)
{
    if (n > CACHE_WORD_IDS)
        return;
    c->len = (uint8_t)len;
    c->n_ids = (uint8_t)n;
    memcpy(c->word, word, len);
    memcpy(c->ids, ids, n * sizeof *ids);
}

static int is_control(const struct bpe *b, const uint8_t *word, size_t len, uint32_t hash)
{
    const struct token *t = bpe_find_token(b, word, len, hash);
    return t && t->is_control;
}

void bpe_avoid_controls(struct bpe_encoder *n, int avoid)
{
    n->avoids_controls = avoid;
}

static void encode_word(struct bpe_encoder *n, const uint8_t *word, size_t len, struct id_list *out)
{
    uint32_t hash = bpe_hash(word, len);
    if (n->avoids_controls && is_control(n->bpe, word, len, hash)) {
        merge_word(n, word, len, out); /* nor is it remembered */
        return;
    }
    struct cached *c = len <= CACHE_WORD_BYTES ? &n->cache[hash % CACHE_WORDS] : NULL;
    if (c && recall(c, word, len, out))
        return;
    size_t before = out->len;
    const struct token *t = bpe_find_token(n->bpe, word, len, hash);
    if (t && t->is_whole)
        id_list_add(out, t->id);
    else
        merge_word(n, word, len, out);
    if (c)
        remember(c, word, len, out->at + before, out->len - before);
}

/* Returns where the next space begins that is not behind another, len: nowhere. */
static size_t next_space(const uint8_t *text, size_t from, size_t len)
{
    size_t n = sizeof SPACE - 1;
    for (const uint8_t *at; (at = memmem(text + from, len - from, SPACE, n));) {
        from = (size_t)(at - text);
        if (from < n || memcmp(at - n, SPACE, n) != 0)
            return from;
        from += n;
    }
    return len;
}

void bpe_encode(struct bpe_encoder *n, const uint8_t *word, size_t len, struct id_list *out)
{
    size_t end = len;
    for (; n->bpe->cuts_at_space && len > 0; word += end, len -= end) {
        end = next_space(word, 1, len);
        encode_word(n, word, end, out);
    }
    if (!n->bpe->cuts_at_space)
        encode_word(n, word, len, out);
}

/* ---- life ---- */

struct bpe_encoder *bpe_encoder_new(const struct bpe *b)
{
    struct bpe_encoder *n = xcalloc(1, sizeof *n);
    n->bpe = b;
    n->cache = xcalloc(CACHE_WORDS, sizeof *n->cache);
    return n;
}

void bpe_encoder_free(struct bpe_encoder **out)
{
    struct bpe_encoder *n = *out;
    if (!n)
        return;
    free(n->cache);
    free(n->parts);
    free(n->heap);
    free(n);
    *out = NULL;
}

/* Finds the tokens that the merges of their own bytes lead to. */
static void find_whole_tokens(struct bpe *b, int ignore_merges)
{
    struct bpe_encoder *n = bpe_encoder_new(b);
    struct id_list ids = {0};
    for (uint32_t i = 0; i < b->n_tokens; i++) {
        struct token *t = &b->tokens[i];
        ids.len = 0;
        if (!ignore_merges)
            merge_word(n, b->bytes + t->from, t->len, &ids);
        t->is_whole = ignore_merges || (ids.len == 1 && ids.at[0] == t->id);
    }
    free(ids.at);
    bpe_encoder_free(&n);
}

static int crosses_space(const uint8_t *text, size_t len)
{
    return next_space(text, 1, len) < len;
}

/* Is no character left out, with spaces on both sides that then stand side by side? */
static int keeps_all_characters(const struct bpe *b)
{
    int n = 0;
    while (n < 256 && b->byte_ids[n] >= 0)
        n++;
    return b->unk >= 0 || n == 256;
}

/* A word may be cut before a space (U+2581) if nothing merges across that place, whatever was
 * before it; no unknown character waits there. */
static int cuts_at_space(const struct bpe *b, const struct bpe_options *o)
{
    unsigned bytes;
    int cuts = b->character_ids && !o->ignore_merges && keeps_all_characters(b) &&
               b->character_ids[unicode_decode((const uint8_t *)SPACE, &bytes)] >= 0;
    uint8_t *crosses = xcalloc(BPE_MAX_IDS, 1);
    for (uint32_t i = 0; cuts && i < b->n_tokens; i++)
        crosses[b->tokens[i].id] =
            (uint8_t)crosses_space(b->bytes + b->tokens[i].from, b->tokens[i].len);
    for (uint32_t i = 0; cuts && i < o->n_merges; i++)
        cuts = !crosses[o->merges[i].whole];
    free(crosses);
    return cuts;
}

int bpe_new(struct bpe **out, const struct bpe_options *o, struct err *e)
{
    struct bpe *b = xcalloc(1, sizeof *b);
    b->fuse_unk = o->fuse_unk;
    b->unk = o->of_characters ? o->unk : -1;
    int rc = bpe_add_tokens(b, o, e);
    if (rc == 0 && o->of_characters && !o->byte_fallback)
        memset(b->byte_ids, 0xff, sizeof b->byte_ids);
    if (rc == 0) {
        bpe_add_merges(b, o);
        find_whole_tokens(b, o->ignore_merges);
        b->cuts_at_space = cuts_at_space(b, o);
    } else {
        bpe_free(&b);
    }
    *out = b;
    return rc;
}

void bpe_free(struct bpe **out)
{
    struct bpe *b = *out;
    if (!b)
        return;
    free(b->tokens);
    free(b->bytes);
    free(b->slots);
    free(b->merges);
    free(b->character_ids);
    free(b);
    *out = NULL;
}

int bpe_is_of_characters(const struct bpe *b)
{
    return b->character_ids != NULL;
}
