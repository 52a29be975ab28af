/* rows.c - see rows.h. */
#include "broker/ask/rows.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/msg_json.h"
#include "schema/request.h"

#define ROWS_FIRST_ROOM 16

void rows_init(struct rows *rows)
{
    *rows = (struct rows){.max_rows = UINT32_MAX, .max_bytes = SIZE_MAX};
    msg_writer_init(&rows->bytes);
}

void rows_release(struct rows *rows)
{
    msg_writer_release(&rows->bytes);
    free(rows->all);
    if (rows->budget)
        budget_give(rows->budget, rows->n_taken);
    *rows = (struct rows){0};
}

void rows_drop_bytes(struct rows *rows)
{
    msg_writer_release(&rows->bytes);
    msg_writer_init(&rows->bytes);
    free(rows->all);
    rows->all = NULL;
    rows->room = 0;
}

void row_options_init(struct row_options *o)
{
    *o = (struct row_options){0};
    msg_writer_init(&o->fields);
}

void row_options_release(struct row_options *o)
{
    msg_writer_release(&o->fields);
}

struct msg_writer *row_options_add(struct row_options *o, const char *name)
{
    o->n++;
    msg_str(&o->fields, name);
    return &o->fields;
}

static struct row_place *begin(struct rows *rows, const struct row_options *o, uint32_t n_fields)
{
    if (rows->n == rows->room) {
        rows->room = rows->room ? 2 * rows->room : ROWS_FIRST_ROOM;
        rows->all = xgrow(rows->all, rows->n, rows->room, sizeof *rows->all);
    }
    struct row_place *row = &rows->all[rows->n++];
    row->at = rows->bytes.buffer.size;
    msg_map(&rows->bytes, o->n + n_fields);
    if (o->n > 0)
        msg_raw(&rows->bytes,
            (struct slice){(const uint8_t *)o->fields.buffer.data, o->fields.buffer.size});
    return row;
}

static void mark_content(struct rows *rows, struct row_place *row, size_t back)
{
    row->content = rows->bytes.buffer.size - back - row->at;
}

/* A row too much is there already: at most what one body and the options hold. */
static int end(struct rows *rows, struct row_place *row, struct err *e)
{
    size_t size = rows->bytes.buffer.size, more = ROWS_COPIES * size - rows->n_taken;
    row->len = size - row->at;
    if (rows->n > rows->max_rows)
        return err_set(e, ASSAY_ETOOLARGE, "expected at most %u rows, found more", rows->max_rows);
    if (size > rows->max_bytes)
        return err_set(e, ASSAY_ETOOLARGE,
            "expected rows of at most %zu bytes together, found more: a query, an instruction or "
            "tools count in every row",
            rows->max_bytes);
    if (rows->budget && budget_take(rows->budget, more) != 0)
        return err_set(e, ASSAY_EQUEUEFULL, "the requests under way have too many bytes");
    rows->n_taken += rows->budget ? more : 0;
    return 0;
}

int rows_add_text(
    struct rows *rows, const struct row_options *o, const char *text, size_t len, struct err *e)
{
    struct row_place *row = begin(rows, o, 1 + (uint32_t)o->text_is_bare);
    if (o->text_is_bare)
        msg_key_bool(&rows->bytes, "add_special_tokens", 0);
    msg_str(&rows->bytes, "text");
    msg_str_len(&rows->bytes, text, len);
    mark_content(rows, row, len);
    return end(rows, row, e);
}

static int copy_ids(int32_t *out, const json_t *ids, const char *where, struct err *e)
{
    json_t *id;
    size_t k;
    json_array_foreach(ids, k, id)
    {
        if (!json_is_integer(id))
            return err_field(
                e, ASSAY_EBADREQ, where, "%s[%zu]: expected an integer, a token id", where, k);
        json_int_t v = json_integer_value(id);
        out[k] = v >= INT32_MIN && v <= INT32_MAX ? (int32_t)v : INT32_MIN;
    }
    return 0;
}

int rows_add_ids(struct rows *rows, const struct row_options *o, const json_t *ids,
    const char *where, struct err *e)
{
    size_t n = json_array_size(ids);
    int32_t *copy = xcalloc(n, sizeof *copy);
    int rc = copy_ids(copy, ids, where, e);
    if (rc == 0) {
        struct row_place *row = begin(rows, o, 1);
        msg_str(&rows->bytes, "ids");
        msg_bin(&rows->bytes, copy, n * sizeof *copy);
        mark_content(rows, row, n * sizeof *copy);
        rc = end(rows, row, e);
    }
    free(copy);
    return rc;
}

int rows_add_messages(
    struct rows *rows, const struct row_options *o, const json_t *messages, struct err *e)
{
    struct row_place *row = begin(rows, o, 1);
    msg_str(&rows->bytes, "messages");
    mark_content(rows, row, 0);
    msg_json(&rows->bytes, messages);
    return end(rows, row, e);
}

int rows_add_pair(struct rows *rows, const struct row_options *o, const char *first_name,
    const json_t *first, const char *second_name, const json_t *second, struct err *e)
{
    struct row_place *row = begin(rows, o, 2);
    msg_str(&rows->bytes, first_name);
    mark_content(rows, row, 0);
    msg_json(&rows->bytes, first);
    msg_str(&rows->bytes, second_name);
    msg_json(&rows->bytes, second);
    return end(rows, row, e);
}

int rows_check(const struct rows *rows, struct err *e)
{
    struct row_request row;
    struct msg_reader r;
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < rows->n; i++) {
        const uint8_t *bytes = (const uint8_t *)rows->bytes.buffer.data + rows->all[i].at;
        msg_reader_init(&r, bytes, rows->all[i].len);
        rc = request_next_row(&r, i, &row, e);
    }
    return rc == 0 ? 0 : (e->code = ASSAY_EBADREQ);
}
