/* feeder.c - gathers lines into chunks and sends each until the broker has it (feeder.h). */
#include "broker/cli/feeder.h"

#include <string.h>

#include "broker/cli/reply.h"
#include "broker/cli/waiting.h"

void feeder_init(struct feeder *f, struct client *client, struct lines *lines, const char *key)
{
    *f = (struct feeder){.client = client, .lines = lines, .key = key};
    msg_writer_init(&f->rows);
}

void feeder_release(struct feeder *f)
{
    msg_writer_release(&f->rows);
    json_decref(f->served);
    line_release(&f->held);
}

#define SMALL_BYTES 16384   /* a quarter of the smallest message limit that a broker can have */
#define ENVELOPE_BYTES 1024 /* of a message, besides its rows */

static int ask_broker(struct feeder *f, struct err *e)
{
    json_t *reply = NULL;
    client_begin(f->client, "hello", 0);
    int rc = client_call_patiently(f->client, 0, &reply, e);
    if (rc != 0)
        return rc;
    json_int_t n =
        json_integer_value(json_object_get(json_object_get(reply, "limits"), "max_message_bytes"));
    json_decref(f->served);
    f->served = json_incref(json_object_get(reply, "models"));
    json_decref(reply);
    if (n < 4 * SMALL_BYTES)
        return err_set(e, ASSAY_EINTERNAL, "the broker takes messages of %lld bytes", (long long)n);
    f->max_bytes = (uint64_t)n;
    return 0;
}

static uint64_t chunk_bytes(const struct feeder *f)
{
    return f->max_bytes && f->max_bytes / 4 < FEEDER_BYTES ? f->max_bytes / 4 : FEEDER_BYTES;
}

/* Makes the row an error of its line if it does not fit in a message even after a nearly full
 * chunk. */
static int check_size(struct feeder *f, struct line *line, struct err *e)
{
    if (line->row.len + f->rows.buffer.size <= SMALL_BYTES)
        return 0;
    if (f->max_bytes == 0 && ask_broker(f, e) != 0)
        return e->code;
    uint64_t most = f->max_bytes - chunk_bytes(f) - ENVELOPE_BYTES;
    if (line->row.len > most) {
        err_set(&line->err, ASSAY_ETOOLARGE,
            "line %lld: expected a row of at most %llu bytes in the broker's messages, found %zu",
            (long long)line->number, (unsigned long long)most, line->row.len);
        line->row = (struct slice){0};
    }
    return 0;
}

/* ---- the column model ---- */

static int is_served(const struct feeder *f, const json_t *name)
{
    json_t *m;
    size_t k;
    int found = 0;
    json_array_foreach(f->served, k, m) found |= json_equal(json_object_get(m, "name"), name);
    return found;
}

/* Returns a name of the column that a model of the broker has, other than the one that scores the
 * row; NULL: none. */
static const char *find_served(const struct feeder *f, const json_t *column)
{
    const json_t *first = json_object_get(json_array_get(f->served, 0), "name");
    json_t *name;
    size_t k;
    if (json_is_string(column))
        return !json_equal(column, first) && is_served(f, column) ? json_string_value(column)
                                                                  : NULL;
    json_array_foreach((json_t *)column, k,
        name) if (json_is_string(name) && is_served(f, name)) return json_string_value(name);
    return NULL;
}

/* Data sets keep in this column the name of the model that wrote an answer, and so it is not read.
 * Where it is the name of a model that the broker serves, it may be meant. */
static int check_model(struct feeder *f, struct line *line, struct err *e)
{
    static const char *const columns[] = {"model", "models"};
    for (int i = 0; i < 2 && !f->models && line->row.at; i++) {
        const json_t *column = json_object_get(line->object, columns[i]);
        if (!json_is_string(column) && !json_is_array(column))
            continue;
        if (!f->served && ask_broker(f, e) != 0)
            return e->code;
        const char *name = json_array_size(f->served) > 1 ? find_served(f, column) : NULL;
        if (!name)
            continue;
        err_set(&line->err, ASSAY_EBADREQ,
            "line %lld: %s: expected no name of a model of the broker's, since this column is not "
            "read, found '%.80s'; say --models NAMES for the file, or leave the column out",
            (long long)line->number, columns[i], name);
        line->row = (struct slice){0};
    }
    return 0;
}

/* Appends the line to f->rows if it is a row. */
static void take_line(struct feeder *f, struct line *line)
{
    int good = line->row.at != NULL, is_row = good || f->keeps_bad;
    if (is_row)
        msg_raw(&f->rows, good ? line->row : lines_refused(f->lines, line));
    if (f->on_line)
        f->on_line(f->on_line_arg, line, good ? f->n_rows + f->n : -1);
    f->n += is_row ? (int)(good ? line->n_rows : 1) : 0;
    f->n_bad += !good;
}

