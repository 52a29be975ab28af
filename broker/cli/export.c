/* export.c - `assay export`: all results of a job that is over, in order of its rows or of
 * completion, as JSON lines or CSV, into a file that is whole or absent.
 *
 * Results come in order of completion. To be put in order of the rows they stay in memory, as the
 * lines that are written: some 100 bytes each. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/output.h"
#include "broker/cli/reply.h"
#include "broker/cli/target.h"
#include "schema/alloc.h"

#define PAGE_ROWS 1000

struct place {
    int64_t i;
    size_t at, n; /* its line in the text; it may have line breaks, in quotes */
};

struct export
{
    struct client *client;
    struct target target;
    int is_csv, by_row;
    int64_t job, after, n_failed;
    int64_t n_wanted, n_taken; /* rows with a result: as the job began to be read, so far */
    int64_t n_cancelled;       /* rows that will never have a result */
    FILE *lines;               /* with by_row: writes to text */
    char *text;
    size_t n_text;
    struct place *index; /* [n] */
    size_t n, room;
};

/* ---- CSV ---- */

/* Writes a field; in quotes where RFC 4180 wants it. */
static void put_field(FILE *f, const char *text, size_t n)
{
    int quoted = 0;
    for (size_t i = 0; i < n; i++)
        quoted |= text[i] == '"' || text[i] == ',' || text[i] == '\r' || text[i] == '\n';
    if (quoted)
        putc('"', f);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"')
            putc('"', f);
        putc(text[i], f);
    }
    if (quoted)
        putc('"', f);
}

/* A text as it is, nothing for null, and all else as JSON. */
static void put_value(FILE *f, const json_t *value)
{
    if (json_is_string(value))
        put_field(f, json_string_value(value), json_string_length(value));
    else if (value && !json_is_null(value)) {
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
        put_field(f, text ? text : "", text ? strlen(text) : 0);
        free(text);
    }
}

static const char *const columns[] = {"i", "id", "score", "chosen", "rejected", "n_tokens"};
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };
#define CSV_HEAD "i,id,score,chosen,rejected,n_tokens,error_code,error_message,more\n"

/* Members that have no column: scores, steps, what several models gave. New reference; NULL:
 * none. */
static json_t *rest_of(const json_t *row)
{
    json_t *rest = json_copy((json_t *)row);
    for (size_t i = 0; i < N_COLUMNS; i++)
        json_object_del(rest, columns[i]);
    json_object_del(rest, "error");
    if (json_object_size(rest) > 0)
        return rest;
    json_decref(rest);
    return NULL;
}

static int put_csv(FILE *f, const json_t *row, struct err *e)
{
    const json_t *error = json_object_get(row, "error");
    json_t *rest = rest_of(row);
    for (size_t i = 0; i < N_COLUMNS; i++) {
        put_value(f, json_object_get(row, columns[i]));
        putc(',', f);
    }
    put_value(f, json_object_get(error, "code"));
    putc(',', f);
    put_value(f, json_object_get(error, "message"));
    putc(',', f);
    put_value(f, rest);
    putc('\n', f);
    json_decref(rest);
    return ferror(f) ? err_errno(e, ASSAY_EIO, "cannot write the output") : 0;
}

/* ---- lines ---- */

static int put_row(const struct export *x, FILE *f, const json_t *row, struct err *e)
{
    json_t *id = json_object_get(row, "id");
    if (x->is_csv)
        return put_csv(f, row, e);
    json_t *line = output_line(row, json_is_null(id) ? json_object_get(row, "i") : id);
    int rc = json_print_line(f, line, e);
    json_decref(line);
    return rc;
}

static void note_place(struct export *x, int64_t i)
{
    if (x->n == x->room) {
        x->room = x->room ? 2 * x->room : 1024;
        x->index = xgrow(x->index, x->n, x->room, sizeof *x->index);
    }
    x->index[x->n++] = (struct place){i, (size_t)ftello(x->lines), 0};
}

static int take_row(struct export *x, const json_t *row, struct err *e)
{
    x->n_failed += !json_is_null(json_object_get(row, "error"));
    x->n_taken++;
    if (!x->by_row)
        return put_row(x, x->target.file, row, e);
    note_place(x, json_integer_value(json_object_get(row, "i")));
    int rc = put_row(x, x->lines, row, e);
    struct place *last = &x->index[x->n - 1];
    last->n = (size_t)ftello(x->lines) - last->at;
    return rc;
}

