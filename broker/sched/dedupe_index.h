/* dedupe_index.h - where the rows of one job with this hash may be: a table of hints.
 *
 * It says nothing of what is in a row: whoever finds a number looks into the row. So a number too many does
 * no harm, and one too few costs a row computed twice.
 *
 * A small table lies in memory. A larger one is a file of the data directory, mapped: as much of it is in
 * memory as the system has room for. The file has no name, so nobody can damage it or cut it short, and it goes
 * with the broker however that ends: each start makes its tables again, from the database. */
#ifndef ASSAY_DEDUPE_INDEX_H
#define ASSAY_DEDUPE_INDEX_H

#include <stddef.h>
#include <stdint.h>

/* Up to 3,072 rows, 32 kB. */
#define DEDUPE_INDEX_MEMORY_BITS 12
/* Of so many rows with one hash no more are told, nor kept: more than a few are somebody's malice. */
#define DEDUPE_INDEX_SAME 16

struct dedupe_index;

struct dedupe_index_options {
    const char *dir; /* NULL: no files; borrowed until the table is closed */
    int64_t job;
    uint64_t seed;           /* of the hashes; nobody outside can know it */
    uint64_t min_free_bytes; /* of the disk, that a file is to leave: results need them */
};
struct dedupe_index *dedupe_index_open(
    const struct dedupe_index_options *options);  /* an empty one */
void dedupe_index_close(struct dedupe_index **t); /* NULL-safe */

int64_t dedupe_index_job(const struct dedupe_index *t);
uint64_t dedupe_index_seed(const struct dedupe_index *t);
/* Memory that it takes; 0 of one that is not small. */
size_t dedupe_index_small_bytes(const struct dedupe_index *t);
/* The table has the job's rows of before it was made up to this number. 0 in a new one. */
int64_t dedupe_index_scanned(const struct dedupe_index *t);
void dedupe_index_set_scanned(struct dedupe_index *t, int64_t row);

/* Once is enough: it is not there twice. Grows; where there is no room for that, forgets, and says so once. */
void dedupe_index_add(struct dedupe_index *t, uint64_t hash, uint32_t i);
/* Which rows were added under this hash, or one that is hardly to be told from it: their number, at most
 * DEDUPE_INDEX_SAME. */
uint32_t dedupe_index_find(struct dedupe_index *t, uint64_t hash, uint32_t *found);
/* It will be looked for soon. */
void dedupe_index_expect(const struct dedupe_index *t, uint64_t hash);

/* Was a row of this hash one that dedupe_index_find names for that hash? */
int dedupe_index_is_same(uint64_t hash, uint64_t other);
/* 1: its file was read and did not have what was written there, so it may lack any row; to be closed, and made
 * again without files (which never lies, so that this has an end). The caller knows it of a row that was
 * found, the table of slots that do not end. */
int dedupe_index_lies(const struct dedupe_index *t);
void dedupe_index_distrust(struct dedupe_index *t);

/* Deletes files that have a name still: of a broker that was killed as it made one, or of version before. */
void dedupe_index_sweep(const char *dir);

#endif
