/* prepare.c - walks once over the rows of a message, and judges, tokenizes and packs each
 * (prepare.h). */
#include "broker/api/prepare.h"

#include <stdlib.h>
#include <string.h>

/* The message that is being decoded. */
struct visit {
    const struct preparing *with;
    struct store_rows *rows;
};

static int give_up(const struct preparing *with, struct err *e)
{
    if (with->stop && atomic_load_explicit(with->stop, memory_order_relaxed))
        return err_set(e, ASSAY_ENOTREADY, "given up");
    return 0;
}

static void add_row(struct admit *a, const struct row_request *q, struct store_rows *rows)
{
    struct store_row row;
    admit_row(a, q, &row);
    store_rows_add(rows, &row);
}

static int visit_row(void *arg, uint32_t index, const struct row_request *q, struct err *e)
{
    struct visit *v = arg;
    int rc = give_up(v->with, e);
    (void)index;
    if (rc == 0)
        add_row(v->with->admit, q, v->rows);
    return rc;
}

static void prepare_message(struct prepared *p, const struct preparing *with, struct slice message)
{
    struct visit v = {.with = with, .rows = store_rows_new(&with->admit->packed)};
    p->rows = v.rows;
    p->rc = request_decode_rows(&p->request, message, with->limits, visit_row, &v, &p->err);
    store_rows_end(p->rows);
    if (p->rc == 0)
        store_digest_rows(p->request.rows, p->digest); /* a chunk that only seals has one too */
    if (p->rc != 0 || !p->request.rows.at)
        store_rows_free(&p->rows);
    p->is_decoded = 1;
}

int prepare_rows(
    struct store_rows **out, const struct preparing *with, struct slice encoded, struct err *e)
{
    struct msg_reader r;
    struct row_request q;
    uint32_t n = 0;
    int rc = 0;
    *out = store_rows_new(&with->admit->packed);
    msg_reader_init(&r, encoded.at, encoded.len);
    if (encoded.len > 0)
        rc = msg_read_array(&r, "rows", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = give_up(with, e);
        if (rc == 0)
            rc = request_next_row(&r, i, &q, e);
        if (rc == 0)
            add_row(with->admit, &q, *out);
    }
    store_rows_end(*out);
    if (rc != 0)
        store_rows_free(out);
    return rc;
}

void prepare(struct prepared *p, const struct preparing *with, struct slice message)
{
    struct err ignored; /* it is met again, where the chunk is placed */
    if (!p->is_decoded)
        prepare_message(p, with, message);
    for (struct prepared_chunk *c = p->chunks; c; c = c->next)
        if (!c->rows && prepare_rows(&c->rows, with, c->chunk.rows, &ignored) != 0)
            return;
}

void prepared_release(struct prepared *p)
{
    for (struct prepared_chunk *c = p->chunks, *next; c; c = next) {
        next = c->next;
        store_rows_free(&c->rows);
        free((void *)c->chunk.rows.at);
        free(c);
    }
    store_rows_free(&p->rows);
    *p = (struct prepared){0};
}

const struct store_rows *prepared_find(struct prepared *p, const struct store_chunk *chunk)
{
    struct prepared_chunk *c = p->at ? p->at : p->chunks;
    while (c && c->next && c->chunk.chunk < chunk->chunk)
        c = c->next;
    p->at = c;
    /* The store may have another one by now, if the tick that kept this one was undone. */
    int is_it =
        c && c->chunk.job == chunk->job && c->chunk.chunk == chunk->chunk &&
        c->chunk.rows.len == chunk->rows.len &&
        (chunk->rows.len == 0 || memcmp(c->chunk.rows.at, chunk->rows.at, chunk->rows.len) == 0);
    return is_it ? c->rows : NULL;
}

size_t prepared_bytes(const struct prepared *p)
{
    size_t bytes = store_rows_bytes(p->rows);
    for (const struct prepared_chunk *c = p->chunks; c; c = c->next)
        bytes += sizeof *c + store_rows_bytes(c->rows);
    return bytes;
}
