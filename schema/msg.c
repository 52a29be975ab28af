/* msg.c - see msg.h. A value's first byte gives its type and, for small values, its size; larger
 * ones have their size in the next 1, 2, 4 or 8 bytes, big-endian. */
#include "schema/msg.h"

#include <stdio.h>
#include <string.h>

#include "schema/log.h"
#include "schema/utf8.h"

struct slice slice_of(const char *text)
{
    return (struct slice){(const uint8_t *)text, text ? strlen(text) : 0};
}

int slice_is_same(struct slice a, struct slice b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

int slice_is(struct slice s, const char *text)
{
    return slice_is_same(s, slice_of(text));
}

void msg_reader_init(struct msg_reader *r, const uint8_t *bytes, size_t len)
{
    *r = (struct msg_reader){bytes, bytes, len > 0 ? bytes + len : bytes};
}

static size_t left(const struct msg_reader *r)
{
    return (size_t)(r->end - r->at);
}

enum msg_type msg_peek(const struct msg_reader *r)
{
    if (r->at == r->end)
        return MSG_END;
    uint8_t b = *r->at;
    if (b <= 0x7f || b >= 0xe0 || (b >= 0xcc && b <= 0xd3))
        return MSG_INT;
    if (b <= 0x8f || b == 0xde || b == 0xdf)
        return MSG_MAP;
    if (b <= 0x9f || b == 0xdc || b == 0xdd)
        return MSG_ARRAY;
    if (b <= 0xbf || (b >= 0xd9 && b <= 0xdb))
        return MSG_STR;
    if (b == 0xc0)
        return MSG_NIL;
    if (b == 0xc2 || b == 0xc3)
        return MSG_BOOL;
    if (b >= 0xc4 && b <= 0xc6)
        return MSG_BIN;
    if (b == 0xca || b == 0xcb)
        return MSG_FLOAT;
    return MSG_INVALID;
}

const char *msg_type_name(enum msg_type type)
{
    static const char *const names[] = {"the end of the message", "nil", "a boolean", "an integer",
        "a float", "a string", "bin", "an array", "a map", "an extension type or a reserved byte"};
    return names[type];
}

static int truncated(const struct msg_reader *r, const char *field, struct err *e)
{
    return err_field(e, ASSAY_EBADMSG, field, "the message ends too early, at byte %zu",
        (size_t)(r->end - r->begin));
}

int msg_unexpected(
    const struct msg_reader *r, const char *field, const char *expected, struct err *e)
{
    enum msg_type found = msg_peek(r);
    if (found == MSG_END)
        return truncated(r, field, e);
    return err_field(e, found == MSG_INVALID ? ASSAY_EBADMSG : ASSAY_EBADREQ, field,
        "expected %s, found %s", expected, msg_type_name(found));
}

static int expect(const struct msg_reader *r, enum msg_type type, const char *field, struct err *e)
{
    return msg_peek(r) == type ? 0 : msg_unexpected(r, field, msg_type_name(type), e);
}

static uint64_t big_endian(const uint8_t *at, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v = v << 8 | at[i];
    return v;
}

/* Skips the first byte and the n bytes of size or value after it, which go to *v. */
static int take(struct msg_reader *r, int n, const char *field, uint64_t *v, struct err *e)
{
    if (left(r) < (size_t)n + 1)
        return truncated(r, field, e);
    *v = big_endian(r->at + 1, n);
    r->at += n + 1;
    return 0;
}

/* Reads the head of the next str, bin, array or map: its size. */
static int take_size(struct msg_reader *r, const char *field, uint64_t *n, struct err *e)
{
    uint8_t b = *r->at;
    int size_bytes = 0;
    if (b >= 0x80 && b <= 0x9f)
        *n = b & 0x0f;
    else if (b >= 0xa0 && b <= 0xbf)
        *n = b & 0x1f;
    else if (b == 0xc4 || b == 0xd9)
        size_bytes = 1;
    else if (b == 0xc5 || b == 0xda || b == 0xdc || b == 0xde)
        size_bytes = 2;
    else
        size_bytes = 4;
    if (size_bytes == 0) {
        r->at++;
        return 0;
    }
    return take(r, size_bytes, field, n, e);
}

static int read_container(struct msg_reader *r, enum msg_type type, uint64_t item_bytes,
    const char *field, uint32_t *n, struct err *e)
{
    uint64_t count = 0;
    int rc = expect(r, type, field, e);
    if (rc == 0)
        rc = take_size(r, field, &count, e);
    if (rc == 0 && count > left(r) / item_bytes)
        rc = err_field(e, ASSAY_EBADMSG, field,
            "%s promises %llu entries, the message has %zu bytes left", msg_type_name(type),
            (unsigned long long)count, left(r));
    *n = (uint32_t)count;
    return rc;
}

int msg_read_map(struct msg_reader *r, const char *field, uint32_t *n, struct err *e)
{
    return read_container(r, MSG_MAP, 2, field, n, e);
}

int msg_read_array(struct msg_reader *r, const char *field, uint32_t *n, struct err *e)
{
    return read_container(r, MSG_ARRAY, 1, field, n, e);
}

static int read_bytes(
    struct msg_reader *r, enum msg_type type, const char *field, struct slice *s, struct err *e)
{
    uint64_t n = 0;
    int rc = expect(r, type, field, e);
    if (rc == 0)
        rc = take_size(r, field, &n, e);
    if (rc != 0)
        return rc;
    if (n > left(r))
        return err_field(e, ASSAY_EBADMSG, field,
            "%s promises %llu bytes, the message has %zu left", msg_type_name(type),
            (unsigned long long)n, left(r));
    *s = (struct slice){r->at, (size_t)n};
    r->at += n;
    return 0;
}

int msg_read_str(struct msg_reader *r, const char *field, struct slice *s, struct err *e)
{
    int rc = read_bytes(r, MSG_STR, field, s, e);
    for (size_t at = 0; rc == 0 && at < s->len;) {
        int len = utf8_length(s->at + at, s->len - at);
        if (len == 0)
            rc = err_field(e, ASSAY_EBADMSG, field,
                "expected UTF-8, found byte 0x%02x at %zu of the string", s->at[at], at);
        at += (size_t)len;
    }
    return rc;
}

int msg_read_text(struct msg_reader *r, const char *field, struct slice *s, struct err *e)
{
    return read_bytes(r, MSG_STR, field, s, e);
}

int msg_read_bin(struct msg_reader *r, const char *field, struct slice *s, struct err *e)
{
    return read_bytes(r, MSG_BIN, field, s, e);
}

int msg_read_bool(struct msg_reader *r, const char *field, int *value, struct err *e)
{
    int rc = expect(r, MSG_BOOL, field, e);
    if (rc == 0)
        *value = *r->at++ == 0xc3;
    return rc;
}

/* Reads the next integer: its 64 bits, and whether to read them as negative. */
static int take_integer(
    struct msg_reader *r, const char *field, uint64_t *bits, int *negative, struct err *e)
{
    int rc = expect(r, MSG_INT, field, e);
    if (rc != 0)
        return rc;
    uint8_t b = *r->at;
    *negative = 0;
    if (b <= 0x7f || b >= 0xe0) {
        *bits = (uint64_t)(int64_t)(int8_t)b;
        *negative = b >= 0xe0;
        r->at++;
        return 0;
    }
    int width = 1 << (b & 3); /* cc cd ce cf and d0 d1 d2 d3: 1, 2, 4, 8 bytes */
    if ((rc = take(r, width, field, bits, e)) != 0 || b < 0xd0)
        return rc;
    if (width < 8 && *bits >> (8 * width - 1))
        *bits |= ~0ull << (8 * width);
    *negative = *bits >> 63 != 0;
    return 0;
}

int msg_read_int(struct msg_reader *r, const char *field, int64_t min, int64_t max, int64_t *value,
    struct err *e)
{
    uint64_t bits = 0;
    int negative;
    int rc = take_integer(r, field, &bits, &negative, e);
    if (rc != 0)
        return rc;
    if (!negative && bits > INT64_MAX)
        return err_field(e, ASSAY_EBADREQ, field, "expected %lld to %lld, found %llu",
            (long long)min, (long long)max, (unsigned long long)bits);
    *value = (int64_t)bits;
    if (*value < min || *value > max)
        return err_field(e, ASSAY_EBADREQ, field, "expected %lld to %lld, found %lld",
            (long long)min, (long long)max, (long long)*value);
    return 0;
}

int msg_read_int_saturated(struct msg_reader *r, const char *field, int64_t *value, struct err *e)
{
    uint64_t bits = 0;
    int negative = 0;
    int rc = take_integer(r, field, &bits, &negative, e);
    *value = !negative && bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    return rc;
}

int msg_read_uint64(struct msg_reader *r, const char *field, uint64_t *value, struct err *e)
{
    int negative;
    int rc = take_integer(r, field, value, &negative, e);
    if (rc == 0 && negative)
        rc = err_field(
            e, ASSAY_EBADREQ, field, "expected 0 or more, found %lld", (long long)(int64_t)*value);
    return rc;
}

int msg_read_float(struct msg_reader *r, const char *field, double *value, struct err *e)
{
    uint64_t bits = 0;
    int rc = expect(r, MSG_FLOAT, field, e);
    if (rc != 0)
        return rc;
    int is_double = *r->at == 0xcb;
    if ((rc = take(r, is_double ? 8 : 4, field, &bits, e)) != 0)
        return rc;
    if (is_double) {
        memcpy(value, &bits, sizeof *value);
    } else {
        uint32_t narrow = (uint32_t)bits;
        float f;
        memcpy(&f, &narrow, sizeof f);
        *value = (double)f;
    }
    return 0;
}

static int skip(struct msg_reader *r, const char *field, int depth, struct err *e);

static int skip_items(struct msg_reader *r, const char *field, int depth, struct err *e)
{
    uint32_t n;
    int is_map = msg_peek(r) == MSG_MAP;
    if (depth <= 0)
        return err_field(
            e, ASSAY_EBADREQ, field, "nested too deep: expected at most %d levels", MSG_MAX_DEPTH);
    int rc = is_map ? msg_read_map(r, field, &n, e) : msg_read_array(r, field, &n, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        if (is_map && (rc = expect(r, MSG_STR, field, e)) == 0)
            rc = skip(r, field, depth - 1, e);
        if (rc == 0)
            rc = skip(r, field, depth - 1, e);
    }
    return rc;
}

static int skip(struct msg_reader *r, const char *field, int depth, struct err *e)
{
    struct slice s;
    uint64_t bits;
    double real;
    int flag;
    switch (msg_peek(r)) {
    case MSG_NIL:
        r->at++;
        return 0;
    case MSG_BOOL:
        return msg_read_bool(r, field, &flag, e);
    case MSG_INT:
        return take_integer(r, field, &bits, &flag, e);
    case MSG_FLOAT:
        return msg_read_float(r, field, &real, e);
    case MSG_STR:
        return msg_read_str(r, field, &s, e);
    case MSG_BIN:
        return msg_read_bin(r, field, &s, e);
    case MSG_ARRAY:
    case MSG_MAP:
        return skip_items(r, field, depth, e);
    default:
        return msg_unexpected(r, field, "a value", e);
    }
}

int msg_read_raw(
    struct msg_reader *r, const char *field, int depth, struct slice *raw, struct err *e)
{
    const uint8_t *from = r->at;
    int rc = skip(r, field, depth < MSG_MAX_DEPTH ? depth : MSG_MAX_DEPTH, e);
    *raw = (struct slice){from, (size_t)(r->at - from)};
    return rc;
}

static int wrong_key(const char *where, struct slice key, const char *why, struct err *e)
{
    char path[ERR_FIELD_BYTES];
    int shown = key.len < sizeof path ? (int)key.len : (int)sizeof path;
    snprintf(path, sizeof path, "%s%s%.*s", where, *where ? "." : "", shown, (const char *)key.at);
    return err_field(e, ASSAY_EBADREQ, path, "%s", why);
}

int msg_read_key(struct msg_reader *r, const char *where, const char *const *names, int n_names,
    uint64_t *seen, struct err *e)
{
    struct slice key;
    if (msg_peek(r) != MSG_STR)
        return msg_unexpected(r, where, "a string as a map's key", e);
    int rc = msg_read_str(r, where, &key, e);
    if (rc != 0)
        return rc;
    for (int i = 0; i < n_names; i++) {
        if (strlen(names[i]) != key.len || memcmp(names[i], key.at, key.len) != 0)
            continue;
        if (*seen >> i & 1)
            return wrong_key(where, key, "expected once, found twice", e);
        *seen |= 1ull << i;
        return i;
    }
    return wrong_key(where, key, "unknown field", e);
}

int msg_read_end(const struct msg_reader *r, struct err *e)
{
    if (r->at == r->end)
        return 0;
    return err_set(
        e, ASSAY_EBADMSG, "expected the end of the message, found %zu bytes more", left(r));
}

/* ---- writing ---- */

static void must(int rc)
{
    if (rc != 0)
        die(71, "event=out_of_memory what=message");
}

void msg_writer_init(struct msg_writer *w)
{
    msgpack_sbuffer_init(&w->buffer);
    msgpack_packer_init(&w->packer, &w->buffer, msgpack_sbuffer_write);
}

void msg_writer_release(struct msg_writer *w)
{
    msgpack_sbuffer_destroy(&w->buffer);
}

void msg_writer_clear(struct msg_writer *w)
{
    msgpack_sbuffer_clear(&w->buffer);
}

void msg_map(struct msg_writer *w, uint32_t n)
{
    must(msgpack_pack_map(&w->packer, n));
}

void msg_array(struct msg_writer *w, uint32_t n)
{
    must(msgpack_pack_array(&w->packer, n));
}

void msg_str(struct msg_writer *w, const char *s)
{
    msg_str_len(w, s, strlen(s));
}

void msg_str_len(struct msg_writer *w, const void *s, size_t len)
{
    must(msgpack_pack_str(&w->packer, len));
    if (len > 0)
        must(msgpack_pack_str_body(&w->packer, s, len));
}

void msg_bin(struct msg_writer *w, const void *bytes, size_t len)
{
    must(msgpack_pack_bin(&w->packer, len));
    if (len > 0)
        must(msgpack_pack_bin_body(&w->packer, bytes, len));
}

void msg_int(struct msg_writer *w, int64_t v)
{
    must(msgpack_pack_int64(&w->packer, v));
}

void msg_uint(struct msg_writer *w, uint64_t v)
{
    must(msgpack_pack_uint64(&w->packer, v));
}

void msg_bool(struct msg_writer *w, int v)
{
    must(v ? msgpack_pack_true(&w->packer) : msgpack_pack_false(&w->packer));
}

void msg_float(struct msg_writer *w, float v)
{
    must(msgpack_pack_float(&w->packer, v));
}

void msg_double(struct msg_writer *w, double v)
{
    must(msgpack_pack_double(&w->packer, v));
}

void msg_nil(struct msg_writer *w)
{
    must(msgpack_pack_nil(&w->packer));
}

void msg_raw(struct msg_writer *w, struct slice raw)
{
    if (raw.len > 0)
        must(msgpack_sbuffer_write(&w->buffer, (const char *)raw.at, raw.len));
}

void msg_key_str(struct msg_writer *w, const char *key, const char *s)
{
    msg_str(w, key);
    msg_str(w, s);
}

void msg_key_int(struct msg_writer *w, const char *key, int64_t v)
{
    msg_str(w, key);
    msg_int(w, v);
}

void msg_key_bool(struct msg_writer *w, const char *key, int v)
{
    msg_str(w, key);
    msg_bool(w, v);
}

void msg_key_float(struct msg_writer *w, const char *key, float v)
{
    msg_str(w, key);
    msg_float(w, v);
}
