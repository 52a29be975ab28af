/* blocks.c - which rows are queued, running or failed, as bits for 64 rows at a time.
 *
 * A block (table block) covers the rows whose numbers have the same upper 58 bits. Rows arrive and
 * finish in batches of neighbours, so one record holds their states; an index over each row's own
 * state would be written twice per row. The connection holds a few blocks, those of the rows in
 * use. It writes one when another takes its place, and all of them before the commit; code that
 * reads the table calls store_keep_blocks first. A row that is neither queued nor failed is
 * done. */
#include <string.h>

#include "broker/store/private.h"

static int keep(struct store *s, struct store_block *b, struct err *e)
{
    int was_kept = b->is_kept;
    if (!b->changed)
        return 0;
    b->changed = 0;
    b->is_kept = 1;
    int64_t sum = store_sum_block(b->number, b->queued, b->failed);
    if (!was_kept)
        return store_run(s, e,
            "insert into block(block, queued, running, failed, sum) values (?, ?, ?, ?, ?)",
            "iiiii", b->number, (int64_t)b->queued, (int64_t)b->running, (int64_t)b->failed, sum);
    return store_run(s, e,
        "update block set queued = ?, running = ?, failed = ?, sum = ? where block = ?", "iiiii",
        (int64_t)b->queued, (int64_t)b->running, (int64_t)b->failed, sum, b->number);
}

int store_keep_blocks(struct store *s, struct err *e)
{
    int rc = 0;
    for (int i = 0; rc == 0 && i < STORE_BLOCKS; i++)
        rc = keep(s, &s->blocks[i], e);
    return rc;
}

void store_drop_blocks(struct store *s)
{
    memset(s->blocks, 0, sizeof s->blocks);
}

/* Where the row's block is held. Neighbours, and blocks of jobs that take turns, get different
 * places. */
static struct store_block *place_of(struct store *s, int64_t row)
{
    return &s->blocks[(block_number(row) + row_job(row)) % STORE_BLOCKS];
}

int store_block_is_sound(struct store *s, sqlite3_stmt *q, struct err *e)
{
    int64_t block = sqlite3_column_int64(q, 0);
    int64_t sum = store_sum_block(
        block, (uint64_t)sqlite3_column_int64(q, 1), (uint64_t)sqlite3_column_int64(q, 2));
    if (store_sum_fits(s, row_job(block << 6), q, 3, sum))
        return 0;
    return err_set(e, ASSAY_EIO,
        "%s/assay.db: states of the rows from %u on of job %lld are damaged; the next start makes "
        "them anew",
        s->dir, row_index(block << 6), (long long)row_job(block << 6));
}

static int read_block(struct store *s, struct store_block *b, struct err *e)
{
    sqlite3_stmt *q = store_prepare(
        s, STORE_BLOCK_COLUMNS ", running from block where block = ?", "i", b->number);
    int rc = store_step(s, q, e);
    if (rc != 1)
        return rc;
    rc = store_block_is_sound(s, q, e);
    b->is_kept = 1;
    b->queued = (uint64_t)sqlite3_column_int64(q, 1);
    b->failed = (uint64_t)sqlite3_column_int64(q, 2);
    b->running = (uint64_t)sqlite3_column_int64(q, 4);
    sqlite3_reset(q);
    return rc;
}

/* Loads the row's block, which may not be in the table yet: 0 and *out. */
static int use_block(struct store *s, int64_t row, struct store_block **out, struct err *e)
{
    struct store_block *b = *out = place_of(s, row);
    if (b->number == block_number(row))
        return 0;
    int rc = keep(s, b, e);
    if (rc != 0)
        return rc;
    *b = (struct store_block){.number = block_number(row)};
    rc = read_block(s, b, e);
    if (rc != 0)
        *b = (struct store_block){0};
    return rc;
}

int store_row_is_placed(struct store *s, int64_t row, int failed, struct err *e)
{
    struct store_block *b;
    int rc = use_block(s, row, &b, e);
    if (rc != 0)
        return rc;
    *(failed ? &b->failed : &b->queued) |= row_bit(row);
    b->changed = 1;
    return 0;
}

int store_row_runs(struct store *s, int64_t row, int runs, struct err *e)
{
    struct store_block *b;
    int rc = use_block(s, row, &b, e);
    if (rc != 0 || !b->is_kept || !(b->running & row_bit(row)) == !runs)
        return rc;
    b->running ^= row_bit(row);
    b->changed = 1;
    return 0;
}

int store_row_is_over(struct store *s, int64_t row, int failed, struct err *e)
{
    struct store_block *b;
    int rc = use_block(s, row, &b, e);
    if (rc != 0 || !(b->queued & row_bit(row)))
        return rc;
    b->queued &= ~row_bit(row);
    b->failed |= failed ? row_bit(row) : 0;
    b->changed = 1;
    return 1;
}

int store_row_is_queued_again(struct store *s, int64_t row, struct err *e)
{
    struct store_block *b;
    int rc = use_block(s, row, &b, e);
    if (rc != 0)
        return rc;
    b->queued |= row_bit(row);
    b->running &= ~row_bit(row);
    b->failed &= ~row_bit(row);
    b->changed = 1;
    return 0;
}
