/* request_messages.c - decodes the messages of a row's conversation (request.h). */
#include <stdio.h>
#include <string.h>

#include "schema/request.h"
#include "schema/request_private.h"

int request_is_messages(struct slice s)
{
    struct msg_reader r;
    msg_reader_init(&r, s.at, s.len);
    return msg_peek(&r) == MSG_ARRAY;
}

/* texts_are_bytes: its texts need not be UTF-8. */
static int skip(
    struct msg_reader *r, const char *field, int texts_are_bytes, int *something, struct err *e)
{
    struct slice raw;
    uint32_t n;
    int rc = 0;
    enum msg_type first = msg_peek(r);
    const uint8_t *from = r->at;
    for (uint64_t pending = 1; rc == 0 && pending > 0; pending--) {
        enum msg_type type = msg_peek(r);
        n = 0;
        if (type == MSG_ARRAY)
            rc = msg_read_array(r, field, &n, e);
        else if (type == MSG_MAP)
            rc = msg_read_map(r, field, &n, e);
        else if (type == MSG_STR && texts_are_bytes)
            rc = msg_read_text(r, field, &raw, e);
        else
            rc = msg_read_raw(r, field, 1, &raw, e);
        pending += type == MSG_MAP ? 2 * (uint64_t)n : n;
    }
    int is_empty = r->at == from + 1 && (*from & 0x0f) == 0; /* "", [] or {}, in the short form */
    *something =
        first == MSG_BOOL ? *from == 0xc3 : first != MSG_NIL && !(first != MSG_INT && is_empty);
    return rc;
}

int request_skip_value(struct msg_reader *r, const char *field, int *something, struct err *e)
{
    return skip(r, field, 0, something, e);
}

int request_skip_bytes(struct msg_reader *r, const char *field, struct slice *raw, struct err *e)
{
    int something;
    const uint8_t *from = r->at;
    int rc = skip(r, field, 1, &something, e);
    *raw = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

/* nil counts as absent: data sets have it in columns that a message does not use. */
static int read_reasoning(struct msg_reader *r, struct slice *reasoning, struct err *e)
{
    struct slice raw;
    if (msg_peek(r) == MSG_NIL)
        return msg_read_raw(r, "reasoning_content", 1, &raw, e);
    return msg_read_text(r, "reasoning_content", reasoning, e);
}

/* Returns n_names for a key that is none of the names: what a chat template may read. */
static int read_message_key(
    struct msg_reader *r, const char *const *names, int n_names, uint64_t *seen, struct err *e)
{
    struct msg_reader other = *r;
    struct slice key;
    int i = 0;
    if (msg_peek(r) != MSG_STR || msg_read_str(&other, "", &key, NULL) != 0)
        return msg_read_key(r, "", names, n_names, seen, e);
    while (i < n_names && !(strlen(names[i]) == key.len && memcmp(names[i], key.at, key.len) == 0))
        i++;
    if (i < n_names)
        return msg_read_key(r, "", names, n_names, seen, e);
    *r = other;
    return n_names;
}

/* A text, an array of parts, or nil. What the parts are is content (compose.c). */
static int read_content(struct msg_reader *r, struct row_message *message, struct err *e)
{
    const uint8_t *from = r->at;
    enum msg_type type = msg_peek(r);
    int something, rc;
    if (type == MSG_STR)
        return msg_read_text(r, "content", &message->content, e);
    if (type != MSG_ARRAY && type != MSG_NIL)
        return msg_unexpected(r, "content", "a string, an array of parts or nil", e);
    rc = request_skip_value(r, "content", &something, e);
    message->has_no_content = type == MSG_NIL;
    if (type == MSG_ARRAY)
        message->parts = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

/* nil counts as absent, as in transformers. */
static int read_tool_calls(struct msg_reader *r, struct row_message *message, struct err *e)
{
    message->names_tool_calls = msg_peek(r) != MSG_NIL;
    return request_skip_value(r, "tool_calls", &message->has_tool_calls, e);
}

int request_read_message(struct msg_reader *r, struct row_message *message, struct err *e)
{
    static const char *const names[] = {
        "role", "content", "reasoning_content", "tool_calls", "thinking", "reasoning"};
    struct slice older[2] = {{0}};
    uint64_t seen = 0;
    uint32_t n = 0;
    int something;
    const uint8_t *from = r->at;
    *message = (struct row_message){0};
    int rc = msg_read_map(r, "", &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int key = read_message_key(r, names, 6, &seen, e);
        rc = key < 0                             ? key
             : key == 0                          ? msg_read_text(r, "role", &message->role, e)
             : key == 1                          ? read_content(r, message, e)
             : key == 2                          ? read_reasoning(r, &message->reasoning, e)
             : key == 3                          ? read_tool_calls(r, message, e)
             : key < 6 && msg_peek(r) == MSG_STR ? msg_read_text(r, names[key], &older[key - 4], e)
                                                 : request_skip_value(r, "", &something, e);
    }
    if (!message->reasoning.at)
        message->reasoning = older[0].at ? older[0] : older[1];
    message->raw = (struct slice){from, (size_t)(r->at - from)};
    message->has_no_content |= !(seen >> 1 & 1);
    if (message->has_tool_calls)
        seen |= 1 << 1; /* a message of calls may have no content */
    for (int i = 0; rc == 0 && i < 2; i++)
        if (!(seen >> i & 1))
            rc = err_field(e, ASSAY_EBADREQ, names[i], "expected a string, found nothing");
    return rc;
}

/* "messages[2].role" */
static int in_message(const char *field, uint32_t i, int rc, struct err *e)
{
    char inner[ERR_FIELD_BYTES];
    if (!e)
        return rc;
    memcpy(inner, e->field, sizeof inner);
    snprintf(e->field, sizeof e->field, "%s[%u]%s%.*s", field, i, inner[0] ? "." : "", 40, inner);
    return rc;
}

int request_check_messages(struct msg_reader *r, const char *field, struct err *e)
{
    struct row_message message;
    uint32_t n = 0;
    int rc = msg_read_array(r, field, &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        if ((rc = request_read_message(r, &message, e)) != 0)
            return in_message(field, i, rc, e);
    return rc;
}
