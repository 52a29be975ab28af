/* session_work.c - rows that are shared, and what is written from them (session_work.h). */
#include "broker/api/session_work.h"

#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"

#define HEADS_BYTES 64 /* by which the heads in a row may grow: of a dozen fields, 4 bytes each */

/* ---- rows ---- */

/* Takes the bytes. */
static struct session_row *new_row(const uint8_t *bytes, size_t len)
{
    struct session_row *row = xcalloc(1, sizeof *row);
    atomic_init(&row->n_users, 1);
    row->bytes = (struct slice){bytes, len};
    return row;
}

struct session_row *session_row_new(struct slice bytes)
{
    uint8_t *copy = xcalloc(1, bytes.len);
    memcpy(copy, bytes.at, bytes.len);
    return new_row(copy, bytes.len);
}

struct session_row *session_row_use(struct session_row *row)
{
    atomic_fetch_add(&row->n_users, 1);
    return row;
}

void session_row_let_go(struct session_row **out)
{
    struct session_row *row = *out;
    *out = NULL;
    if (!row || atomic_fetch_sub(&row->n_users, 1) > 1)
        return;
    free((void *)row->bytes.at);
    free(row);
}

/* ---- bounds ---- */

int session_check_room(
    const char *field, uint64_t used_bytes, uint64_t more, uint64_t max_bytes, struct err *e)
{
    if (used_bytes <= max_bytes && more <= max_bytes - used_bytes)
        return 0;
    return err_field(e, ASSAY_ETOOLARGE, field,
        "expected at most %" PRIu64 " bytes of all sessions, found %" PRIu64 " and %" PRIu64
        " more: close some, or start assayd with a larger --session-bytes",
        max_bytes, used_bytes, more);
}

int session_check_row(const char *field, uint64_t bytes, uint64_t max_message_bytes, struct err *e)
{
    if (bytes + 2 * SESSION_BYTES <= max_message_bytes)
        return 0;
    return err_field(e, ASSAY_ETOOLARGE, field,
        "expected a row that fits into a message of %" PRIu64
        " bytes, %d of them around it, found one of %" PRIu64,
        max_message_bytes, 2 * SESSION_BYTES, bytes);
}

/* ---- work ---- */

struct session_work *session_work_new(uint32_t n)
{
    struct session_work *w = xcalloc(1, sizeof *w);
    w->items = xcalloc(n, sizeof *w->items);
    w->n = n;
    return w;
}

void session_work_free(struct session_work **out)
{
    struct session_work *w = *out;
    if (!w)
        return;
    for (uint32_t i = 0; i < w->n; i++) {
        session_row_let_go(&w->items[i].row);
        session_row_let_go(&w->items[i].longer);
    }
    free(w->items);
    free(w);
    *out = NULL;
}

/* ---- append ---- */

static struct session_row *extend_row(
    const struct session_row *row, struct slice more, int *rc, struct err *e)
{
    struct msg_writer out;
    struct session_row *longer = NULL;
    msg_writer_init(&out);
    out.buffer.alloc = row->bytes.len + more.len + HEADS_BYTES;
    out.buffer.data = xcalloc(1, out.buffer.alloc);
    *rc = request_extend_row(&out, row->bytes, more, e);
    if (*rc == 0) {
        size_t len = out.buffer.size;
        longer = new_row((const uint8_t *)msgpack_sbuffer_release(&out.buffer), len);
    }
    msg_writer_release(&out);
    return longer;
}

/* Writes the longer row of one item. *added: bytes that those before it come to. */
static int extend(const struct session_work *w, struct session_item *item, uint32_t i,
    struct slice more, uint64_t *added, struct err *e)
{
    char where[32];
    size_t len = item->row->bytes.len;
    int rc;
    snprintf(where, sizeof where, "more[%u]", i);
    if ((rc = session_check_row(where, (uint64_t)len + more.len, w->max_message_bytes, e)) != 0 ||
        (rc = session_check_room(where, w->used_bytes, *added + more.len, w->max_bytes, e)) != 0)
        return rc;
    item->longer = extend_row(item->row, more, &rc, e);
    if (rc != 0)
        return err_within(e, rc, where);
    *added += item->longer->bytes.len - len;
    return 0;
}

static int is_stopped(const atomic_int *stop)
{
    return stop && atomic_load_explicit(stop, memory_order_relaxed);
}

void session_work_extend(struct session_work *w, const struct request *q, const atomic_int *stop)
{
    struct msg_reader r;
    uint64_t added = 0;
    uint32_t n = 0;
    msg_reader_init(&r, q->more.at, q->more.len);
    w->rc = msg_read_array(&r, "more", &n, &w->err);
    while (w->rc == 0 && w->n_tried < w->n) {
        struct session_item *item = &w->items[w->n_tried];
        struct slice more;
        w->rc = is_stopped(stop) ? err_set(&w->err, ASSAY_ENOTREADY, "given up")
                                 : request_skip_bytes(&r, "more", &more, &w->err);
        if (w->rc == 0) {
            item->more_bytes = more.len;
            crypto_generichash(item->digest, sizeof item->digest, more.at, more.len, NULL, 0);
            if (item->row)
                w->rc = extend(w, item, w->n_tried, more, &added, &w->err);
        }
        w->n_tried++;
    }
}

/* ---- score ---- */

/* Reads the head of a row: how many fields, and all of them. */
static struct slice fields_of(const struct session_row *row, uint32_t *n)
{
    struct msg_reader r;
    msg_reader_init(&r, row->bytes.at, row->bytes.len);
    (void)msg_read_map(&r, "", n, NULL);
    return (struct slice){r.at, (size_t)(r.end - r.at)};
}

size_t session_work_written(const struct session_row *row, size_t name_bytes)
{
    uint32_t n = 0;
    size_t fields = fields_of(row, &n).len, head = n + 1 < 16 ? 1 : 3;
    return head + sizeof "\xa2id" - 1 + 1 + name_bytes + fields;
}

void session_work_write(
    const struct session_work *w, const struct request *q, struct msg_writer *rows)
{
    struct msg_reader names;
    struct slice name;
    uint32_t n = 0;
    msg_reader_init(&names, q->sessions.at, q->sessions.len);
    (void)msg_read_array(&names, "", &n, NULL);
    msg_array(rows, w->n);
    for (uint32_t i = 0; i < w->n && msg_read_str(&names, "", &name, NULL) == 0; i++) {
        struct slice fields = fields_of(w->items[i].row, &n);
        msg_map(rows, n + 1);
        msg_str(rows, "id");
        msg_str_len(rows, name.at, name.len);
        msg_raw(rows, fields);
    }
}
