/* dedupe_index.h - which rows of one job may have a given hash.
 *
 * The index holds hints: the caller reads each row that it names and compares the content. A wrong
 * hint does no harm; a missing one costs a row computed twice.
 *
 * A small index lies in memory, a larger one in a mapped file of the data directory. The file has
 * no name, so nobody can damage it or cut it short, and it disappears with the broker, however that
 * ends: each start fills its indexes again from the database. */
#ifndef ASSAY_DEDUPE_INDEX_H
#define ASSAY_DEDUPE_INDEX_H

#include <stddef.h>
#include <stdint.h>

/* Up to 3,072 rows, 32 kB. */
#define DEDUPE_INDEX_MEMORY_BITS 12
/* At most this many rows of one hash are kept and found. Only an attack on the hash makes more. */
#define DEDUPE_INDEX_SAME 16

struct dedupe_index;

struct dedupe_index_options {
    const char *dir; /* NULL: no files; borrowed until the index is closed */
    int64_t job;
    uint64_t min_free_bytes; /* disk space that a file must leave free for results */
    long long opened_ms;     /* by the caller's clock */
};
struct dedupe_index *dedupe_index_open(
    const struct dedupe_index_options *options);  /* an empty one */
void dedupe_index_close(struct dedupe_index **t); /* NULL-safe */

int64_t dedupe_index_job(const struct dedupe_index *t);
long long dedupe_index_opened_ms(const struct dedupe_index *t);
/* Bytes of memory that a small index takes; 0 for one in a file. */
size_t dedupe_index_small_bytes(const struct dedupe_index *t);
/* How far the job's earlier rows have been read into the index: up to this row. 0 in a new
 * index. */
int64_t dedupe_index_scanned(const struct dedupe_index *t);
void dedupe_index_set_scanned(struct dedupe_index *t, int64_t row);

/* Adds row i, unless it is there. Grows the index; where it cannot grow, drops the row and logs
 * that once. */
void dedupe_index_add(struct dedupe_index *t, uint64_t hash, uint32_t i);
/* Writes to found [DEDUPE_INDEX_SAME] the rows that were added under this hash, or one with the
 * same tag. Returns how many. */
uint32_t dedupe_index_find(struct dedupe_index *t, uint64_t hash, uint32_t *found);
/* Loads into the cache what dedupe_index_find will read. */
void dedupe_index_expect(const struct dedupe_index *t, uint64_t hash);

/* Would dedupe_index_find name a row of one hash for the other? */
int dedupe_index_is_same(uint64_t hash, uint64_t other);
/* 1: the index's file does not hold what was written to it, so it may lack any row. The caller
 * closes it and opens another without files. The index notices a search that does not end; the
 * caller reports a row that is not as found (dedupe_index_distrust). */
int dedupe_index_lies(const struct dedupe_index *t);
void dedupe_index_distrust(struct dedupe_index *t);

/* Deletes index files that still have a name: left by a broker that was killed while it made one,
 * or by an older version. */
void dedupe_index_sweep(const char *dir);

#endif
