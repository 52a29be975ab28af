/* truncation.h - which tokens of a sequence that is too long stay.
 *
 * As transformers' tokenizers with truncation=True:
 *     - the tokens that the tokenizer itself put around a text stay, and what they leave of the
 *       limit is for the text;
 *     - truncation_side right (the default) keeps the first tokens of the text, left the last;
 *     - with keep_last_token the sequence's last token stays too, whatever it is: the text then
 *       loses one more in front of it.
 * Each sequence of a row is cut by itself.
 *
 * A row that says truncate without a side or a length is cut at its end to the broker's limit.
 * Where the checkpoint's files ask for another side, or for fewer tokens, two readings are
 * possible: a text that would be cut is refused then. Token ids are not the tokenizer's, so its
 * files say nothing of them. */
#ifndef ASSAY_TRUNCATION_H
#define ASSAY_TRUNCATION_H

#include "broker/text/side_truncation.h"
#include "schema/request.h"

/* A sequence of n tokens. */
struct long_sequence {
    uint32_t n;
    uint32_t before, behind;           /* that the tokenizer put around it */
    uint32_t max_len;                  /* the broker's limit */
    const struct side_truncation *own; /* of the checkpoint's files; NULL: it is of token ids */
};

/* The first and the last tokens that stay: all of them where head + tail is n. */
struct kept {
    uint32_t head, tail;
};

/* Fills *kept. A row's error: ASSAY_ETOOLONG, or ASSAY_EBADREQ with the field that would decide. */
int truncation_keep(
    const struct row_request *q, const struct long_sequence *s, struct kept *kept, struct err *e);

#endif
