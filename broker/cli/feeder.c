/* feeder.c - see feeder.h. */
#include "broker/cli/feeder.h"

#include <string.h>
#include <time.h>

void feeder_init(struct feeder *f, struct client *client, struct lines *lines, const char *key)
{
    *f = (struct feeder){.client = client, .lines = lines, .key = key};
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

static void nap(uint32_t ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

int feeder_step(struct feeder *f, struct err *e)
{
    int end, rc;
    int n = gather(f, &end, e);
    if (n < 0)
        return n;
    if (n == 0 && !end)
        return 0;
    json_t *reply = NULL;
    for (;;) {
        write_submit(f, n, end);
        rc = client_call(f->client, 0, &reply, e);
        if (rc != ASSAY_EQUEUEFULL && rc != ASSAY_ENOTREADY)
            break;
        if (rc == ASSAY_ENOTREADY && e->retry_after_ms == 0)
            break; /* nobody there at all */
        nap(e->retry_after_ms ? e->retry_after_ms : 500);
    }
    if (rc != 0)
        return rc;
    const char *state = json_string_value(json_object_get(reply, "state"));
    f->paused = state && strcmp(state, "paused") == 0;
    json_decref(reply);
    f->n_rows += n;
    f->sealed = end;
    f->chunk++;
    return 0;
}
