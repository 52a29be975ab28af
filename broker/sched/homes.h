/* homes.h - which replica computed a session's last row, and so has its beginning in its KV cache.
 *
 * Each replica of a model has a KV cache of its own. The next row of a session goes on where its
 * last one ended, so it is computed with the fewest tokens by the replica that computed that one:
 * its home, one for each model. Homes are 1, 2, .. in the order of the replicas; 0 is none.
 *
 * A home is a preference, by one rule (dispatch.c). A row with a home goes to that replica. Another
 * may take it while the home takes no batches (it is starting, say), or has more than HOMES_AHEAD of
 * them and the other has none. Whichever takes it is the session's home from then on.
 *
 * A fork has its session's home. Sessions of which none has been scored since the fork have one in
 * common: the first row of one of them decides for all. After that each goes its own way.
 *
 * All of it is in memory, and only ever decides where a row is computed: its bits are the same
 * everywhere. What is forgotten too early costs tokens. */
#ifndef ASSAY_HOMES_H
#define ASSAY_HOMES_H

#include <stdint.h>

#define HOMES_AHEAD 2        /* batches */
#define HOMES_ANY UINT32_MAX /* a set of homes: all, and none */
#define HOMES_BIT(home) (1u << (home))

/* Which rows are looked for: those of the planner's lane whose home has its bit here. */
struct choice {
    uint32_t lane, homes;
};

struct homes;

/* All functions take NULL for homes that are not kept. */
struct homes *homes_new(void);
void homes_free(struct homes **h);

/* A session, by a number that is not 0, is opened; forked; closed. */
void homes_open(struct homes *h, int64_t session);
void homes_fork(struct homes *h, int64_t session, int64_t fork);
void homes_close(struct homes *h, int64_t session);

/* The rows 0 .. n-1 of the job are these sessions'. Takes the array, which is NULL then. */
void homes_expect(struct homes *h, int64_t job, int64_t **sessions, uint32_t n);
/* The session whose row it is (row.h); 0: none. */
int64_t homes_session_of(const struct homes *h, int64_t row_id);
/* No row of the job is read any more. */
void homes_forget_job(struct homes *h, int64_t job);

/* The session's home for the rows of this lane (planner.h); 0: it has none, or is closed. */
uint32_t homes_find(const struct homes *h, int64_t session, uint32_t lane);
/* A row of the session went there. */
void homes_went(struct homes *h, int64_t session, uint32_t lane, uint32_t home);

#endif
