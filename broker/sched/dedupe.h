/* dedupe.h - rows that are the same, so that one is computed and the others take its result.
 *
 * A score is a pure function of a row's content: token ids, positions, pooling, how many numbers it gives; and of
 * checkpoint and mode. A row that is about to go into a batch is looked for in three places:
 *
 *     under way     a row of its job with this content is being computed: it waits for that one
 *     answered      one was answered at any time, in this run or before: its answer is copied
 *     score cache   one was computed by any job (score_cache.h; only where there is one)
 *
 * Those answered are found by a hash, in a table of the job (dedupe_index.h); then the row that it names is read
 * from the database, all of its content compared, and its answer taken if it was given under the present mode. So
 * nothing is believed but the database. Every row that is the same is found, however far away, and after
 * a restart.
 *
 * The answer may be an error: of the content (non_finite), or that it killed its group (worker_killed). */
#ifndef ASSAY_DEDUPE_H
#define ASSAY_DEDUPE_H

#include "broker/row.h"
#include "broker/store/store.h"
#include "broker/store/score_cache.h"

/* Tables that are open, of which each may be a mapped file; and memory of those that are small. */
#define DEDUPE_TABLES 16384
#define DEDUPE_BYTES (64u << 20)

struct dedupe;

struct dedupe_options {
    const char *digest,
        *mode; /* of the model and how it is computed: part of every key of the score cache */
    struct store *store;        /* borrowed */
    struct score_cache **cache; /* borrowed; may point to NULL, may become NULL; NULL: none */
    const char *data_dir;       /* for the tables of large jobs; NULL: all in memory */
    uint64_t min_free_bytes;    /* of the disk, that their files are to leave */
    uint32_t max_tables;        /* 0: DEDUPE_TABLES */
    long long (*now_ms)(void);  /* NULL: now_mono_ms */
};

struct dedupe *dedupe_new(const struct dedupe_options *options);
void dedupe_free(struct dedupe **t); /* NULL-safe; no row may lead any more, or be used after it */

/* Who knows the row of several sequences that is not done yet, though some of them may be; NULL: it is not on
 * its way. */
typedef struct row *dedupe_row_finder(void *arg, int64_t row);
void dedupe_use_rows(struct dedupe *t, dedupe_row_finder *find, void *arg);

/* This row will be asked for soon. */
void dedupe_prefetch(struct dedupe *t, struct sequence *r);

/* Resets the budget for reading rows of before, at the beginning of the planner's pass. However slow the machine
 * is, each pass reads some. */
void dedupe_reset_budget(struct dedupe *t);

/* Has this row's result to be computed? DEDUPE_NONE: yes. DEDUPE_UNDER_WAY: *primary is being computed and
 * the row may be put on its list. DEDUPE_KNOWN: r->origin is set, and r->known or r->known_error. DEDUPE_LATER: the
 * job's rows of before are still being read; ask again. Negative: the store failed. */
enum dedupe_found { DEDUPE_NONE, DEDUPE_UNDER_WAY, DEDUPE_KNOWN, DEDUPE_LATER };
int dedupe_find(struct dedupe *t, struct sequence *r, struct sequence **primary, struct err *e);
int dedupe_is_behind(struct dedupe *t); /* 1 when it did since the last call of this */

/* This row, for which dedupe_find said NONE, goes to be computed. */
void dedupe_add_primary(struct dedupe *t, struct sequence *r);

/* This one goes to be computed whatever is known, and none waits for it. */
void dedupe_add_queued(struct dedupe *t, struct sequence *r);

/* It has come back; with its values (committed), or with NULL. The rows that waited for it stay on its list, the
 * caller's. */
void dedupe_remove_primary(struct dedupe *t, struct sequence *r, const float *values);

/* All of a batch's results were given to dedupe_remove_primary: the score cache is brought up to date. */
void dedupe_flush(struct dedupe *t);

/* Idle work, about once a second: tables of jobs that are over go. */
int dedupe_idle(struct dedupe *t, struct err *e);

#endif
