/* session_work.h - the rows of sessions (sessions.h), and what takes time for requests that have
 * many of them: writing the longer rows of an append, writing the rows of a score, and releasing
 * what a close leaves. None of it needs the loop.
 *
 * A row never changes, and is shared: by its session, by forks of that, and by requests. An append
 * gives the session another row. So a request begins on the loop, where it takes the rows of its
 * names; its work is done in any thread; and the loop ends it, where it finds out whether its
 * sessions are still what they were. */
#ifndef ASSAY_SESSION_WORK_H
#define ASSAY_SESSION_WORK_H

#include <stdatomic.h>

#include "schema/request.h"

#define SESSION_BYTES 256 /* what a session takes beside its row, and more */
#define SESSION_DIGEST_BYTES 16

struct session;

struct session_row {
    atomic_uint n_users;
    struct slice bytes; /* owned; raw msgpack map */
};

/* Copies the bytes; one user. */
struct session_row *session_row_new(struct slice bytes);
struct session_row *session_row_use(struct session_row *row); /* one more */
/* One less, which frees the row if it was the last. NULL-safe. */
void session_row_let_go(struct session_row **row);

/* Of one name in a request. */
struct session_item {
    struct session_row *row; /* as it was when the request began; NULL: no session has the name */
    struct session_row *longer;           /* an append's, once it is written */
    uint64_t more_bytes;                  /* of an append */
    uint8_t digest[SESSION_DIGEST_BYTES]; /* of what is appended */
    struct session *of;                   /* while the loop ends the request */
    int64_t key;                          /* the session's, of a score */
};

struct session_work {
    struct session_item *items;
    uint32_t n;
    uint64_t bytes;                 /* of all rows */
    uint64_t used_bytes, max_bytes; /* of all sessions, as the request began */
    uint64_t max_message_bytes;
    uint32_t
        n_tried; /* items of an append that were looked at; the last one failed if rc is not 0 */
    int rc;
    struct err err; /* its field names the place in the request */
};

struct session_work *session_work_new(uint32_t n);
void session_work_free(struct session_work **w); /* NULL-safe; in any thread */

/* Writes the longer rows of an append, up to the first one that is refused. `stop`: non-zero ends
 * it; may be NULL. */
void session_work_extend(struct session_work *w, const struct request *q, const atomic_int *stop);
/* Writes the rows of a score as a msgpack array; the id of each is its session's name. */
void session_work_write(
    const struct session_work *w, const struct request *q, struct msg_writer *rows);
/* How many bytes session_work_write writes for this row and a name of so many bytes. */
size_t session_work_written(const struct session_row *row, size_t name_bytes);

/* Whether sessions that have used_bytes may have `more`: 0, or ASSAY_ETOOLARGE at `field`. */
int session_check_room(
    const char *field, uint64_t used_bytes, uint64_t more, uint64_t max_bytes, struct err *e);
/* Whether a row of so many bytes can be scored by itself: it fits into a message, with what stands
 * around it. */
int session_check_row(const char *field, uint64_t bytes, uint64_t max_message_bytes, struct err *e);

#endif
