/* twins.h - rows that are the same, so that one is computed and the others take its result.
 *
 * A score is a pure function of a row's content: token ids, positions, pooling, how many numbers it gives; and of
 * checkpoint and mode. A row that is about to go into a batch is looked for in three places:
 *
 *     under way     a row of its job with this content is being computed: it waits for that one
 *     answered      one was answered at any time, in this run or before: its answer is copied
 *     score cache   one was computed by any job (store_cache.h; only where there is one)
 *
 * Those answered are found by a hash, in a table of the job (twin_table.h); then the row that it names is read
 * from the database, all of its content compared, and its answer taken if it was given under the present mode. So
 * nothing is believed but the database. Every row that is the same is found, however far away, and after
 * a restart.
 *
 * The answer may be an error: of the content (non_finite), or that it killed its group (worker_killed). */
#ifndef ASSAY_TWINS_H
#define ASSAY_TWINS_H

#include "broker/row.h"
#include "broker/store/store.h"
#include "broker/store/cache.h"

/* Tables that are open, of which each may be a mapped file; and memory of those that are small. */
#define TWINS_TABLES 16384
#define TWINS_BYTES (64u << 20)

struct twins;

struct twins_options {
    const char *digest,
        *mode; /* of the model and how it is computed: part of every key of the score cache */
    struct store *store;        /* borrowed */
    struct store_cache **cache; /* borrowed; may point to NULL, may become NULL; NULL: none */
    const char *data_dir;       /* for the tables of large jobs; NULL: all in memory */
    uint64_t min_free_bytes;    /* of the disk, that their files are to leave */
    uint32_t max_tables;        /* 0: TWINS_TABLES */
};

struct twins *twins_new(const struct twins_options *options);
void twins_free(struct twins **t); /* NULL-safe; no row may lead any more, or be used after it */

/* Who knows the row of several sequences that is not done yet, though some of them may be; NULL: it is not on
 * its way. */
typedef struct line *twins_line_finder(void *arg, int64_t row);
void twins_use_lines(struct twins *t, twins_line_finder *find, void *arg);

/* This row will be asked for soon. */
void twins_expect(struct twins *t, struct row *r);

/* A turn of the planner begins: as many milliseconds again for reading rows of before. */
void twins_begin(struct twins *t);

/* Has this row's result to be computed? TWINS_NONE: yes. TWINS_UNDER_WAY: *leader is being computed and
 * the row may be put on its list. TWINS_KNOWN: r->origin is set, and r->known or r->known_error. TWINS_LATER: the
 * job's rows of before are still being read; ask again. Negative: the store failed. */
enum twins_found { TWINS_NONE, TWINS_UNDER_WAY, TWINS_KNOWN, TWINS_LATER };
int twins_find(struct twins *t, struct row *r, struct row **leader, struct err *e);
int twins_said_later(struct twins *t); /* 1 when it did since the last call of this */

/* This row, for which twins_find said NONE, goes to be computed. */
void twins_lead(struct twins *t, struct row *r);

/* This one goes to be computed whatever is known, and none waits for it. */
void twins_note(struct twins *t, struct row *r);

/* It has come back; with its values (committed), or with NULL. The rows that waited for it stay on its list, the
 * caller's. */
void twins_end(struct twins *t, struct row *r, const float *values);

/* All of a batch's results were given to twins_end: the score cache is brought up to date. */
void twins_flush(struct twins *t);

/* Idle work, about once a second: tables of jobs that are over go. */
int twins_idle(struct twins *t, struct err *e);

#endif
