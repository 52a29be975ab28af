/* content.h - what makes two sequences equal: token ids, positions, pooling, number of values
 * and mode. A score depends on nothing else. */
#ifndef ASSAY_CONTENT_H
#define ASSAY_CONTENT_H

#include "broker/row.h"

#define CONTENT_MODEL_BYTES 32

/* Writes to `model` [CONTENT_MODEL_BYTES] what keys have of the checkpoint's digest, the mode and
 * the digest of the row's adapter (NULL: none). */
void content_model(uint8_t *model, const char *digest, const char *mode, const char *adapter);

int content_is_same(const struct sequence *a, const struct sequence *b);
/* Sets r->hash: a hint, which equal sequences share. `seed` is secret. */
void content_hash(struct sequence *r, uint64_t seed);
/* Sets r->key, which proves that sequences of one model are equal. */
void content_key(struct sequence *r, const uint8_t *model);

#endif
