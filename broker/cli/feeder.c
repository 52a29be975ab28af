/* feeder.c - see feeder.h. */
#include "broker/cli/feeder.h"

#include <string.h>

#include "broker/cli/waiting.h"

void feeder_init(struct feeder *f, struct client *client, struct lines *lines, const char *key)
{
    *f = (struct feeder){.client = client, .lines = lines, .key = key, .n = -1};
    msg_writer_init(&f->rows);
}

void feeder_release(struct feeder *f)
{
    msg_writer_release(&f->rows);
}

/* Lines into f->rows until the chunk is full: how many rows, or negative; *end when the input is at
 * its end. */
static int gather(struct feeder *f, int *end, struct err *e)
{
    int n = 0, got = 1;
    struct line line;
    msg_writer_clear(&f->rows);
    while (n < FEEDER_ROWS && f->rows.buffer.size < FEEDER_BYTES &&
           (got = lines_next(f->lines, &line, e)) == 1) {
        int good = line.row.at != NULL;
        if (good) {
            msg_raw(&f->rows, line.row);
            n++;
        }
        f->n_bad += !good;
        if (f->on_line)
            f->on_line(f->on_line_arg, &line, good ? f->n_rows + n - 1 : -1);
        line_release(&line);
    }
    *end = got == 0;
    return got < 0 ? got : n;
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
    f->n = -1;
    return 0;
}

int feeder_step(struct feeder *f, struct err *e)
{
    if (f->n < 0)
        f->n = gather(f, &f->end, e);
    if (f->n < 0)
        return e->code;
    if (f->n == 0 && !f->end) {
        f->n = -1;
        return 0;
    }
    return send_chunk(f, e);
}
