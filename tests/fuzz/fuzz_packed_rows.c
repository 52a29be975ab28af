/* fuzz_packed_rows.c - any bytes in a record of rows' input, as a damaged database may have them
 * (packed_rows.h, ids.h).
 *
 * An input is a head of five little-endian 32-bit numbers, then the columns' bytes: tokens of the
 * first row; length of rows, ids, positions, ends, 2^32 - 1 for one that is absent. Copies are of
 * the exact size, so sanitizers see what goes beyond. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "schema/packed_rows.h"
#include "schema/ids.h"

#define ABSENT UINT32_MAX
#define N_COLUMNS 4

/* A copy on the heap of as many of the bytes as there are. */
static struct slice take_column(const uint8_t **p, size_t *left, uint32_t len)
{
    if (len == ABSENT)
        return (struct slice){0};
    size_t n = len < *left ? len : *left;
    uint8_t *copy = malloc(n ? n : 1);
    memcpy(copy, *p, n);
    *p += n;
    *left -= n;
    return (struct slice){copy, n};
}

static uint32_t sum_of(const uint8_t *numbers, uint32_t n)
{
    uint32_t sum = 0;
    for (size_t i = 0; i < 4 * (size_t)n; i++)
        sum += numbers[i];
    return sum;
}

/* All that a reader does with row k: *tokens up to it. */
static void read_row(const struct packed_rows *s, uint32_t k, uint64_t *tokens)
{
    struct packed_input in = packed_input(s, k);
    int32_t *ids = malloc(in.n_tokens ? in.n_tokens * sizeof *ids : 1);
    assert(in.from == *tokens);
    *tokens += in.n_tokens;
    assert(*tokens <= s->n_tokens);
    packed_ids(s, &in, ids);
    volatile uint32_t seen = sum_of((const uint8_t *)ids, in.n_tokens);
    seen += sum_of(in.positions, in.n_positions) + sum_of(in.ends, in.n_ends);
    (void)seen;
    free(ids);
}

/* The ids of all rows at once are those of the rows. */
static void check_whole(const struct packed_rows *s)
{
    int32_t *all = malloc(s->n_tokens ? s->n_tokens * sizeof *all : 1);
    int32_t *part = malloc(s->n_tokens ? s->n_tokens * sizeof *part : 1);
    assert(ids_unpack(s->columns.ids.at, s->columns.ids.len, s->n_tokens, all) == 0);
    for (uint32_t k = 0; k < s->n_rows; k++) {
        struct packed_input in = packed_input(s, k);
        packed_ids(s, &in, part + in.from);
    }
    assert(s->n_tokens == 0 || memcmp(all, part, s->n_tokens * sizeof *all) == 0);
    free(all);
    free(part);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    uint32_t head[1 + N_COLUMNS];
    struct slice columns[N_COLUMNS];
    struct packed_rows s;
    uint64_t tokens = 0;
    if (len < sizeof head)
        return 0;
    memcpy(head, bytes, sizeof head);
    bytes += sizeof head;
    len -= sizeof head;
    for (int i = 0; i < N_COLUMNS; i++)
        columns[i] = take_column(&bytes, &len, head[1 + i]);
    struct packed_columns c = {columns[0], columns[1], columns[2], columns[3]};
    if (c.ids.at && packed_open(&s, &c, head[0]) == 0) {
        for (uint32_t k = 0; k < s.n_rows; k++)
            read_row(&s, k, &tokens);
        assert(tokens == s.n_tokens);
        check_whole(&s);
    }
    for (int i = 0; i < N_COLUMNS; i++)
        free((void *)columns[i].at);
    return 0;
}

/* Of one row and of more; small ids, and one that is too large for planes; with and without
 * lists. */
int fuzz_seed(unsigned n, struct msg_writer *w)
{
    static const int32_t ids[] = {1, 2, 3, 70000, 5, 6, 7}, large[] = {1 << 20, 2};
    static const int32_t positions[] = {0, 2};
    static const uint32_t ends[] = {3, 7};
    struct packed_writer b = {0};
    if (n > 3)
        return 0;
    packed_add(&b, &(struct row_input){ids, positions, ends, 7, n % 2 ? 2 : 0, n % 2 ? 2 : 0});
    if (n > 1)
        packed_add(&b, &(struct row_input){.ids = n == 2 ? large : ids, .n_tokens = 2});
    if (n > 1)
        packed_add(&b, &(struct row_input){
                           .ids = ids, .positions = positions, .n_tokens = 5, .n_positions = 1});
    struct packed_columns c = packed_encode(&b);
    const struct slice columns[N_COLUMNS] = {c.rows, c.ids, c.positions, c.ends};
    uint32_t head[1 + N_COLUMNS] = {7};
    for (int i = 0; i < N_COLUMNS; i++)
        head[1 + i] = columns[i].at ? (uint32_t)columns[i].len : ABSENT;
    msgpack_sbuffer_write(&w->buffer, (const char *)head, sizeof head);
    for (int i = 0; i < N_COLUMNS; i++)
        if (columns[i].at)
            msgpack_sbuffer_write(&w->buffer, (const char *)columns[i].at, columns[i].len);
    packed_writer_release(&b);
    return 1;
}
