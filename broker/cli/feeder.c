/* feeder.c - see feeder.h. */
#include "broker/cli/feeder.h"

#include <string.h>

#include "broker/cli/waiting.h"

void feeder_init(struct feeder *f, struct client *client, struct lines *lines, const char *key)
{
    *f = (struct feeder){.client = client, .lines = lines, .key = key};
    msg_writer_init(&f->rows);
}

void feeder_release(struct feeder *f)
{
    msg_writer_release(&f->rows);
}

/* One line into f->rows, where it is a row. */
static void take_line(struct feeder *f, struct line *line)
{
    int good = line->row.at != NULL, is_row = good || f->keeps_bad;
    if (is_row)
        msg_raw(&f->rows, good ? line->row : lines_refused(f->lines, line));
    if (f->on_line)
        f->on_line(f->on_line_arg, line, good ? f->n_rows + f->n : -1);
    f->n += is_row;
    f->n_bad += !good;
}

/* Lines into f->rows, f->n of them, until the chunk is full: 1, 0 at the end of the input, 2 when there are
 * lines more to be read first, or negative. */
static int gather(struct feeder *f, struct err *e)
{
    int n_lines = 0, got = 1;
    struct line line;
    while (f->n < FEEDER_ROWS && f->rows.buffer.size < FEEDER_BYTES) {
        if (n_lines++ == FEEDER_LINES)
            return 2;
        if ((got = lines_next(f->lines, &line, e)) != 1)
            return got;
        take_line(f, &line);
        line_release(&line);
    }
    return 1;
}

static void write_submit(struct feeder *f, int n, int end)
{
    struct msg_writer *w = client_begin(
        f->client, "submit", 2 + (uint32_t)(n > 0) + (uint32_t)end + (uint32_t)(f->priority != 0));
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

/* Send the chunk that is gathered. */
static int send_chunk(struct feeder *f, struct err *e)
{
    json_t *reply = NULL;
    write_submit(f, f->n, f->end);
    int rc = client_call(f->client, 0, &reply, e);
    if (rc != 0)
        return waiting_is_worth(e) ? FEEDER_BUSY : rc;
    const char *state = json_string_value(json_object_get(reply, "state"));
    f->paused = state && strcmp(state, "paused") == 0;
    json_decref(reply);
    f->n_rows += f->n;
    f->sealed = f->end;
    f->chunk++;
    f->n = f->is_full = 0;
    msg_writer_clear(&f->rows);
    return 0;
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
