/* pooling.h - which tokens of a row are scored, and what is done to the logits: shared by request,
 * store, slot and worker. The numbers are stored in the database and in shared memory: add, never
 * renumber.
 *
 * Positions count from 0 at the row's first token. With n tokens:
 *     LAST {n-1}   CLS {0}   ALL {0..n-1}   STEP {p : ids[p] == step_token}
 *     POSITIONS as given     MEAN the mean over ALL
 * A LAST row may carry one position, which replaces n-1, so that trailing pad tokens are skipped
 * (hf_pad_rule). That is decided when the row is accepted: a stored row keeps its position. MEAN is
 * the mean of the per-token logits, mean(score(h)), not score(mean(h)).
 *
 * A row gives activation_values() numbers for each pooled position; MEAN counts as one position.
 * That is n_labels, except for class1, which keeps one of the labels' probabilities. */
#ifndef ASSAY_POOLING_H
#define ASSAY_POOLING_H

#include <stdint.h>

enum pool_type {
    POOL_DEFAULT = 0, /* the architecture's own; resolved by the broker before a row is stored */
    POOL_LAST = 1,
    POOL_ALL = 2,
    POOL_STEP = 3,
    POOL_MEAN = 4,
    POOL_CLS = 5,
    POOL_POSITIONS = 6,
};

enum activation {
    ACTIVATION_DEFAULT =
        0,               /* the architecture's own; resolved by the broker before a row is stored */
    ACTIVATION_NONE = 1, /* raw logits */
    ACTIVATION_SOFTMAX = 2, /* over labels */
    ACTIVATION_SIGMOID = 3,
    ACTIVATION_CLASS1 =
        4, /* softmax, then the probability of class 1 alone: one value a position */
    ACTIVATION_CONFIG =
        5, /* what config.json names; resolved by the broker before a row is stored */
};

#define POOL_NO_STEP_TOKEN (-1)

/* Which token LAST is where a row has pad tokens, as the model's class has it (hf_pad_rule). */
enum pad_rule {
    PAD_RULE_NONE = 0,       /* the last token */
    PAD_RULE_LAST_OTHER = 1, /* the last that is not the pad token; the first where all are */
    PAD_RULE_BEFORE_FIRST =
        2, /* the one before the first pad token; the last where that is first */
};

/* How a row is scored, apart from the positions of POOL_POSITIONS. This layout is part of the
 * format of a slot (shm/stage.c) and of a score cache's key (broker/sched/content.c). */
struct pooling {
    int32_t type;       /* enum pool_type */
    int32_t activation; /* enum activation */
    int32_t step_token; /* for POOL_STEP; POOL_NO_STEP_TOKEN: none */
};

/* Names as in messages: "LAST", "softmax". from_name returns the number, or -1 for an unknown name
 * (len bytes, not terminated). name returns static storage. */
int pool_type_from_name(const char *name, unsigned long len);
const char *pool_type_name(int type);
int activation_from_name(const char *name, unsigned long len);
const char *activation_name(int activation);

/* Returns how many values one position (or the mean) gives with this activation and n_labels. */
uint32_t activation_values(int activation, uint32_t n_labels);

/* Returns what was asked for, with the model's own in place of what was not. */
struct pooling pooling_resolve(struct pooling asked, struct pooling own);

#endif
