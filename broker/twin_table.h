/* twin_table.h - where the rows of one job with this hash may be: a table of hints.
 *
 * It says nothing of what is in a row: whoever finds a number looks into the row. So a number too many does
 * no harm, and one too few costs a row computed twice.
 *
 * A small table lies in memory. A larger one is a file of the data directory, mapped: as much of it is in
 * memory as the system has room for, and when the broker is killed, what was added stays. The system's own
 * end is another matter: of a file from before it nothing is taken. */
#ifndef ASSAY_TWIN_TABLE_H
#define ASSAY_TWIN_TABLE_H

#include <stddef.h>
#include <stdint.h>

/* Up to 3,072 rows, 32 kB. */
#define TWIN_TABLE_MEMORY_BITS 12
/* Of so many rows with one hash no more are told, nor kept: more than a few are somebody's malice. */
#define TWIN_TABLE_SAME 16

struct twin_table;

struct twin_table_options {
    const char *dir; /* NULL: no files; borrowed until the table is closed */
    int64_t job, created_ms;
    uint64_t seed;           /* of the hashes, for a new table; nobody outside can know it */
    uint64_t min_free_bytes; /* of the disk, that a file is to leave: results need them */
};
/* The job's file where there is one that can be trusted, of this job and not one of another database, else an
 * empty table. */
struct twin_table *twin_table_open(const struct twin_table_options *options);
void twin_table_close(struct twin_table **t);  /* a file stays; NULL-safe */
void twin_table_delete(struct twin_table **t); /* and the file too */

int64_t twin_table_job(const struct twin_table *t);
uint64_t twin_table_seed(const struct twin_table *t);
/* Memory that it takes; 0 of one that is not small. */
size_t twin_table_small_bytes(const struct twin_table *t);
/* The table has the job's rows of before it was made up to this number; kept with the file. 0 in a new one. */
int64_t twin_table_scanned(const struct twin_table *t);
void twin_table_set_scanned(struct twin_table *t, int64_t row);

/* Once is enough: it is not there twice. Grows; where there is no room for that, forgets, and says so once. */
void twin_table_add(struct twin_table *t, uint64_t hash, uint32_t i);
/* Which rows were added under this hash, or one that is hardly to be told from it: their number, at most
 * TWIN_TABLE_SAME. */
uint32_t twin_table_find(const struct twin_table *t, uint64_t hash, uint32_t *found);
/* It will be looked for soon. */
void twin_table_expect(const struct twin_table *t, uint64_t hash);

/* Of all jobs: deletes the files of those for which keep says 0; with keep NULL, all. */
typedef int twin_table_keeper(void *arg, int64_t job);
void twin_table_sweep(const char *dir, twin_table_keeper *keep, void *arg);

#endif
