/* pre_tokenizer.h - cuts a text into the words that are merged, by the steps of tokenizer.json's
 * pre_tokenizer.
 *
 * Each step gets the pieces that the step before made, and cuts each by itself. A step finds
 * matches (of a pattern, or of characters of a class) and gives out both these and what is between
 * them, joined as its behavior says; or it puts a space before a piece. Pieces are never empty. */
#ifndef ASSAY_PRE_TOKENIZER_H
#define ASSAY_PRE_TOKENIZER_H

#include "broker/text/buffer.h"
#include "broker/text/pattern.h"
#include "schema/err.h"
#include "schema/msg.h"

#define PRE_MAX_STEPS 16

enum pre_kind {
    PRE_SCAN,    /* a pattern that split.h knows, Isolated */
    PRE_PATTERN, /* any other */
    PRE_CLASS,   /* each character of a class of unicode.h is a match */
    PRE_SPACE    /* cuts nothing, but puts a space before */
};

enum pre_behavior {
    PRE_ISOLATED, /* every match is a piece, and what is between two */
    PRE_REMOVED,  /* matches are dropped */
    PRE_WITH_PREVIOUS,
    PRE_WITH_NEXT, /* a match belongs to what is next to it; of several in a row one does */
    PRE_CONTIGUOUS /* matches in a row are one piece */
};

/* When a space is put before a piece that does not begin with one. */
enum pre_prefix { PRE_NEVER, PRE_FIRST, PRE_ALWAYS }; /* first: at the text's beginning only */

struct pre_step {
    enum pre_kind kind;
    int digits;              /* PRE_SCAN: split.h's */
    struct pattern *pattern; /* PRE_PATTERN: owned */
    uint8_t class;           /* PRE_CLASS */
    enum pre_behavior behavior;
    int invert; /* what is between matches is the match */
    enum pre_prefix prefix;
    char space[5]; /* PRE_SPACE: the character that stands for a space, which it replaces */
};

struct pre_tokenizer {
    struct pre_step steps[PRE_MAX_STEPS];
    unsigned n;
};

void pre_tokenizer_release(struct pre_tokenizer *t);

/* One thread's scratch space, for one pre-tokenizer and the classes of unicode_classes. */
struct pre_cutter;
struct pre_cutter *pre_cutter_new(const struct pre_tokenizer *t, const uint8_t *classes);
void pre_cutter_free(struct pre_cutter **c);

typedef void pre_take(void *to, const uint8_t *word, size_t len);

/* Cuts the text (valid UTF-8, not empty) and passes each word to `take`, borrowed for that call.
 * is_first: it is the beginning of the whole text. Returns 0, or ASSAY_EBADTEXT: a pattern's limits
 * (pattern.h); some words may have been passed then. */
int pre_cut(
    struct pre_cutter *c, struct slice text, int is_first, pre_take *take, void *to, struct err *e);

#endif
