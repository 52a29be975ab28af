/* store_query.h - one statement of the store, from its text to its rows. Private to store*.c.
 *
 *     struct query q = query_begin(s, "select a from t where b = ?1 and c = ?2");
 *     query_int(&q, b);
 *     query_int(&q, c);
 *     while ((found = query_step(&q, e)) > 0)
 *         .. sqlite3_column_int64(q.st, 0) ..
 *     query_end(&q);        (not needed once query_step returned 0 or less)
 *
 * Statements are prepared once and kept by the address of their text, which is therefore a literal.
 * Parameters are bound in the order of their numbers, all of them every time; what is bound must
 * live until the statement ends. An error of preparing or binding shows at the step. The same
 * statement must not begin again before it ended. */
#ifndef ASSAY_STORE_QUERY_H
#define ASSAY_STORE_QUERY_H

#include <sqlite3.h>
#include <stddef.h>
#include <stdint.h>

#include "schema/err.h"

#define QUERY_STATEMENTS 64

struct store;

struct query {
    struct store *store;
    sqlite3_stmt *st;
    int n_bound, rc; /* rc: the first error of preparing or binding */
};

struct query query_begin(struct store *s, const char *sql);
void query_int(struct query *q, int64_t value);
void query_real(struct query *q, double value);
void query_text(struct query *q, const char *text, size_t len);  /* text NULL: null */
void query_blob(struct query *q, const void *bytes, size_t len); /* bytes NULL: null */

/* 1: a row is there. 0: no more. Negative: ASSAY_EFULL (and the transaction is rolled back) or
 * ASSAY_EIO. */
int query_step(struct query *q, struct err *e);
void query_end(struct query *q);
/* Steps to the end: 0 or negative. For statements without rows. */
int query_run(struct query *q, struct err *e);
/* For a query of one number: 1 and *value, 0 there is no row, negative. */
int query_one(struct query *q, int64_t *value, struct err *e);

/* What SQLite's result code means to callers, with its own words; rolls back after SQLITE_FULL. */
int query_error(struct store *s, int rc, struct err *e);

#endif
