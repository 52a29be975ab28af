/* batch_rows.c - a batch's lines as rows of its job, and their results as lines of its output
 * (batches_private.h).
 *
 * A row's id is the number of its line, so that a result never finds another line, whatever became
 * of the process that sent it. Chunks are cut by numbers in the record, so a chunk that is sent
 * again is the same. */
#include "broker/http/batches_private.h"

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/ask/faults.h"
#include "broker/http/reply.h"
#include "schema/alloc.h"
#include "schema/request.h"

#define PAGE_ROWS 1000
#define STEP_LINES 20000 /* are looked at for a chunk at a time */

void batch_key(const struct batch *b, char key[JOB_KEY_BYTES])
{
    snprintf(key, JOB_KEY_BYTES, "assay-batch/%.40s", b->id);
}

int batch_decode(struct batches *bs, struct batch *b, const struct batch_line *line, uint32_t k,
    struct ask *ask, struct err *e)
{
    const struct run *r = b->run;
    char of[2 * FOLDER_ID_BYTES], id[FOLDER_ID_BYTES];
    (void)bs;
    ask_init(ask, r->card);
    ask->row_id = k;
    snprintf(of, sizeof of, "%s %u", b->id, k);
    folder_id_of(id, "", of);
    snprintf(ask->id, sizeof ask->id, "%s-%s", line->family->id, id);
    return ask_decode(ask, line->family->decode, line->body, e);
}

static int read_line(struct batch *b, uint32_t k, struct batch_line *line, struct err *e)
{
    const char *code;
    return batch_lines_read(&b->run->lines, k, b->run->route->path, line, &code, e);
}

/* ---- rows ---- */

/* Appends a line's rows to the chunk, unless it is full: then 1. */
static int add_line(struct batches *bs, struct batch *b, uint32_t k, int64_t most_rows,
    size_t most_bytes, struct err *e)
{
    struct run *r = b->run;
    struct batch_line line;
    struct ask ask;
    struct err why = {0};
    int rc = read_line(b, k, &line, e);
    if (rc != 0) {
        batch_line_release(&line);
        return rc;
    }
    int is_refused = batch_decode(bs, b, &line, k, &ask, &why) != 0;
    int is_full =
        r->n_rows > 0 && ((int64_t)r->n_rows + ask.rows.n > most_rows ||
                             r->rows.buffer.size + ask.rows.bytes.buffer.size > most_bytes);
    if (!is_refused && !is_full) {
        msg_raw(&r->rows, (struct slice){(const uint8_t *)ask.rows.bytes.buffer.data,
                              ask.rows.bytes.buffer.size});
        r->n_rows += ask.rows.n;
        r->rows_of[k] = ask.rows.n;
    }
    r->refused += (uint32_t)is_refused;
    ask_release(&ask);
    batch_line_release(&line);
    return !is_refused && is_full;
}

/* Makes the next chunk: 1 when it is full, or ends with the last line; 0: more lines are to come. */
static int fill_chunk(struct batches *bs, struct batch *b, struct err *e)
{
    struct run *r = b->run;
    int64_t most_rows = batch_number(bs, b, 1, "chunk_rows");
    size_t most_bytes = (size_t)batch_number(bs, b, 1, "chunk_bytes");
    int is_full = 0;
    for (int i = 0; i < STEP_LINES && r->until < r->lines.n; i++, r->until++) {
        is_full = add_line(bs, b, r->until, most_rows, most_bytes, e);
        if (is_full != 0)
            return is_full;
    }
    return r->until == r->lines.n;
}

/* Takes the chunk as sent: a process that comes later begins behind it. */
static int note_chunk(struct batches *bs, struct batch *b, int64_t chunk, int sends, struct err *e)
{
    struct run *r = b->run;
    int64_t rows = batch_number(bs, b, 1, "rows") + r->n_rows;
    int64_t refused = batch_number(bs, b, 1, "refused") + r->refused;
    int rc = batch_set(bs, b, json_object(),
        json_pack("{s:I, s:I, s:I, s:I, s:i}", "next_line", (json_int_t)r->until, "chunk",
            (json_int_t)(chunk + sends), "rows", (json_int_t)rows, "refused", (json_int_t)refused,
            "sealed", r->until == r->lines.n),
        e);
    if (rc != 0)
        return rc;
    msg_writer_clear(&r->rows);
    r->n_rows = r->refused = 0;
    return 1;
}

