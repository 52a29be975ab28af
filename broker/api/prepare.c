/* prepare.c - walks once over the rows of a message, and judges, tokenizes and packs each
 * (prepare.h). */
#include "broker/api/prepare.h"

#include <stdlib.h>
#include <string.h>

#include "schema/alloc.h"
#include "schema/clock.h"

/* The message that is being decoded. */
struct visit {
    const struct preparing *with;
    struct store_rows *rows;
    /* of rows that do not say it, as far as it is known; all of it, when they are decoded once
     * more */
    const struct request_truncation *truncation;
    struct request_truncation known;
    long long until_us; /* 0: for ever */
    int is_late;
};

static int give_up(const struct preparing *with, struct err *e)
{
    if (with->stop && atomic_load_explicit(with->stop, memory_order_relaxed))
        return err_set(e, ASSAY_ENOTREADY, "given up");
    return 0;
}

static void add_row(struct admit *a, const struct row_request *q,
    const struct request_truncation *truncation, struct store_rows *rows)
{
    struct store_row row;
    struct row_request cut = *q;
    row_request_truncate(&cut, truncation);
    admit_row(a, &cut, &row);
    store_rows_add(rows, &row);
}

static int visit_row(void *arg, uint32_t index, const struct row_request *q, struct err *e)
{
    struct visit *v = arg;
    int rc = give_up(v->with, e);
    v->is_late = index > 0 && v->until_us && now_mono_us() >= v->until_us;
    if (rc == 0 && v->is_late)
        rc = err_set(e, ASSAY_ENOTREADY, "not prepared in time");
    if (rc == 0)
        add_row(v->with->admit, q, v->truncation, v->rows);
    return rc;
}

int prepare_rows(struct store_rows **out, const struct preparing *with, struct slice encoded,
    uint32_t skip, struct err *e)
{
    struct msg_reader r;
    struct row_request q;
    struct request_truncation truncation = {0};
    uint32_t n = 0;
    int rc = 0;
    *out = store_rows_new(&with->admit->packed);
    msg_reader_init(&r, encoded.at, encoded.len);
    if (encoded.len > 0)
        rc = request_read_truncation(&r, &truncation, e);
    if (rc == 0 && encoded.len > 0)
        rc = msg_read_array(&r, "rows", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = give_up(with, e);
        if (rc == 0)
            rc = request_next_row(&r, i, &q, e);
        if (rc == 0 && i >= skip)
            add_row(with->admit, &q, &truncation, *out);
    }
    store_rows_end(*out);
    if (rc != 0)
        store_rows_free(out);
    return rc;
}

int prepare_pending(struct store_rows **rows, const struct preparing *with,
    const struct store_pending *p, const uint8_t *bytes, struct err *e)
{
    struct slice encoded = {bytes, p->bytes};
    int rc = store_pending_is_sound(p, bytes) ? prepare_rows(rows, with, encoded, p->n_placed, e)
                                              : ASSAY_EDAMAGED;
    if (rc != 0 && (rc = give_up(with, e)) == 0)
        *rows = store_damaged_rows(p->n_left);
    return rc;
}

static void decode(struct prepared *p, struct visit *v, struct slice message)
{
    p->rows = v->rows = store_rows_new(&v->with->admit->packed);
    p->rc = request_decode_rows(&p->request, message, v->with->limits, visit_row, v, &p->err);
    store_rows_end(p->rows);
}

/* Decodes the message; once more where it says behind the rows how they are cut. */
static void decode_all(struct prepared *p, struct visit *v, struct slice message)
{
    v->truncation = &p->request.truncation;
    decode(p, v, message);
    if (p->rc != 0 || !p->request.truncation_is_late || !p->request.truncation.truncate)
        return;
    v->known = p->request.truncation;
    v->truncation = &v->known;
    store_rows_free(&p->rows);
    decode(p, v, message);
}

/* Puts how the rows are cut in front of them. */
static void encode(struct prepared *p)
{
    struct slice rows = p->encoded = p->request.rows;
    struct msg_writer w;
    msg_writer_init(&w);
    request_write_truncation(&w, &p->request.truncation);
    if (rows.at && w.buffer.size > 0) {
        p->own_encoded = xcalloc(1, w.buffer.size + rows.len);
        memcpy(p->own_encoded, w.buffer.data, w.buffer.size);
        memcpy(p->own_encoded + w.buffer.size, rows.at, rows.len);
        p->encoded = (struct slice){p->own_encoded, w.buffer.size + rows.len};
    }
    msg_writer_release(&w);
}

int prepare(struct prepared *p, const struct preparing *with, struct slice message)
{
    struct visit v = {.with = with};
    if (with->most_us > 0)
        v.until_us = now_mono_us() + with->most_us;
    decode_all(p, &v, message);
    if (p->rc == 0) {
        encode(p);
        store_digest_rows(p->encoded, p->digest); /* a chunk that only seals has one too */
        p->row = p->request.row.at ? session_row_new(p->request.row) : NULL;
    }
    if (p->rc != 0 || !p->request.rows.at)
        store_rows_free(&p->rows);
    p->is_decoded = 1;
    if (v.is_late)
        prepared_release(p);
    return !v.is_late;
}

void prepared_release(struct prepared *p)
{
    store_rows_free(&p->rows);
    free(p->own_encoded);
    session_row_let_go(&p->row);
    session_work_free(&p->work);
    *p = (struct prepared){0};
}

size_t prepared_bytes(const struct prepared *p)
{
    return store_rows_bytes(p->rows) + (p->own_encoded ? p->encoded.len : 0) +
           (p->row ? p->row->bytes.len : 0) +
           (p->work && p->request.op == OP_SCORE ? p->work->bytes : 0);
}
