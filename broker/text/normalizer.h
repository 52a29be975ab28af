/* normalizer.h - changes a text before it is cut, by the steps of tokenizer.json's normalizer. */
#ifndef ASSAY_NORMALIZER_H
#define ASSAY_NORMALIZER_H

#include "broker/text/buffer.h"
#include "broker/text/normal_form.h"
#include "broker/text/pattern.h"
#include "schema/err.h"
#include "schema/msg.h"

#define NORMALIZER_MAX_STEPS 8

enum normalizer_kind {
    NORMALIZER_FORM,
    NORMALIZER_PREPEND,   /* content before a text that is not empty */
    NORMALIZER_REPLACE,   /* content for each match of the pattern */
    NORMALIZER_STRIP,     /* white space at the ends */
    NORMALIZER_LOWERCASE, /* each character by itself */
    NORMALIZER_ACCENTS    /* combining marks are dropped */
};

struct normalizer_step {
    enum normalizer_kind kind;
    enum normal_form form;
    struct pattern *pattern; /* owned */
    struct buffer content;
    int left, right;
};

struct normalizer {
    struct normalizer_step steps[NORMALIZER_MAX_STEPS];
    unsigned n;
};

void normalizer_release(struct normalizer *t);

/* One thread's scratch space. Zero-initialize. */
struct normalized {
    struct buffer text, next;
    struct pattern_matcher *matcher;
    size_t most_bytes; /* that a text may grow to */
};

void normalized_release(struct normalized *n);
/* Changes *text (valid UTF-8), which is then borrowed until the next call; `classes` comes from
 * unicode_classes. Returns 0, or ASSAY_EBADTEXT: a pattern's limits, or the text grows more than
 * sixteenfold. */
int normalizer_apply(const struct normalizer *t, const uint8_t *classes, struct normalized *n,
    struct slice *text, struct err *e);

#endif
