/* control.c - writes and reads the messages between broker and ranks, each a map of known fields
 * (control.h). */
#include "schema/control.h"

#include <stdio.h>
#include <string.h>

#include "schema/msg.h"

static const char *const type_names[] = {"ready", "run", "done", "failed", "stop"};
static const char *const keys[] = {"t", "rank", "incarnation", "token", "digest", "ms", "busy_us",
    "up_us", "tokens", "reused", "kv_bytes", "pid", "threads", "code", "device", "mode",
    "checkpoint", "message"};

void control_encode(const struct control *c, struct msg_writer *w)
{
    const struct stage_token *t = &c->token;
    msg_writer_clear(w);
    msg_map(w, sizeof keys / sizeof keys[0]);
    msg_key_str(w, "t", type_names[c->type]);
    msg_key_int(w, "rank", c->rank);
    msg_str(w, "incarnation");
    msg_uint(w, c->incarnation);
    msg_str(w, "token");
    msg_array(w, 5);
    msg_uint(w, t->epoch);
    msg_uint(w, t->incarnation);
    msg_uint(w, t->sequence);
    msg_uint(w, t->slot);
    msg_uint(w, t->generation);
    msg_str(w, "digest");
    msg_uint(w, c->digest);
    msg_key_int(w, "ms", c->ms);
    msg_str(w, "busy_us");
    msg_uint(w, c->busy_us);
    msg_str(w, "up_us");
    msg_uint(w, c->up_us);
    msg_str(w, "tokens");
    msg_uint(w, c->tokens);
    msg_str(w, "reused");
    msg_uint(w, c->reused);
    msg_str(w, "kv_bytes");
    msg_uint(w, c->kv_bytes);
    msg_key_int(w, "pid", c->pid);
    msg_key_int(w, "threads", c->threads);
    msg_key_int(w, "code", c->code);
    msg_key_str(w, "device", c->device);
    msg_key_str(w, "mode", c->mode);
    msg_key_str(w, "checkpoint", c->checkpoint);
    msg_key_str(w, "message", c->message);
}

static int read_u32(struct msg_reader *r, const char *field, uint32_t *out, struct err *e)
{
    int64_t v = 0;
    int rc = msg_read_int(r, field, 0, UINT32_MAX, &v, e);
    *out = (uint32_t)v;
    return rc;
}

static int read_i32(struct msg_reader *r, const char *field, int32_t *out, struct err *e)
{
    int64_t v = 0;
    int rc = msg_read_int(r, field, 0, INT32_MAX, &v, e);
    *out = (int32_t)v;
    return rc;
}

static int read_token(struct msg_reader *r, struct stage_token *t, struct err *e)
{
    uint32_t n = 0;
    int rc = msg_read_array(r, "token", &n, e);
    if (rc == 0 && n != 5)
        rc = err_field(e, ASSAY_EBADREQ, "token", "expected 5 numbers, found %u", n);
    if (rc == 0)
        rc = msg_read_uint64(r, "token", &t->epoch, e);
    if (rc == 0)
        rc = msg_read_uint64(r, "token", &t->incarnation, e);
    if (rc == 0)
        rc = msg_read_uint64(r, "token", &t->sequence, e);
    if (rc == 0)
        rc = read_u32(r, "token", &t->slot, e);
    return rc == 0 ? read_u32(r, "token", &t->generation, e) : rc;
}

/* Reads a text no longer than control_encode writes, with no NUL inside. */
static int read_text(struct msg_reader *r, const char *field, char *out, size_t size, struct err *e)
{
    struct slice s = {0};
    int rc = msg_read_str(r, field, &s, e);
    if (rc == 0 && (s.len >= size || memchr(s.at, '\0', s.len)))
        rc = err_field(e, ASSAY_EBADREQ, field,
            "expected at most %zu bytes, none of them NUL, found %zu", size - 1, s.len);
    if (rc == 0) {
        memcpy(out, s.at, s.len);
        out[s.len] = '\0';
    }
    return rc;
}

static int read_type(struct msg_reader *r, enum control_type *type, struct err *e)
{
    char name[16] = "";
    int rc = read_text(r, "t", name, sizeof name, e);
    for (int i = 0; rc == 0 && i < 5; i++)
        if (strcmp(name, type_names[i]) == 0) {
            *type = (enum control_type)i;
            return 0;
        }
    return rc ? rc : err_field(e, ASSAY_EBADREQ, "t", "unknown message '%s'", name);
}

static int read_value(struct msg_reader *r, int key, struct control *c, struct err *e)
{
    switch (key) {
    case 0:
        return read_type(r, &c->type, e);
    case 1:
        return read_i32(r, "rank", &c->rank, e);
    case 2:
        return msg_read_uint64(r, "incarnation", &c->incarnation, e);
    case 3:
        return read_token(r, &c->token, e);
    case 4:
        return msg_read_uint64(r, "digest", &c->digest, e);
    case 5:
        return read_u32(r, "ms", &c->ms, e);
    case 6:
        return msg_read_uint64(r, "busy_us", &c->busy_us, e);
    case 7:
        return msg_read_uint64(r, "up_us", &c->up_us, e);
    case 8:
        return msg_read_uint64(r, "tokens", &c->tokens, e);
    case 9:
        return msg_read_uint64(r, "reused", &c->reused, e);
    case 10:
        return msg_read_uint64(r, "kv_bytes", &c->kv_bytes, e);
    case 11:
        return read_i32(r, "pid", &c->pid, e);
    case 12:
        return read_u32(r, "threads", &c->threads, e);
    case 13:
        return read_u32(r, "code", &c->code, e);
    case 14:
        return read_text(r, "device", c->device, sizeof c->device, e);
    case 15:
        return read_text(r, "mode", c->mode, sizeof c->mode, e);
    case 16:
        return read_text(r, "checkpoint", c->checkpoint, sizeof c->checkpoint, e);
    default:
        return read_text(r, "message", c->message, sizeof c->message, e);
    }
}

int control_decode(struct control *c, const uint8_t *bytes, size_t len, struct err *e)
{
    const int n_keys = sizeof keys / sizeof keys[0];
    struct msg_reader r;
    uint64_t seen = 0;
    uint32_t n = 0;
    memset(c, 0, sizeof *c);
    msg_reader_init(&r, bytes, len);
    int rc = msg_read_map(&r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int key = msg_read_key(&r, "", keys, n_keys, &seen, e);
        rc = key < 0 ? key : read_value(&r, key, c, e);
    }
    if (rc == 0 && seen != (1ull << n_keys) - 1)
        rc = err_set(e, ASSAY_EBADREQ, "control message: expected %d fields, found %u", n_keys, n);
    return rc == 0 ? msg_read_end(&r, e) : rc;
}
