/* msg_fixture.h - messages to decode, in memory that ends where they do. */
#ifndef ASSAY_MSG_FIXTURE_H
#define ASSAY_MSG_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "schema/msg.h"

/* A reader over a copy on the heap, exactly as long as the bytes, so that a sanitizer sees one byte
 * too many. */
static inline struct msg_reader on_heap(const void *bytes, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);
    struct msg_reader r;
    if (len > 0)
        memcpy(copy, bytes, len);
    msg_reader_init(&r, copy, len);
    return r;
}

static inline void drop(struct msg_reader *r)
{
    free((void *)(uintptr_t)r->begin);
}

#define READER(literal) on_heap(literal, sizeof literal - 1)

typedef int read_any(struct msg_reader *r, struct err *e);

static inline int as_map(struct msg_reader *r, struct err *e)
{
    uint32_t n;
    return msg_read_map(r, "f", &n, e);
}
static inline int as_array(struct msg_reader *r, struct err *e)
{
    uint32_t n;
    return msg_read_array(r, "f", &n, e);
}
static inline int as_str(struct msg_reader *r, struct err *e)
{
    struct slice s;
    return msg_read_str(r, "f", &s, e);
}
static inline int as_bin(struct msg_reader *r, struct err *e)
{
    struct slice s;
    return msg_read_bin(r, "f", &s, e);
}
static inline int as_raw(struct msg_reader *r, struct err *e)
{
    struct slice s;
    return msg_read_raw(r, "f", MSG_MAX_DEPTH, &s, e);
}
static inline int as_bool(struct msg_reader *r, struct err *e)
{
    int flag;
    return msg_read_bool(r, "f", &flag, e);
}
static inline int as_int(struct msg_reader *r, struct err *e)
{
    int64_t v;
    return msg_read_int(r, "f", INT64_MIN, INT64_MAX, &v, e);
}
static inline int as_float(struct msg_reader *r, struct err *e)
{
    double d;
    return msg_read_float(r, "f", &d, e);
}

#endif
