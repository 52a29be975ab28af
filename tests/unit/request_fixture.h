/* request_fixture.h - messages as the tests of request.h write them: small programs of words, see
 * build(). */
#ifndef ASSAY_REQUEST_FIXTURE_H
#define ASSAY_REQUEST_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "schema/request.h"

static const struct request_limits limits = {
    .max_message_bytes = 4096, .max_rows_per_message = 4, .max_tokens_per_row = 100};

/* One message as it would come from a socket: on the heap, not a byte longer than it is. */
struct message {
    uint8_t *bytes;
    size_t len;
};

static inline struct message copy_of(const void *bytes, size_t len)
{
    struct message m = {malloc(len ? len : 1), len};
    if (len > 0)
        memcpy(m.bytes, bytes, len);
    return m;
}

/* JSON with ' for " and no escapes, written as msgpack: enough to write requests that can be read.
 * Beside JSON: x'0a0b' is bin, !c1 is those bytes raw. Returns the end of the value. */
static inline const char *pack(struct msg_writer *w, const char *p);

static inline const char *pack_hex(struct msg_writer *w, const char *p, int as_bin)
{
    uint8_t bytes[64];
    size_t n = 0;
    unsigned byte;
    for (; sscanf(p, "%2x", &byte) == 1 && strchr("0123456789abcdef", *p); p += 2)
        bytes[n++] = (uint8_t)byte;
    if (as_bin)
        msg_bin(w, bytes, n);
    else
        msg_raw(w, (struct slice){bytes, n});
    return p;
}

static inline const char *pack_items(struct msg_writer *w, const char *p, char end)
{
    struct msg_writer items;
    uint32_t n = 0;
    msg_writer_init(&items);
    while (*p != end) {
        assert_true(*p != '\0');
        p = pack(&items, p);
        n++;
        p += strspn(p, ",: ");
    }
    if (end == '}')
        msg_map(w, n / 2);
    else
        msg_array(w, n);
    msg_raw(w, (struct slice){(const uint8_t *)items.buffer.data, items.buffer.size});
    msg_writer_release(&items);
    return p + 1;
}

static inline const char *pack(struct msg_writer *w, const char *p)
{
    p += strspn(p, " ");
    if (*p == '{' || *p == '[')
        return pack_items(w, p + 1 + strspn(p + 1, " "), *p == '{' ? '}' : ']');
    if (*p == '\'') {
        const char *end = strchr(p + 1, '\'');
        msg_str_len(w, p + 1, (size_t)(end - p - 1));
        return end + 1;
    }
    if (*p == '!')
        return pack_hex(w, p + 1, 0);
    if (*p == 'x')
        return pack_hex(w, p + 2, 1) + 1;
    if (*p == 'n') {
        msg_nil(w);
        return p + 3;
    }
    if (*p == 't' || *p == 'f') {
        msg_bool(w, *p == 't');
        return p + (*p == 't' ? 4 : 5);
    }
    char *end;
    if (strcspn(p, ".") < strcspn(p, ",:]} "))
        msg_float(w, strtof(p, &end));
    else if (*p == '-')
        msg_int(w, strtoll(p, &end, 10));
    else
        msg_uint(w, strtoull(p, &end, 10));
    return end;
}

static inline struct message build(const char *text)
{
    struct msg_writer w;
    msg_writer_init(&w);
    pack(&w, text);
    struct message m = copy_of(w.buffer.data, w.buffer.size);
    msg_writer_release(&w);
    return m;
}

/* Slices of *q are gone afterwards, except in good(). */
static inline int decode(const char *text, struct request *q, struct err *e)
{
    struct message m = build(text);
    *e = (struct err){0};
    int rc = request_decode(q, m.bytes, m.len, &limits, e);
    assert_int_equal(rc, rc ? e->code : 0);
    free(m.bytes);
    return rc;
}

/* A request that is taken; the message stays alive in *m. */
static inline void good(const char *text, struct request *q, struct message *m)
{
    struct err e = {0};
    *m = build(text);
    if (request_decode(q, m->bytes, m->len, &limits, &e) != 0)
        fail_msg("%s: refused: %s: %s", text, e.field, e.msg);
}

static inline void refused(const char *text, int code, const char *field)
{
    struct request q;
    struct err e;
    int rc = decode(text, &q, &e);
    if (rc != code || strcmp(e.field, field) != 0)
        fail_msg("%s: expected %s at '%s', found %s at '%s': %s", text, err_name(code), field,
            err_name(rc), e.field, e.msg);
    assert_true(e.msg[0] != '\0');
}

static inline void assert_slice(struct slice s, const char *text)
{
    assert_non_null(s.at);
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.at, text, s.len);
}

static inline struct msg_reader rows_of(const struct request *q)
{
    struct msg_reader r;
    uint32_t n = 0;
    msg_reader_init(&r, q->rows.at, q->rows.len);
    assert_int_equal(msg_read_array(&r, "rows", &n, NULL), 0);
    assert_int_equal(n, q->n_rows);
    return r;
}

#endif
