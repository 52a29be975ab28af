/* msg.h - reads and writes msgpack.
 *
 * Reading untrusted bytes: struct msg_reader is a pull decoder. It allocates nothing, recurses only
 * in msg_read_raw (to MSG_MAX_DEPTH), and trusts no length: a string, bin, array or map that cannot
 * fit in the bytes left is refused. The caller knows the schema and pulls what must come next;
 * anything else is an error that names the field, what was expected and what was found. Slices
 * point into the message and are valid as long as it is. The work is linear in the message's bytes:
 * a value has at least one byte.
 *
 * Writing: struct msg_writer is msgpack-c's packer on a growing buffer, with helpers for maps with
 * string keys. It dies when memory runs out; the broker bounds the sizes of its replies.
 *
 * LIMITS: integers are not read as floats; extension types and map keys other than strings are
 * refused. */
#ifndef ASSAY_MSG_H
#define ASSAY_MSG_H

#include <stddef.h>
#include <stdint.h>
#include <msgpack.h>

#include "schema/err.h"

#define MSG_MAX_DEPTH 6

/* Borrowed bytes. at == NULL means absent. */
struct slice {
    const uint8_t *at;
    size_t len;
};

struct slice slice_of(const char *text); /* text may be NULL */
int slice_is(struct slice s, const char *text);
int slice_is_same(struct slice a, struct slice b); /* absent is the same as empty */

enum msg_type {
    MSG_END, /* no bytes left */
    MSG_NIL,
    MSG_BOOL,
    MSG_INT, /* signed or unsigned integer */
    MSG_FLOAT,
    MSG_STR,
    MSG_BIN,
    MSG_ARRAY,
    MSG_MAP,
    MSG_INVALID, /* extension types and the reserved byte 0xc1 */
};

struct msg_reader {
    const uint8_t *begin, *at, *end;
};

void msg_reader_init(struct msg_reader *r, const uint8_t *bytes, size_t len);
enum msg_type msg_peek(const struct msg_reader *r);
const char *msg_type_name(enum msg_type type);

/* The error for a value that is next and should not be: names `expected` and the type found;
 * ASSAY_EBADMSG at the end of the message or where no value can begin, else ASSAY_EBADREQ. */
int msg_unexpected(
    const struct msg_reader *r, const char *field, const char *expected, struct err *e);

/* Each reads one value of that type and moves on; 0, or ASSAY_EBADMSG (bytes are not msgpack, or
 * end too early) or ASSAY_EBADREQ (another type, or out of range) with e->field = field. Counts of
 * containers are checked against the bytes left (one per array element, two per map entry). Strings
 * are checked to be UTF-8. */
int msg_read_map(struct msg_reader *r, const char *field, uint32_t *n, struct err *e);
int msg_read_array(struct msg_reader *r, const char *field, uint32_t *n, struct err *e);
int msg_read_str(struct msg_reader *r, const char *field, struct slice *s, struct err *e);
/* A string of any bytes: a text that is judged later. */
int msg_read_text(struct msg_reader *r, const char *field, struct slice *s, struct err *e);
int msg_read_bin(struct msg_reader *r, const char *field, struct slice *s, struct err *e);
int msg_read_bool(struct msg_reader *r, const char *field, int *value, struct err *e);
int msg_read_int(struct msg_reader *r, const char *field, int64_t min, int64_t max, int64_t *value,
    struct err *e);
/* Any integer; one above INT64_MAX reads as INT64_MAX. */
int msg_read_int_saturated(struct msg_reader *r, const char *field, int64_t *value, struct err *e);
int msg_read_uint64(struct msg_reader *r, const char *field, uint64_t *value, struct err *e);
int msg_read_float(struct msg_reader *r, const char *field, double *value, struct err *e);

/* Reads one whole value of any type as its bytes; checks form, depth (at most `depth`, itself at
 * most MSG_MAX_DEPTH) and UTF-8 inside. */
int msg_read_raw(
    struct msg_reader *r, const char *field, int depth, struct slice *raw, struct err *e);

/* Reads one map key out of names[0..n_names-1] (n_names <= 64). Returns its index, or a negative
 * code for an unknown key or one whose bit is set in *seen already. `where` is the path of the map
 * ("rows[3]", "" at the top), used to name the key. */
int msg_read_key(struct msg_reader *r, const char *where, const char *const *names, int n_names,
    uint64_t *seen, struct err *e);

/* Returns 0 when every byte was read, else ASSAY_EBADMSG with the number of trailing bytes. */
int msg_read_end(const struct msg_reader *r, struct err *e);

struct msg_writer {
    msgpack_sbuffer buffer; /* .data, .size: the message so far */
    msgpack_packer packer;
};

void msg_writer_init(struct msg_writer *w);
void msg_writer_release(struct msg_writer *w);
void msg_writer_clear(struct msg_writer *w);
void msg_map(struct msg_writer *w, uint32_t n);
void msg_array(struct msg_writer *w, uint32_t n);
void msg_str(struct msg_writer *w, const char *s);
void msg_str_len(struct msg_writer *w, const void *s, size_t len);
void msg_bin(struct msg_writer *w, const void *bytes, size_t len);
void msg_int(struct msg_writer *w, int64_t v);
void msg_uint(struct msg_writer *w, uint64_t v);
void msg_bool(struct msg_writer *w, int v);
void msg_float(struct msg_writer *w, float v); /* always float 32 */
void msg_double(struct msg_writer *w, double v);
void msg_nil(struct msg_writer *w);
void msg_raw(struct msg_writer *w, struct slice raw); /* bytes that are msgpack already */
/* A key and its value in one call. */
void msg_key_str(struct msg_writer *w, const char *key, const char *s);
void msg_key_int(struct msg_writer *w, const char *key, int64_t v);
void msg_key_bool(struct msg_writer *w, const char *key, int v);
void msg_key_float(struct msg_writer *w, const char *key, float v);

#endif
