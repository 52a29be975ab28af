/* twins.h - rows that are the same, so that one is computed and the others take its result.
 *
 * A score is a pure function of the row's key (twins.c has what goes into it), so a copied result is
 * the computed one, byte for byte. A row that is about to go into a batch is looked up in three places:
 *
 *     under way     a row of its job with this key is being computed: it waits for that one
 *     remembered    one was computed lately: its result is copied
 *     score cache   one was computed at any time, by any job (store_cache.h; only where there is one)
 *
 * What is remembered is a table of fixed size in memory, 32 bytes a row. The result of one number lies
 * in it; a longer one is read from the twin's row in the database. */
#ifndef ASSAY_TWINS_H
#define ASSAY_TWINS_H

#include "broker/row.h"
#include "broker/store.h"
#include "broker/store_cache.h"

/* 32 MiB, taken as it fills. */
#define TWINS_REMEMBERED (1u << 20)

struct twins;

struct twins_options {
    const char *digest, *mode;  /* of the model and how it is computed: part of every key */
    struct store *store;        /* borrowed */
    struct store_cache **cache; /* borrowed; may point to NULL, may become NULL; NULL: none */
    uint32_t remembered;        /* rows, a power of two, 8 or more */
};

struct twins *twins_new(const struct twins_options *options);
void twins_free(struct twins **t); /* NULL-safe; no row may lead any more, or be used after it */

/* Has this row's result to be computed? TWINS_NONE: yes. TWINS_UNDER_WAY: *leader is being computed and
 * the row may be put on its list. TWINS_KNOWN: r->known and r->origin are set. Negative: the store
 * failed. */
enum twins_found { TWINS_NONE, TWINS_UNDER_WAY, TWINS_KNOWN };
int twins_find(struct twins *t, struct row *r, struct row **leader, struct err *e);

/* This row, for which twins_find said NONE, goes to be computed. */
void twins_lead(struct twins *t, struct row *r);

/* It has come back; with its values (committed), which are remembered, or with NULL. The rows that
 * waited for it stay on its list, the caller's. */
void twins_end(struct twins *t, struct row *r, const float *values);

/* All of a batch's results were given to twins_end: the score cache is brought up to date. */
void twins_flush(struct twins *t);

#endif
