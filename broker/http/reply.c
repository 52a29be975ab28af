/* reply.c - see reply.h. */
#include "broker/http/reply.h"

static int read_field(struct msg_reader *r, struct slice key, struct reply *reply, struct err *e)
{
    struct slice ignored;
    enum msg_type type = msg_peek(r);
    if (slice_is(key, "id") && type == MSG_INT)
        return msg_read_int(r, "", INT64_MIN, INT64_MAX, &reply->id, e);
    if (slice_is(key, "job") && type == MSG_INT)
        return msg_read_int(r, "", INT64_MIN, INT64_MAX, &reply->job, e);
    if (slice_is(key, "checkpoint") && type == MSG_STR)
        return msg_read_str(r, "", &reply->checkpoint, e);
    if (slice_is(key, "mode") && type == MSG_STR)
        return msg_read_str(r, "", &reply->mode, e);
    if (slice_is(key, "ok"))
        return msg_read_bool(r, "", &reply->is_ok, e);
    if (slice_is(key, "next") && type == MSG_INT)
        return msg_read_uint64(r, "", &reply->next, e);
    if (slice_is(key, "done") && type == MSG_BOOL)
        return msg_read_bool(r, "", &reply->is_done, e);
    return msg_read_raw(r, "", MSG_MAX_DEPTH, slice_is(key, "rows") ? &reply->rows : &ignored, e);
}

int reply_read(struct slice message, struct reply *reply, struct err *e)
{
    struct msg_reader r;
    struct slice key;
    uint32_t n = 0;
    *reply = (struct reply){0};
    msg_reader_init(&r, message.at, message.len);
    int rc = msg_read_map(&r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        rc = msg_read_str(&r, "", &key, e);
        if (rc == 0)
            rc = read_field(&r, key, reply, e);
    }
    return rc;
}