/* The next line: the one that was held, or one that is read. */
static int next_line(struct feeder *f, struct line *line, struct err *e)
{
    if (!f->is_held)
        return lines_next(f->lines, line, e);
    *line = f->held;
    f->held = (struct line){0};
    f->is_held = 0;
    return 1;
}

/* Has the line too many rows for the chunk that is begun? */
static int is_too_many(const struct feeder *f, const struct line *line)
{
    return line->n_rows > 1 && f->n > 0 && f->n + (int64_t)line->n_rows > FEEDER_ROWS;
}

/* Gathers lines into f->rows until the chunk is full. Returns 1 if it is, 0 at the end of the
 * input, 2 after FEEDER_LINES lines, or negative. */
static int gather(struct feeder *f, struct err *e)
{
    int n_lines = 0, got = 1;
    struct line line;
    while (f->n < FEEDER_ROWS && f->rows.buffer.size < chunk_bytes(f)) {
        if (n_lines++ == FEEDER_LINES)
            return 2;
        if ((got = next_line(f, &line, e)) != 1)
            return got;
        if (is_too_many(f, &line)) {
            f->held = line;
            f->is_held = 1;
            return 1;
        }
        int rc = check_size(f, &line, e);
        if (rc == 0)
            rc = check_model(f, &line, e);
        if (rc == 0)
            take_line(f, &line);
        line_release(&line);
        if (rc != 0)
            return rc;
    }
    return 1;
}

/* One name is the model, several are an ensemble. */
static void write_models(struct msg_writer *w, const char *names)
{
    uint32_t n = 1;
    for (const char *at = names; *at; at++)
        n += *at == ',';
    if (n == 1) {
        msg_key_str(w, "model", names);
        return;
    }
    msg_str(w, "models");
    msg_array(w, n);
    for (size_t len; n-- > 0; names += len + 1) {
        len = strcspn(names, ",");
        msg_str_len(w, names, len);
    }
}

/* The name of the broker's first model, where it is to be said; NULL: it is not. */
static const char *first_name(const struct feeder *f)
{
    int is_said = f->names_first && !f->models && json_array_size(f->served) > 1;
    return is_said ? reply_text(json_array_get(f->served, 0), "name") : NULL;
}

static void write_submit(struct feeder *f, int n, int end)
{
    const char *first = first_name(f);
    struct msg_writer *w = client_begin(f->client, "submit",
        2 + (uint32_t)(n > 0) + (uint32_t)end + (uint32_t)(f->priority != 0) +
            (uint32_t)(f->models || first));
    if (f->models)
        write_models(w, f->models);
    else if (first)
        msg_key_str(w, "model", first);
    msg_key_str(w, "key", f->key);
    msg_key_int(w, "chunk", f->chunk);
    if (f->priority != 0)
        msg_key_int(w, "priority", f->priority);
    if (end)
        msg_key_bool(w, "seal", 1);
    if (n > 0) {
        msg_str(w, "rows");
        msg_array(w, (uint32_t)n);
        msg_raw(w, (struct slice){(const uint8_t *)f->rows.buffer.data, f->rows.buffer.size});
    }
}

/* Checks that the chunk went where those before it did. */
static int check_job(struct feeder *f, int64_t job, struct err *e)
{
    f->lost = f->job != 0 && job != f->job;
    if (!f->lost) {
        f->job = job;
        return 0;
    }
    return err_set(e, ASSAY_EUNKNOWNJOB,
        "job '%s' was purged while its rows were sent (number %lld): its key is now that of job "
        "%lld, which lacks the rows before; cancel and purge that one, or take another key",
        f->key, (long long)f->job, (long long)job);
}

/* Sends the gathered chunk. */
static int send_chunk(struct feeder *f, struct err *e)
{
    json_t *reply = NULL;
    if (f->names_first && !f->models && !f->served && ask_broker(f, e) != 0)
        return e->code;
    write_submit(f, f->n, f->end);
    int rc = client_call(f->client, 0, &reply, e);
    if (rc != 0)
        return waiting_is_worth(e) ? FEEDER_BUSY : rc;
    const char *state = json_string_value(json_object_get(reply, "state"));
    f->paused = state && strcmp(state, "paused") == 0;
    f->done = state && strcmp(state, "done") == 0;
    f->cancelled = state && strcmp(state, "cancelled") == 0;
    rc = check_job(f, reply_int(reply, "job"), e);
    json_decref(reply);
    if (rc != 0)
        return rc;
    f->n_rows += f->n;
    f->sealed = f->end;
    f->chunk++;
    f->n = f->is_full = 0;
    msg_writer_clear(&f->rows);
    return 0;
}

int feeder_has_begun(const struct feeder *f)
{
    return f->n > 0 || f->is_full;
}

int feeder_step(struct feeder *f, struct err *e)
{
    if (!f->is_full) {
        int got = gather(f, e);
        if (got < 0 || got == 2)
            return got < 0 ? got : 0;
        f->end = got == 0;
        f->is_full = 1;
    }
    return send_chunk(f, e);
}
