/* prepare.h - makes a message ready to be handled: decodes it, judges its rows, makes token ids of
 * their texts, packs them. One decoding serves all of it.
 *
 * This is what takes time and needs neither the store nor the loop. Any thread may do it, with a
 * struct admit of its own; the model's facts, tokenizer and chat template are read-only. */
#ifndef ASSAY_PREPARE_H
#define ASSAY_PREPARE_H

#include <stdatomic.h>

#include "broker/api/admit.h"
#include "broker/store/store.h"
#include "schema/request.h"

/* A chunk that waits in the store for the message's own. */
struct prepared_chunk {
    struct store_chunk chunk; /* rows: owned */
    struct store_rows *rows;
    struct prepared_chunk *next;
};

/* Zero-initialize; release at the end. It points into the message. */
struct prepared {
    struct request request; /* its id is there even if the message is refused */
    int rc;                 /* 0, or why the message is refused, with err */
    struct err err;
    struct store_rows *rows; /* NULL: none */
    uint8_t digest[STORE_DIGEST_BYTES];
    struct prepared_chunk *chunks; /* ascending; the caller adds them, without their rows */
    struct prepared_chunk *at;     /* the last one that prepared_find looked at */
    int is_decoded;                /* only `chunks` are still to be prepared */
};

/* What to prepare with. */
struct preparing {
    struct admit *admit;
    const struct request_limits *limits;
    const atomic_int *stop; /* non-zero: give up, whatever comes of it; NULL: never */
};

/* Prepares the message, or its chunks once it is prepared. */
void prepare(struct prepared *p, const struct preparing *with, struct slice message);
void prepared_release(struct prepared *p);
/* Prepares the encoded rows of a chunk, which were checked when it came. Returns 0 and *rows, which
 * the caller frees; client ids point into the encoded ones. */
int prepare_rows(
    struct store_rows **rows, const struct preparing *with, struct slice encoded, struct err *e);
/* Finds the rows of this chunk, which the store has with these bytes, among p->chunks; NULL: they
 * were not prepared. Ask for chunks in ascending order. */
const struct store_rows *prepared_find(struct prepared *p, const struct store_chunk *chunk);
/* Bytes of memory that the prepared rows take. */
size_t prepared_bytes(const struct prepared *p);

#endif
