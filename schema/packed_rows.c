/* packed_rows.c - gathers rows into a pack's columns, and finds a row's part of them again
 * (packed_rows.h). */
#include "schema/packed_rows.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/ids.h"

/* ---- reading ---- */

static uint32_t number_at(const uint8_t *numbers, uint32_t k)
{
    const uint8_t *at = numbers + 4 * (size_t)k;
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Checks that the ends of n rows never decrease. *last: the last of them. */
static int check_ends(const uint8_t *ends, uint32_t n, uint32_t *last)
{
    *last = 0;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t end = number_at(ends, k);
        if (end < *last)
            return -1;
        *last = end;
    }
    return 0;
}

/* Checks the positions or ends of a pack of more than one row. */
static int check_list(struct slice list, uint32_t n_rows)
{
    uint32_t n;
    if (!list.at)
        return 0;
    if (list.len < 4 * (size_t)n_rows || check_ends(list.at, n_rows, &n) != 0)
        return -1;
    return list.len == 4 * ((size_t)n_rows + n) ? 0 : -1;
}

int packed_open(struct packed_rows *s, const struct packed_columns *c, uint32_t n_tokens)
{
    *s = (struct packed_rows){*c, 1, n_tokens};
    if (c->rows.at) {
        if (c->rows.len == 0 || c->rows.len % 4 != 0 || c->rows.len > 4 * PACKED_ROWS)
            return -1;
        s->n_rows = (uint32_t)(c->rows.len / 4);
        if (check_ends(c->rows.at, s->n_rows, &s->n_tokens) != 0 ||
            check_list(c->positions, s->n_rows) != 0 || check_list(c->ends, s->n_rows) != 0)
            return -1;
    }
    return ids_are_sound(c->ids.len, s->n_tokens) ? 0 : -1;
}

/* Row k's part of a list: *n numbers. */
static const uint8_t *part_of(
    const struct packed_rows *s, struct slice list, uint32_t k, uint32_t *n)
{
    *n = (uint32_t)(list.len / 4);
    if (!list.at || !s->columns.rows.at)
        return list.at;
    uint32_t from = k > 0 ? number_at(list.at, k - 1) : 0;
    *n = number_at(list.at, k) - from;
    return list.at + 4 * ((size_t)s->n_rows + from);
}

struct packed_input packed_input(const struct packed_rows *s, uint32_t k)
{
    struct packed_input in = {.n_tokens = s->n_tokens};
    if (s->columns.rows.at) {
        in.from = k > 0 ? number_at(s->columns.rows.at, k - 1) : 0;
        in.n_tokens = number_at(s->columns.rows.at, k) - in.from;
    }
    in.positions = part_of(s, s->columns.positions, k, &in.n_positions);
    in.ends = part_of(s, s->columns.ends, k, &in.n_ends);
    return in;
}

void packed_ids(const struct packed_rows *s, const struct packed_input *in, int32_t *ids)
{
    ids_unpack_part(
        s->columns.ids.at, s->columns.ids.len, s->n_tokens, in->from, in->n_tokens, ids);
}

/* ---- writing ---- */

int packed_has_room(const struct packed_writer *w, uint32_t n_tokens)
{
    return w->n_rows == 0 || (w->n_rows < PACKED_ROWS && n_tokens <= PACKED_TOKENS &&
                                 w->ids.n <= PACKED_TOKENS - n_tokens);
}

static void append(struct packed_list *l, uint32_t row, const void *numbers, uint32_t n)
{
    if (l->n + (size_t)n > l->room || !l->numbers) {
        uint32_t room = 2 * (l->n + n);
        uint32_t *more = xcalloc(PACKED_ROWS + (size_t)room, sizeof *more);
        if (l->n > 0)
            memcpy(more + PACKED_ROWS, l->numbers + PACKED_ROWS, l->n * sizeof *more);
        free(l->numbers);
        l->numbers = more;
        l->room = room;
    }
    if (n > 0)
        memcpy(l->numbers + PACKED_ROWS + l->n, numbers, n * sizeof *l->numbers);
    l->n += n;
    l->ends[row] = l->n;
}

void packed_add(struct packed_writer *w, const struct row_input *in)
{
    append(&w->ids, w->n_rows, in->ids, in->n_tokens);
    append(&w->positions, w->n_rows, in->positions, in->n_positions);
    append(&w->ends, w->n_rows, in->ends, in->n_ends);
    w->n_rows++;
}

static struct slice encode_list(struct packed_list *l, uint32_t n_rows)
{
    uint32_t *from = l->numbers + PACKED_ROWS;
    if (l->n == 0)
        return (struct slice){0};
    if (n_rows > 1) {
        from -= n_rows;
        memcpy(from, l->ends, n_rows * sizeof *from);
    }
    return (struct slice){
        (const uint8_t *)from, (size_t)(l->numbers + PACKED_ROWS + l->n - from) * sizeof *from};
}

static struct slice pack(struct packed_writer *w)
{
    if (w->ids.n > w->packed_room || !w->packed) {
        free(w->packed);
        w->packed_room = 2 * w->ids.n;
        w->packed = xcalloc(1, ids_room(w->packed_room) + 1);
    }
    const int32_t *ids = (const int32_t *)(w->ids.numbers + PACKED_ROWS);
    return (struct slice){w->packed, ids_pack(ids, w->ids.n, w->packed)};
}

struct packed_columns packed_encode(struct packed_writer *w)
{
    struct packed_columns c = {.ids = pack(w)};
    if (w->n_rows > 1)
        c.rows = (struct slice){(const uint8_t *)w->ids.ends, w->n_rows * sizeof *w->ids.ends};
    c.positions = encode_list(&w->positions, w->n_rows);
    c.ends = encode_list(&w->ends, w->n_rows);
    return c;
}

void packed_clear(struct packed_writer *w)
{
    w->n_rows = w->ids.n = w->positions.n = w->ends.n = 0;
}

void packed_writer_release(struct packed_writer *w)
{
    free(w->ids.numbers);
    free(w->positions.numbers);
    free(w->ends.numbers);
    free(w->packed);
    *w = (struct packed_writer){0};
}
