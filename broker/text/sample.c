/* sample.c - makes a row of texts as a client would, and composes it (sample.h). */
#include "broker/text/sample.h"

static void write_row(struct msg_writer *w, unsigned kind)
{
    msg_map(w, 2);
    msg_key_str(w, kind == RECIPE_QUERIES ? "query" : "prompt", "a");
    if (kind != RECIPE_STEPS) {
        msg_key_str(w, kind == RECIPE_QUERIES ? "document" : "response", "b");
        return;
    }
    msg_str(w, "steps");
    msg_array(w, 1);
    msg_str(w, "b");
}

int sample_write(const struct text_model *m, unsigned kind, int32_t step_token, struct err *e)
{
    struct msg_writer w;
    struct msg_reader r;
    struct row_request row;
    struct composed composed;
    struct composer *c = composer_new(m);
    msg_writer_init(&w);
    write_row(&w, kind);
    msg_reader_init(&r, (const uint8_t *)w.buffer.data, w.buffer.size);
    int rc = request_next_row(&r, 0, &row, e);
    if (rc == 0)
        rc = compose_row(c, &row, step_token, &composed, e);
    msg_writer_release(&w);
    composer_free(&c);
    return rc;
}
