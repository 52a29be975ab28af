/* sequences.h - a batch's rows as attention takes them.
 *
 * Tokens that a prefix owner shares become a sequence of their own; the rest of each row, the
 * owner's included, becomes a sequence that has the shared one as its prefix. So nothing computed
 * for shared tokens depends on the rest of any row. */
#ifndef ASSAY_SEQUENCES_H
#define ASSAY_SEQUENCES_H

#include "shm/stage.h"
#include "worker/ops.h"

#define SEQUENCES_NONE UINT32_MAX

struct sequences {
    uint32_t n, longest;          /* longest: the longest whole row */
    uint32_t *cu_seqlens;         /* [n + 1] */
    struct attn_prefix *prefixes; /* [n] */
    struct attn_block_table
        *tables; /* [n] what is cached of each; nothing, unless reuse.h says so */
    /* For reuse_init, which leaves nothing in them: */
    uint32_t *rows;   /* [n] the batch's row; of a prefix, its owner */
    uint32_t *owners; /* [n] the sequence that is its prefix, or SEQUENCES_NONE */
};

void sequences_init(struct sequences *s, const struct stage_batch *b);
void sequences_release(struct sequences *s);

/* Writes every token's position in its row. Returns whether some sequence has a prefix. */
int sequences_positions(const struct sequences *s, int32_t *positions);

#endif
