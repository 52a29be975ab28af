/* request_extend.c - what a session's row becomes when something is appended to it (request.h).
 *
 * It is done to the bytes of the row: its fields stay in their order, and one that grows has the
 * new contents behind the old ones, under a head of the new size. So the result is a row that a
 * client could have sent whole. Only what is new is checked: the row was, and one item says nothing
 * about another. */
#include <stdio.h>
#include <string.h>

#include "schema/request.h"
#include "schema/request_private.h"

/* The fields that grow, of a row and of its pool. */
#define MOST_GROW 12
struct growing {
    const char *where; /* in errors, in front of a field's name */
    const char *names[MOST_GROW];
};
static const struct growing of_row = {
    "", {"ids", "text", "messages", "response", "completion", "responses", "chosen", "rejected",
            "steps", "document", "documents", "pool"}};
static const struct growing of_pool = {"pool", {"positions"}};

static int is_of(const struct growing *g, int i)
{
    return i < MOST_GROW && g->names[i];
}

/* Returns which field that is; -1: none that grows. */
static int find(const struct growing *g, struct slice key)
{
    for (int i = 0; is_of(g, i); i++)
        if (slice_is(key, g->names[i]))
            return i;
    return -1;
}

static const char *path(const struct growing *g, struct slice key, char *out, size_t size)
{
    snprintf(out, size, "%s%s%.*s", g->where, g->where[0] ? "." : "",
        key.len < 64 ? (int)key.len : 64, (const char *)key.at);
    return out;
}

static int read_pair(struct msg_reader *r, struct slice *key, struct slice *value, struct err *e)
{
    int rc = msg_read_str(r, "", key, e);
    return rc == 0 ? request_skip_bytes(r, "", value, e) : rc;
}

/* Reads what is to be added to each field. */
static int read_more(
    const struct growing *g, struct slice more, struct slice added[MOST_GROW], struct err *e)
{
    struct msg_reader r;
    struct slice key, value;
    char at[ERR_FIELD_BYTES];
    uint32_t n = 0;
    msg_reader_init(&r, more.at, more.len);
    int rc = msg_read_map(&r, g->where, &n, e);
    if (rc == 0 && n == 0)
        return err_field(e, ASSAY_EBADREQ, g->where, "expected something to append, found nothing");
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = read_pair(&r, &key, &value, e);
        int field = rc == 0 ? find(g, key) : -1;
        if (rc == 0 && field < 0)
            return err_field(e, ASSAY_EBADREQ, path(g, key, at, sizeof at),
                "expected a field that grows (ids, text, response, steps, messages and the like, "
                "pool.positions); what else a session has it keeps from open");
        if (rc == 0 && added[field].at)
            return err_field(e, ASSAY_EBADREQ, path(g, key, at, sizeof at), "found twice");
        if (rc == 0)
            added[field] = value;
    }
    return rc;
}

/* Reads the head of a str, bin or array: its size, and its contents, whose items are counted
 * only. */
static int open_value(struct slice value, enum msg_type type, uint32_t *n, struct slice *contents)
{
    struct msg_reader r;
    msg_reader_init(&r, value.at, value.len);
    if (type == MSG_STR)
        return msg_read_text(&r, "", contents, NULL);
    if (type == MSG_BIN)
        return msg_read_bin(&r, "", contents, NULL);
    int rc = msg_read_array(&r, "", n, NULL);
    *contents = (struct slice){r.at, (size_t)(r.end - r.at)};
    return rc;
}

static enum msg_type type_of(struct slice value)
{
    struct msg_reader r;
    msg_reader_init(&r, value.at, value.len);
    return msg_peek(&r);
}

static int extend_map(struct msg_writer *w, const struct growing *g, struct slice row,
    struct slice more, struct err *e);

static int extend_value(
    struct msg_writer *w, const char *field, struct slice value, struct slice more, struct err *e)
{
    enum msg_type type = type_of(value), found = type_of(more);
    struct slice old = {0}, new = {0};
    uint32_t n_old = 0, n_new = 0;
    if (found != type)
        return err_field(e, ASSAY_EBADREQ, field, "expected %s, as the session has it, found %s",
            msg_type_name(type), msg_type_name(found));
    if (type == MSG_MAP)
        return extend_map(w, &of_pool, value, more, e);
    if (open_value(value, type, &n_old, &old) != 0 || open_value(more, type, &n_new, &new) != 0 ||
        old.len > UINT32_MAX - new.len || n_old > UINT32_MAX - n_new)
        return err_field(e, ASSAY_ETOOLARGE, field, "expected what msgpack can hold, found more");
    if (type == MSG_STR)
        msgpack_pack_str(&w->packer, old.len + new.len);
    else if (type == MSG_BIN)
        msgpack_pack_bin(&w->packer, old.len + new.len);
    else
        msg_array(w, n_old + n_new);
    msg_raw(w, old);
    msg_raw(w, new);
    return 0;
}

static int extend_map(struct msg_writer *w, const struct growing *g, struct slice row,
    struct slice more, struct err *e)
{
    struct slice key, value, added[MOST_GROW] = {{0}};
    struct msg_reader r;
    char at[ERR_FIELD_BYTES];
    uint32_t n = 0;
    int rc = read_more(g, more, added, e);
    msg_reader_init(&r, row.at, row.len);
    if (rc == 0)
        rc = msg_read_map(&r, g->where, &n, e);
    if (rc == 0)
        msg_map(w, n);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = read_pair(&r, &key, &value, e);
        int field = rc == 0 ? find(g, key) : -1;
        if (rc != 0)
            break;
        msg_str_len(w, key.at, key.len);
        if (field < 0 || !added[field].at) {
            msg_raw(w, value);
            continue;
        }
        rc = extend_value(w, path(g, key, at, sizeof at), value, added[field], e);
        added[field] = (struct slice){0};
    }
    for (int i = 0; rc == 0 && is_of(g, i); i++)
        if (added[i].at)
            rc = err_field(e, ASSAY_EBADREQ, path(g, slice_of(g->names[i]), at, sizeof at),
                "expected a field that the session's row has, found one that it lacks");
    return rc;
}

int request_extend_row(struct msg_writer *w, struct slice row, struct slice more, struct err *e)
{
    int rc = extend_map(w, &of_row, row, more, e);
    return rc == 0 ? request_check_more(more, e) : rc;
}