/* Sends the chunk. The job's model is named in each, for whichever makes the job. */
static int send_chunk(struct batches *bs, struct batch *b, int64_t chunk, struct err *e)
{
    struct run *r = b->run;
    char key[JOB_KEY_BYTES], model[256];
    struct slice reply;
    int seals = r->until == r->lines.n;
    batch_key(b, key);
    batch_text(bs, b, 1, "model", model, sizeof model);
    struct msg_writer *w = call_begin(bs->call, "submit", 5);
    msg_key_str(w, "key", key);
    msg_key_int(w, "chunk", chunk);
    msg_key_str(w, "model", model);
    msg_key_bool(w, "seal", seals);
    msg_str(w, "rows");
    msg_array(w, r->n_rows);
    msg_raw(w, (struct slice){(const uint8_t *)r->rows.buffer.data, r->rows.buffer.size});
    return call_send(bs->call, &reply, e);
}

int batch_submit(struct batches *bs, struct batch *b, struct err *e)
{
    int64_t chunk = batch_number(bs, b, 1, "chunk"), rows = batch_number(bs, b, 1, "rows");
    int rc = fill_chunk(bs, b, e);
    if (rc != 1)
        return rc < 0 ? rc : 1;
    int sends = b->run->n_rows > 0 || rows > 0; /* without any row there is no job */
    if (sends && (rc = send_chunk(bs, b, chunk, e)) != 0)
        return rc;
    return note_chunk(bs, b, chunk, sends, e);
}

/* ---- results ---- */

static void part_free(struct part **part)
{
    struct part *p = *part;
    *part = NULL;
    if (!p)
        return;
    for (uint32_t k = 0; k < p->n; k++)
        row_result_release(&p->rows[k]);
    free(p->rows);
    free(p);
}

void parts_free(struct run *r)
{
    for (uint32_t k = 0; r->parts && k < r->lines.n; k++)
        part_free(&r->parts[k]);
}

/* Takes the row over. One that comes again, since it was retried, takes the place of the first. */
static void part_add(struct part *p, struct row_result *row)
{
    for (uint32_t k = 0; k < p->n; k++)
        if (p->rows[k].i == row->i) {
            row_result_release(&p->rows[k]);
            p->rows[k] = *row;
            return;
        }
    if (p->n == p->room) {
        p->room = p->room ? 2 * p->room : 4;
        p->rows = xgrow(p->rows, p->n, p->room, sizeof *p->rows);
    }
    p->rows[p->n++] = *row;
}

static int compare(const void *a, const void *b)
{
    const struct row_result *x = a, *y = b;
    return (x->i > y->i) - (x->i < y->i);
}

static int write_line(
    struct batches *bs, struct batch *b, uint32_t k, const struct output_line *of, struct err *e)
{
    struct run *r = b->run;
    struct output_line line = *of;
    int is_good = line.status == 200;
    line.batch = b->id;
    line.number = k;
    int rc = output_write(is_good ? &r->output : &r->errors_output, bs->options.folder, &line, e);
    if (rc != 0)
        return rc;
    r->is_answered[k] = 1;
    *(is_good ? &r->completed : &r->failed) += 1;
    return 0;
}

/* Writes a response: the reply, which is taken over, or the error `why`. */
static int write_response(struct batches *bs, struct batch *b, uint32_t k,
    const struct batch_line *line, const char *request_id, json_t *reply, const struct err *why,
    struct err *e)
{
    int status = reply ? 200 : fault_status(why->code);
    struct output_line of = {.custom_id = line->custom_id,
        .status = status,
        .request_id = request_id,
        .body = reply ? reply : fault_object(why, status)};
    int rc = write_line(bs, b, k, &of, e);
    json_decref(of.body);
    return rc;
}

