/* prepare.c - walks once over the rows of a message, and judges, tokenizes and packs each
 * (prepare.h). */
#include "broker/api/prepare.h"

#include <stdlib.h>
#include <string.h>

#include "broker/api/route.h"
#include "schema/alloc.h"
#include "schema/clock.h"

/* The message that is being decoded. */
struct visit {
    const struct preparing *with;
    struct store_rows *rows;
    const struct prepared *of;
    /* what the message says of its rows, as far as it stood in front of them; all of it, when they
     * are decoded once more */
    struct request_conditions said;
    int is_once_more;
    uint32_t model;     /* of rows that name none */
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
    const struct request_conditions *said, uint32_t model, struct store_rows *rows)
{
    struct store_row row;
    struct row_request whole = *q;
    row_request_complete(&whole, said);
    route_row(a, model, &whole, &row);
    store_rows_add(rows, &row);
}

/* Finds the model of rows that name none, and refuses a message that names what is not there. */
static int choose_model(
    struct visit *v, const struct request_models *of_message, uint32_t *model, struct err *e)
{
    const struct prepared *p = v->of;
    int rc =
        route_base(v->with->admit, of_message, p->has_model ? p->model : CATALOG_NONE, model, e);
    return rc == 0 ? route_check_list(v->with->admit, of_message, e) : rc;
}

/* Takes what the message says in front of its rows. */
static int begin_rows(struct visit *v, struct err *e)
{
    const struct prepared *p = v->of;
    if (!v->is_once_more)
        v->said = (struct request_conditions){p->request.truncation, p->request.models};
    return choose_model(v, &v->said.models, &v->model, e);
}

static int visit_row(void *arg, uint32_t index, const struct row_request *q, struct err *e)
{
    struct visit *v = arg;
    int rc = give_up(v->with, e);
    if (rc == 0 && index == 0)
        rc = begin_rows(v, e);
    v->is_late = index > 0 && v->until_us && now_mono_us() >= v->until_us;
    if (rc == 0 && v->is_late)
        rc = err_set(e, ASSAY_ENOTREADY, "not prepared in time");
    if (rc == 0)
        add_row(v->with->admit, q, &v->said, v->model, v->rows);
    return rc;
}

static int prepare_all(struct store_rows **out, const struct preparing *with, struct slice encoded,
    uint32_t skip, struct err *e)
{
    struct msg_reader r;
    struct row_request q;
    struct request_conditions said = {0};
    uint32_t n = 0, model = with->model;
    int rc = 0;
    *out = store_rows_new(&with->admit->packed);
    msg_reader_init(&r, encoded.at, encoded.len);
    if (encoded.len > 0)
        rc = request_read_conditions(&r, &said, e);
    if (with->model != CATALOG_NONE && !said.models.is_list)
        said.models.n = 0; /* a kept chunk is its job's, whatever its model is called by now */
    if (rc == 0)
        rc = route_base(with->admit, &said.models, with->model, &model, e);
    if (rc == 0 && encoded.len > 0)
        rc = msg_read_array(&r, "rows", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = give_up(with, e);
        if (rc == 0)
            rc = request_next_row(&r, i, &q, e);
        if (rc == 0 && i >= skip)
            add_row(with->admit, &q, &said, model, *out);
    }
    store_rows_end(*out);
    if (rc != 0)
        store_rows_free(out);
    return rc;
}

int prepare_rows(struct store_rows **out, const struct preparing *with, struct slice encoded,
    uint32_t skip, struct err *e)
{
    admit_use(with->admit, with->catalog, with->pins);
    int rc = prepare_all(out, with, encoded, skip, e);
    admit_leave(with->admit);
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

/* Decodes the message; once more where it says behind the rows what holds for them. */
static void decode_all(struct prepared *p, struct visit *v, struct slice message)
{
    const struct request *q = &p->request;
    uint32_t model;
    v->of = p;
    decode(p, v, message);
    if (p->rc == 0 && q->said_late && (q->truncation.truncate || q->models.n > 0)) {
        v->said = (struct request_conditions){q->truncation, q->models};
        v->is_once_more = 1;
        store_rows_free(&p->rows);
        decode(p, v, message);
    }
    if (p->rc != 0)
        return;
    p->rc = choose_model(v, &q->models, &model, &p->err);
    p->model = model;
}

/* Puts what the message says of its rows in front of them. One model is its job's, named or not:
 * the same rows are the same chunk. */
static void encode(struct prepared *p)
{
    struct slice rows = p->encoded = p->request.rows;
    struct request_conditions said = {p->request.truncation, p->request.models};
    struct msg_writer w;
    if (!said.models.is_list)
        said.models.n = 0;
    msg_writer_init(&w);
    request_write_conditions(&w, &said);
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
    admit_use(with->admit, p->catalog, &p->pins);
    decode_all(p, &v, message);
    admit_leave(with->admit);
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

void prepared_again(struct prepared *p, uint32_t model, const struct catalog_pins *pins)
{
    prepared_release(p);
    p->has_model = model != CATALOG_NONE;
    p->model = model;
    p->pins = pins ? *pins : (struct catalog_pins){0};
}

void prepared_release(struct prepared *p)
{
    store_rows_free(&p->rows);
    free(p->own_encoded);
    session_row_let_go(&p->row);
    session_work_free(&p->work);
    catalog_let_go(&p->catalog);
    *p = (struct prepared){.has_model = p->has_model, .model = p->model, .pins = p->pins};
}

size_t prepared_bytes(const struct prepared *p)
{
    return store_rows_bytes(p->rows) + (p->own_encoded ? p->encoded.len : 0) +
           (p->row ? p->row->bytes.len : 0) +
           (p->work && p->request.op == OP_SCORE ? p->work->bytes : 0);
}
