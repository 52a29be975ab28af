/* prepare.h - makes a message ready to be handled: decodes it, judges its rows, makes token ids of
 * their texts, packs them. One decoding serves all of it.
 *
 * This is what takes time and needs neither the store nor the loop. Any thread may do it, with a
 * struct admit of its own; the model's facts, tokenizer and chat template are read-only. */
#ifndef ASSAY_PREPARE_H
#define ASSAY_PREPARE_H

#include <stdatomic.h>

#include "broker/api/admit.h"
#include "broker/api/session_work.h"
#include "broker/store/store.h"
#include "schema/request.h"

/* Zero-initialize; release at the end. It points into the message. */
struct prepared {
    int has_model; /* rows that name no model are for `model`, not the first; prepared_release keeps
                      this */
    uint32_t model; /* the model of such rows, as they were prepared: the id of a served one */
    struct catalog_pins pins; /* what names mean in the job, if not what is current (likewise) */
    struct catalog *catalog;  /* that it is, or is to be, prepared with; in use. NULL: none */
    struct request request;   /* its id is there even if the message is refused */
    int rc;                   /* 0, or why the message is refused, with err */
    struct err err;
    struct store_rows *rows; /* NULL: none */
    struct slice
        encoded; /* the rows as they are kept: those of the message, behind how they are cut
                                where it says that */
    uint8_t *own_encoded; /* NULL: they are the message's bytes */
    uint8_t digest[STORE_DIGEST_BYTES];
    struct session_row *row;   /* an open's; NULL: the session has it, or it is another op */
    struct session_work *work; /* of an op on sessions, once it is begun */
    int is_decoded;
    int64_t job; /* whose kept chunks are placed before the reply (kept.h) */
};

/* What to prepare with. */
struct preparing {
    struct admit *admit;
    const struct request_limits *limits;
    const atomic_int *stop; /* non-zero: give up, whatever comes of it; NULL: never */
    long long most_us;      /* give up after so long; 0: never */
    /* of a kept chunk (prepare_rows): its job's model, what names mean in it, and the models */
    uint32_t model;
    const struct catalog_pins *pins;
    const struct catalog *catalog;
};

/* Prepares the message: 1, or 0 when that took longer than with->most_us, and *p is as before. */
int prepare(struct prepared *p, const struct preparing *with, struct slice message);
void prepared_release(struct prepared *p);
/* It is to be prepared once more: rows that name no model are for this one (CATALOG_NONE: the
 * first), and names mean these models (NULL: the current ones). */
void prepared_again(struct prepared *p, uint32_t model, const struct catalog_pins *pins);
/* Prepares the encoded rows of a chunk, which were checked when it came, all but the first `skip`.
 * Returns 0 and *rows, which the caller frees; client ids point into the encoded ones. */
int prepare_rows(struct store_rows **rows, const struct preparing *with, struct slice encoded,
    uint32_t skip, struct err *e);
/* Prepares the rows of a kept chunk, whose bytes were read, that are not placed: each as damaged if
 * the bytes are not what arrived. ASSAY_ENOTREADY: given up. */
int prepare_pending(struct store_rows **rows, const struct preparing *with,
    const struct store_pending *p, const uint8_t *bytes, struct err *e);
/* Bytes of memory that the prepared rows take, or will take once a score of sessions has theirs. */
size_t prepared_bytes(const struct prepared *p);

#endif
