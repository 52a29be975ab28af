/* tokenizer_private.h - the parts of a tokenizer, which tokenizer_json.c fills and tokenizer.c
 * uses. */
#ifndef ASSAY_TOKENIZER_PRIVATE_H
#define ASSAY_TOKENIZER_PRIVATE_H

#include "broker/text/normalizer.h"
#include "broker/text/pre_tokenizer.h"
#include "broker/text/tokenizer.h"

struct tokenizer {
    uint8_t *classes; /* by code point, see unicode.h */
    struct bpe *bpe;
    struct added_set added, added_normalized;
    struct id_list before, behind; /* ids that the post-processor puts around a text */
    struct special_ids special;    /* of the files beside tokenizer.json */
    struct side_truncation truncation;
    json_t *texts, *model; /* of what they name, and side_facts.model; NULL: loaded without them */
    json_t *normalizer_json, *pre_json; /* what normalizer and pre were read from; NULL: nothing */
    struct slice *pieces;               /* [n_ids] bytes of each id; absent: no such token */
    uint8_t *piece_bytes;               /* the bytes that pieces point into */
    uint32_t n_ids;
    struct normalizer normalizer;
    struct pre_tokenizer pre;
};

/* Fills a zeroed tokenizer whose classes are set. On failure the caller frees what was
 * allocated. */
int tokenizer_read(struct tokenizer *t, const json_t *root, struct err *e);

#endif
