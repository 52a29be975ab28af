/* fuzz_msg.c - the pull decoder by itself, against msgpack-c as the judge: a value that
 * msg_read_raw takes is one that msgpack-c takes too, of the same length. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>

/* Each reader on the first value: never past the end, and only forward. */
static void try_readers(const uint8_t *bytes, size_t len)
{
    struct msg_reader start, r;
    struct err e;
    struct slice s;
    uint32_t n;
    uint64_t u;
    int64_t v;
    double d;
    int flag;
    msg_reader_init(&start, bytes, len);
    r = start;
    if (msg_read_map(&r, "f", &n, &e) == 0)
        assert(n <= len / 2);
    r = start;
    if (msg_read_array(&r, "f", &n, &e) == 0)
        assert(n <= len);
    r = start;
    if (msg_read_str(&r, "f", &s, &e) == 0)
        assert(s.at >= r.begin && s.at + s.len <= r.end && r.at == s.at + s.len);
    r = start;
    if (msg_read_bin(&r, "f", &s, &e) == 0)
        assert(s.at >= r.begin && s.at + s.len <= r.end && r.at == s.at + s.len);
    r = start;
    if (msg_read_int(&r, "f", -5, 5, &v, &e) == 0)
        assert(v >= -5 && v <= 5);
    r = start;
    (void)msg_read_uint64(&r, "f", &u, &e);
    r = start;
    (void)msg_read_float(&r, "f", &d, &e);
    r = start;
    (void)msg_read_bool(&r, "f", &flag, &e);
    assert(r.at <= r.end);
}

static void read_all(const uint8_t *bytes, size_t len)
{
    struct msg_reader r;
    struct err e;
    struct slice raw;
    msg_reader_init(&r, bytes, len);
    while (msg_read_raw(&r, "f", MSG_MAX_DEPTH, &raw, &e) == 0) {
        msgpack_unpacked value;
        size_t used = 0;
        assert(raw.len > 0 && raw.at + raw.len == r.at);
        msgpack_unpacked_init(&value);
        int rc = msgpack_unpack_next(&value, (const char *)raw.at, raw.len, &used);
        assert(rc == MSGPACK_UNPACK_SUCCESS && used == raw.len);
        msgpack_unpacked_destroy(&value);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    try_readers(bytes, len);
    read_all(bytes, len);
    return 0;
}

static void seed_nested(struct msg_writer *w)
{
    for (int i = 0; i < MSG_MAX_DEPTH - 1; i++) {
        if (i % 2) {
            msg_array(w, 1);
        } else {
            msg_map(w, 1);
            msg_str(w, "k");
        }
    }
    msg_array(w, 3);
    msg_str(w, "h\xc3\xa9 \xf0\x9f\x98\x80");
    msg_bin(w, "\0\xff", 2);
    msg_nil(w);
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    static const int64_t numbers[] = {0, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, INT64_MAX,
        -1, -32, -33, -128, -129, -32769, INT32_MIN, INT64_MIN};
    if (n == 0) {
        seed_nested(w);
        return 1;
    }
    if (n == 1)
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
            msg_int(w, numbers[i]);
    if (n == 2) {
        msg_bool(w, 0);
        msg_bool(w, 1);
        msg_float(w, -0.5f);
        msg_uint(w, UINT64_MAX);
        msg_raw(w, (struct slice){(const uint8_t *)"\xcb\x3f\xf0\0\0\0\0\0\0", 9});
    }
    return n <= 2;
}
