/* side_truncation.h - how a checkpoint's files have a text cut that is too long.
 *
 * transformers' tokenizer takes them where a call says truncation=True and no more: the side from
 * tokenizer_config.json's truncation_side, else from the direction of tokenizer.json's truncation;
 * the length from model_max_length (max_len). tokenizer.json's max_length counts for nothing there.
 * Here a row says both itself, or is refused where the files and the defaults of a row differ
 * (broker/api/truncation.h). */
#ifndef ASSAY_SIDE_TRUNCATION_H
#define ASSAY_SIDE_TRUNCATION_H

#include <jansson.h>
#include <stdint.h>

#include "schema/err.h"

struct side_truncation {
    int is_left;         /* the beginning is cut, not the end */
    uint32_t max_length; /* at least 1; UINT32_MAX: no limit */
};

/* Reads it from tokenizer_config.json and tokenizer.json. ASSAY_EFORMAT for a side at which
 * transformers fails. */
int side_truncation_read(
    const json_t *config, const json_t *tokenizer, struct side_truncation *t, struct err *e);

#endif
