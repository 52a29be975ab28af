/* dedupe.h - computes one of several equal rows; the others take its result.
 *
 * A score depends only on the row's content (token ids, positions, pooling, number of values), the
 * checkpoint and the mode. Before a row goes into a batch, dedupe_find looks for an equal one in
 * three places:
 *
 *     under way     an equal row of the job, the primary, is being computed: this row waits for it
 *     answered      an equal row of the job has a result, from this run or before: it is copied
 *     score cache   any job computed an equal row (score_cache.h; only with --score-cache)
 *
 * An index for each job finds answered rows by hash (dedupe_index.h). dedupe_find then reads the
 * row that the index names from the database, compares the whole content, and takes the answer if
 * it was given under the present mode. The database alone decides. Every equal row is found, at any
 * distance and after a restart, with one exception: a large job waits for at most wait_ms until its
 * index is filled from the database. Meanwhile a row whose equal is not in the index yet is
 * computed again, which gives the same bits.
 *
 * An answer may be an error: non_finite, or worker_killed. */
#ifndef ASSAY_DEDUPE_H
#define ASSAY_DEDUPE_H

#include "broker/row.h"
#include "broker/store/store.h"
#include "broker/store/score_cache.h"
#include "broker/table.h"

/* How many indexes may be open (each may be a mapped file), and how much memory the small ones may
 * take. */
#define DEDUPE_TABLES 16384
#define DEDUPE_BYTES (64u << 20)
/* What the broker takes for wait_ms: an index gets some hundred thousand rows in this time. */
#define DEDUPE_WAIT_MS 500

struct dedupe;

/* What makes the bits of a score beside its row: part of every score cache key. */
struct dedupe_model {
    const char *digest, *mode; /* of the model, and how it is computed */
    const char *adapter;       /* its digest; NULL: none */
};

struct dedupe_options {
    /* Says it of a row's mode: 0, or -1 when that is not there. The strings live until the next
     * call. */
    int (*describe)(const void *arg, int64_t mode, struct dedupe_model *out);
    const void *arg;
    const char *digest, *mode;  /* of all rows, where describe is NULL */
    struct store *store;        /* borrowed */
    struct score_cache **cache; /* borrowed; may point to NULL, may become NULL; NULL: none */
    const char *data_dir;       /* for the indexes of large jobs; NULL: all in memory */
    uint64_t min_free_bytes;    /* disk space that these files must leave free */
    uint32_t max_tables;        /* 0: DEDUPE_TABLES */
    long long (*now_ms)(void);  /* NULL: now_mono_ms */
    uint32_t wait_ms;           /* how long a job waits for its index; 0: until it is filled */
};

struct dedupe *dedupe_new(const struct dedupe_options *options);
void dedupe_free(
    struct dedupe **t); /* NULL-safe; no primary may be left, and no row be used afterwards */

/* Shows it the rows in flight: struct row by row number, NULL for those of one sequence. So those
 * sequences of a row that are done can be copied before the row is. Borrowed; NULL: none. */
void dedupe_use_rows(struct dedupe *t, const struct table *rows);

/* Loads into the cache what dedupe_find(r) will read. */
void dedupe_prefetch(struct dedupe *t, struct sequence *r);

/* Resets the time budget for reading finished rows, at the beginning of the planner's pass. However
 * slow the machine is, each pass reads some. */
void dedupe_reset_budget(struct dedupe *t);

/* Says whether r must be computed. DEDUPE_NONE: yes. DEDUPE_UNDER_WAY: *primary is being computed,
 * and r may join its duplicates. DEDUPE_KNOWN: r->origin is set, and r->found_values or
 * r->found_error. DEDUPE_LATER: the job's index is still being filled from the database; ask again.
 * Negative: the store failed. */
enum dedupe_found { DEDUPE_NONE, DEDUPE_UNDER_WAY, DEDUPE_KNOWN, DEDUPE_LATER };
int dedupe_find(struct dedupe *t, struct sequence *r, struct sequence **primary, struct err *e);
/* 1: since the last call dedupe_find saw an index that is still being filled, so the planner's next
 * pass should come soon. */
int dedupe_is_behind(struct dedupe *t);

/* Makes r, for which dedupe_find said DEDUPE_NONE, a primary when it is sent to a worker. */
void dedupe_add_primary(struct dedupe *t, struct sequence *r);

/* Notes that r is sent to a worker without a search, so that no duplicate may wait for it. */
void dedupe_add_lone(struct dedupe *t, struct sequence *r);

/* Ends r as a primary when it has come back, with its committed values or NULL. Its duplicates stay
 * on its list, which the caller owns. */
void dedupe_remove_primary(struct dedupe *t, struct sequence *r, const float *values);

/* Writes what was computed to the score cache; call it once all results of a batch are given. */
void dedupe_flush(struct dedupe *t);

/* Closes the indexes of finished jobs; call it about once a second. */
int dedupe_idle(struct dedupe *t, struct err *e);

#endif