/* Fetches a page. Returns 1 when it was the last. */
static int take_page(struct export *x, struct err *e)
{
    json_t *reply = NULL, *row;
    size_t k;
    struct msg_writer *w = client_begin(x->client, "results", 3);
    msg_key_int(w, "job", x->job); /* the key may be another job's, after a purge */
    msg_key_int(w, "after", x->after);
    msg_key_int(w, "limit", PAGE_ROWS);
    int rc = client_call_patiently(x->client, 0, &reply, e);
    const json_t *rows = json_object_get(reply, "rows");
    json_array_foreach(rows, k, row) if (rc == 0) rc = take_row(x, row, e);
    if (rc == 0 && cli_interrupted())
        rc = err_set(e, ASSAY_EIO, "stopped; nothing is written");
    x->after = reply_int(reply, "next");
    int done = json_is_true(json_object_get(reply, "done"));
    /* A row that is retried has its new result behind all others, also once it is done. */
    if (rc == 0 && (done ? x->n_taken != x->n_wanted : json_array_size(rows) == 0))
        rc = err_set(e, ASSAY_EBUSY,
            "the job went on meanwhile: rows of it were queued again; `assay wait` and once more");
    json_decref(reply);
    return rc == 0 ? done : rc;
}

static int by_i(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->i < y->i ? -1 : x->i > y->i;
}

static int write_in_order(struct export *x, struct err *e)
{
    if (fflush(x->lines) != 0)
        return err_set(e, ASSAY_ENOMEM, "no memory for the results of %zu rows", x->n);
    if (x->n > 1)
        qsort(x->index, x->n, sizeof *x->index, by_i);
    for (size_t k = 0; k < x->n; k++) {
        const struct place *line = &x->index[k];
        if (fwrite(x->text + line->at, 1, line->n, x->target.file) != line->n)
            return err_errno(e, ASSAY_EIO, "cannot write '%s'", x->target.path);
    }
    return 0;
}

/* ---- the verb ---- */

/* Finds the job, which must be over: an export is whole or absent. */
static int find_job(struct export *x, const char *name, struct err *e)
{
    json_t *status = NULL;
    cli_write_job(client_begin(x->client, "status", 1), name);
    int rc = client_call_patiently(x->client, 0, &status, e);
    if (rc == 0 && !reply_is_over(status)) {
        rc = err_set(e, ASSAY_EBUSY,
            "job '%s' is not finished (%s): `assay wait` waits for it, and `assay results` prints "
            "what there is",
            name, reply_text(status, "state"));
        e->field[0] = '\0';
    }
    x->job = reply_int(status, "job");
    x->n_cancelled = reply_int(status, "cancelled");
    x->n_wanted = reply_int(status, "done");
    json_decref(status);
    return rc;
}

static int write_all(struct export *x, struct err *e)
{
    int rc = 0;
    x->lines = x->by_row ? open_memstream(&x->text, &x->n_text) : NULL;
    if (x->by_row && !x->lines)
        return err_set(e, ASSAY_ENOMEM, "no memory");
    if (x->is_csv)
        fputs(CSV_HEAD, x->target.file);
    while (rc == 0)
        rc = take_page(x, e);
    if (rc == 1)
        rc = x->by_row ? write_in_order(x, e) : 0;
    return rc == 0 ? target_finish(&x->target, e) : rc;
}

int verb_export(const struct cli *c)
{
    struct export x = {.target.fd = -1};
    struct err e = {0};
    const char *order = c->value[CLI_ORDER];
    x.by_row = !order || strcmp(order, "input") == 0;
    x.is_csv = c->value[CLI_CSV] != NULL;
    int rc = cli_connect(c, &x.client);
    if (rc != 0)
        return rc;
    rc = find_job(&x, c->operand, &e);
    if (rc == 0)
        rc = target_open(&x.target, c->value[CLI_OUTPUT], "/dev/null", c, &e);
    if (rc == 0)
        rc = write_all(&x, &e);
    if (rc != 0)
        rc = cli_fail(&e);
    else if (x.n_failed > 0 || x.n_cancelled > 0)
        rc = EX_ROWS_FAILED;
    if (rc == EX_ROWS_FAILED && x.n_cancelled > 0)
        cli_say("job '%s' was cancelled with %" PRId64 " row%s unfinished", c->operand,
            x.n_cancelled, cli_s(x.n_cancelled));
    if (x.lines)
        fclose(x.lines);
    free(x.text);
    free(x.index);
    target_release(&x.target);
    client_free(&x.client);
    return rc;
}
