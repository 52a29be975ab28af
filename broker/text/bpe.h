/* bpe.h - byte pair encoding: a vocabulary of strings and ranked merges that cut a word into
 * tokens.
 *
 * This is the reference's algorithm: a word starts as its bytes, or as its characters; of all
 * neighbours that may merge, those of the lowest rank merge, leftmost first, until none may. Short
 * words search for the lowest rank after each merge; long ones keep the candidates in a heap,
 * O(n log n).
 *
 * Of characters, one that is no token is the tokens of its bytes, <0x0A> and the like; without such
 * a token for each it is the unknown token; without that it is dropped, all as in the reference.
 *
 * Most words skip this for speed: a word that is a token which its merges are known to produce
 * takes one lookup, and an encoder remembers the words that it cut recently. A text that is one
 * long word with U+2581 for its spaces is cut before these where no merge reaches across. */
#ifndef ASSAY_BPE_H
#define ASSAY_BPE_H

#include "schema/err.h"
#include "schema/msg.h"

#define BPE_MAX_IDS (1u << 24)

struct bpe;

/* One token, for bpe_new. Its bytes are borrowed. */
struct bpe_token {
    struct slice bytes; /* at least one byte */
    int32_t id;
    int is_control; /* see bpe_avoid_controls */
};

struct bpe_merge {
    /* ids; the place in the list is the rank, and the last of equal pairs counts */
    int32_t left, right, whole;
};

struct bpe_options {
    const struct bpe_token *tokens;
    uint32_t n_tokens;
    const struct bpe_merge *merges;
    uint32_t n_merges;
    int ignore_merges; /* a word that is a token becomes that token, whatever the merges */
    int of_characters; /* words start as characters; the rest is for these */
    int byte_fallback;
    int fuse_unk; /* unknown characters in a row are one token */
    int32_t unk;  /* id of the unknown token, -1: none */
};

/* Builds the vocabulary. ASSAY_EFORMAT if two tokens are the same, or one of the 256 bytes is no
 * token where words start as bytes. */
int bpe_new(struct bpe **b, const struct bpe_options *o, struct err *e);
void bpe_free(struct bpe **b);
/* Names the first thing in which the two may cut a word differently, such as "merges"; NULL: they
 * never do. */
const char *bpe_difference(const struct bpe *a, const struct bpe *b);

/* A growing list of ids. Zero-initialize; free(at). */
struct id_list {
    int32_t *at;
    size_t len, room;
};
void id_list_add(struct id_list *l, int32_t id);

/* One thread's scratch space and cache of words, for one bpe. */
struct bpe_encoder;
struct bpe_encoder *bpe_encoder_new(const struct bpe *b);
void bpe_encoder_free(struct bpe_encoder **n);
/* From here on, ignore_merges makes no word a control token (1), or it does (0, as at first). */
void bpe_avoid_controls(struct bpe_encoder *n, int avoid);
/* Appends the word's tokens to out. len >= 1. */
void bpe_encode(struct bpe_encoder *n, const uint8_t *word, size_t len, struct id_list *out);
/* Do words start as characters (struct bpe_parts' of_characters), not as bytes? */
int bpe_is_of_characters(const struct bpe *b);

#endif