/* All rows of the line are there. */
static int answer(struct batches *bs, struct batch *b, uint32_t k, const struct batch_line *line,
    const struct ask *ask, struct err *e)
{
    struct part *p = b->run->parts[k];
    struct err why = {0};
    json_t *reply = NULL;
    qsort(p->rows, p->n, sizeof *p->rows, compare);
    if (fault_of_rows(p->rows, p->n, &why) == 0)
        line->family->reply(&reply, ask, p->rows, &why);
    int rc = write_response(bs, b, k, line, ask->id, reply, &why, e);
    if (rc == 0)
        part_free(&b->run->parts[k]);
    return rc;
}

/* Answers the line, if it has all its rows. */
static int try_answer(struct batches *bs, struct batch *b, uint32_t k, struct err *e)
{
    struct run *r = b->run;
    struct batch_line line;
    struct ask ask;
    if (r->rows_of[k] > r->parts[k]->n)
        return 0;
    int rc = read_line(b, k, &line, e);
    if (rc == 0) {
        rc = batch_decode(bs, b, &line, k, &ask, e);
        r->rows_of[k] = ask.rows.n;
        if (rc == 0 && r->parts[k]->n > ask.rows.n)
            rc = err_set(
                e, ASSAY_EINTERNAL, "line %u: expected %u results, found more", k + 1, ask.rows.n);
        else if (rc == 0 && r->parts[k]->n == ask.rows.n)
            rc = answer(bs, b, k, &line, &ask, e);
        ask_release(&ask);
    }
    batch_line_release(&line);
    return rc;
}

/* Takes the row over. */
static int take_row(struct batches *bs, struct batch *b, struct row_result *row, struct err *e)
{
    struct run *r = b->run;
    uint32_t k = (uint32_t)row->id;
    if (row->id < 0 || row->id >= r->lines.n || row->i < 0) {
        row_result_release(row);
        return err_set(e, ASSAY_EINTERNAL, "the job has a row that is none of the batch's");
    }
    if (r->is_answered[k]) {
        row_result_release(row); /* somebody had it retried */
        return 0;
    }
    if (!r->parts[k])
        r->parts[k] = xcalloc(1, sizeof *r->parts[k]);
    part_add(r->parts[k], row);
    return try_answer(bs, b, k, e);
}

static int take_rows(struct batches *bs, struct batch *b, struct slice rows, struct err *e)
{
    uint32_t n = results_count(rows);
    struct row_result *all = xcalloc(n + 1, sizeof *all);
    int rc = n > 0 ? results_read(all, n, rows, e) : 0;
    if (rc != 0)
        e->code = rc = ASSAY_EINTERNAL;
    for (uint32_t k = 0; k < n; k++) {
        if (rc == 0)
            rc = take_row(bs, b, &all[k], e);
        else
            row_result_release(&all[k]);
    }
    free(all);
    return rc;
}

int batch_collect(struct batches *bs, struct batch *b, struct err *e)
{
    struct run *r = b->run;
    struct reply page;
    struct slice reply;
    char key[JOB_KEY_BYTES];
    batch_key(b, key);
    struct msg_writer *w = call_begin(bs->call, "results", 3);
    msg_key_str(w, "job", key);
    msg_str(w, "after");
    msg_uint(w, r->after);
    msg_key_int(w, "limit", PAGE_ROWS);
    int rc = call_send(bs->call, &reply, e);
    if (rc == 0)
        rc = reply_read(reply, &page, e) == 0 ? 0 : (e->code = ASSAY_EINTERNAL);
    if (rc == 0)
        rc = take_rows(bs, b, page.rows, e);
    if (rc != 0)
        return rc;
    int moves = page.next != r->after;
    r->after = page.next;
    r->is_read = page.is_done;
    return moves || page.is_done;
}

int batch_answer_rest(struct batches *bs, struct batch *b, uint32_t k, const char *code,
    const char *message, struct err *e)
{
    struct batch_line line;
    struct ask ask = {0};
    struct err why = {0};
    int rc = read_line(b, k, &line, e);
    if (rc == 0 && b->run->card && batch_decode(bs, b, &line, k, &ask, &why) != 0) {
        rc = write_response(bs, b, k, &line, ask.id, NULL, &why, e);
    } else if (rc == 0) {
        struct output_line of = {.custom_id = line.custom_id, .code = code, .message = message};
        rc = write_line(bs, b, k, &of, e);
    }
    ask_release(&ask);
    batch_line_release(&line);
    return rc;
}
