/* sessions.h - rows that grow, kept between requests: open, append, fork, score, close.
 *
 * A session is one row as a client could send it, in msgpack, under a name that the broker gives.
 * It is kept in memory only, and nothing of it is in a worker: when sessions are scored, their rows
 * take the way of all rows, so a session's score is its row's by construction. That a row's
 * beginning was computed before is the KV cache's to find out (worker/kv_cache.h).
 *
 * A name is 16 hexadecimal digits, which are random, and the number of appends, as in
 * "9f0c2b1e5a7d4c38.3". So a name stands for one row for ever: after an append the session has
 * another name, and the one before it is only good for the same append once more, whose reply was
 * lost. Nobody scores a row that somebody else has changed meanwhile.
 *
 * All sessions together have at most so many bytes, SESSION_BYTES for each beside its row. Beyond
 * that open, append and fork are refused; a session that was not used for SESSION_IDLE_MS is
 * closed.
 *
 * Rows are shared, so a fork copies none. What takes long is done apart from the loop
 * (session_work.h). Where several replicas have KV caches, each session has one that its rows are
 * best computed by (sched/homes.h).
 * LIMITS: an append copies the whole row. Rows of one append are there twice for a moment. */
#ifndef ASSAY_SESSIONS_H
#define ASSAY_SESSIONS_H

#include "broker/api/session_work.h"
#include "broker/sched/homes.h"
#include "schema/request.h"

#define SESSION_IDLE_MS (60 * 60 * 1000ll)
#define SESSION_NAME_BYTES sizeof "0123456789abcdef.4294967295"

struct sessions;

/* limits, homes: borrowed; homes may be NULL. */
struct sessions *sessions_new(
    uint64_t max_bytes, const struct request_limits *limits, struct homes *homes);
void sessions_free(struct sessions **s); /* NULL-safe */

/* Each handles a decoded request of its op at now_ms (monotonic). Returns 0; or a code with *e, and
 * nothing has changed: ASSAY_ENOSESSION, ASSAY_ESTATE (the name is of an earlier row),
 * ASSAY_ETOOLARGE, or what request_extend_row says. `names`: what is opened, appended to or forked;
 * a msgpack str each. */

/* *row: of the request. The session takes it. */
int sessions_open(struct sessions *s, const struct request *q, struct session_row **row,
    long long now_ms, struct msg_writer *names, struct err *e);
int sessions_fork(struct sessions *s, const struct request *q, long long now_ms,
    struct msg_writer *names, struct err *e);

/* Takes the rows that an append is to make longer. What can be refused is refused at its end. */
struct session_work *sessions_begin_append(const struct sessions *s, const struct request *q);
/* Ends it, after session_work_extend: gives the sessions their longer rows, and the work the ones
 * that they had. */
int sessions_append(struct sessions *s, const struct request *q, struct session_work *work,
    long long now_ms, struct msg_writer *names, struct err *e);

/* Takes the rows of score's sessions, for session_work_write. *work: the caller's; NULL if it is
 * refused. */
int sessions_begin_score(struct sessions *s, const struct request *q, long long now_ms,
    struct session_work **work, struct err *e);

/* *closed: how many were there. Any name of a session closes it; one that is gone counts as
 * nothing. Returns their rows, to be released. */
struct session_work *sessions_close(struct sessions *s, const struct request *q, uint32_t *closed);

/* Closes idle ones; 1: there are more. */
int sessions_tick(struct sessions *s, long long now_ms);

uint32_t sessions_count(const struct sessions *s);
uint64_t sessions_bytes(const struct sessions *s);

#endif
