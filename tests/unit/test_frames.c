/* test_frames.c - a client's bytes: what libzmq sees of them is the same however they come in
 * pieces, and nothing of it is without end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "broker/api/frames.h"

#define LIMIT 100000

struct stream {
    uint8_t bytes[1 << 16];
    size_t n;
};

static void put(struct stream *s, const void *bytes, size_t n)
{
    memcpy(s->bytes + s->n, bytes, n);
    s->n += n;
}

static void put_frame(struct stream *s, uint8_t flags, const void *body, size_t n)
{
    uint8_t head[9] = {flags, (uint8_t)n};
    if (n > 255)
        head[0] |= 2;
    for (int i = 0; n > 255 && i < 8; i++)
        head[1 + i] = (uint8_t)((uint64_t)n >> (56 - 8 * i));
    put(s, head, n > 255 ? 9 : 2);
    put(s, body, n);
}

static void put_greeting(struct stream *s, uint8_t revision)
{
    uint8_t greeting[64] = {0xff, [8] = 1, [9] = 0x7f, [10] = revision, [11] = 5};
    put(s, greeting, revision == 1 ? 12 : 64);
}

static void put_ready(struct stream *s, const char *name)
{
    struct stream body = {.n = 0};
    static const char head[] = "\5READY\0\0\0\0\2\1\2\13Socket-Type\0\0\0\6DEALER\10";
    put(&body, head, sizeof head - 1);
    put(&body, name, 8);
    put(&body, "\0\0\0\10Identity", 12); /* a value of that text stays */
    put(&body, "\10Resource\0\0\0\0", 13);
    put_frame(s, 4, body.bytes, body.n);
}

static void put_messages(struct stream *s)
{
    static const uint8_t body[3000] = {8, 'I', 'd'};
    for (size_t n = 0; n < 600; n += 51) {
        put_frame(s, 1, body, n);
        put_frame(s, 4, "\4PING\0\0", 7);
        put_frame(s, 0, body, 5 * n);
    }
}

/* In pieces of 1 to `most` bytes. Returns how many bytes libzmq sees, or -1. */
static long pass(struct stream *s, size_t most, struct stream *seen)
{
    struct frames f = {0};
    seen->n = 0;
    for (size_t at = 0, n; at < s->n; at += n) {
        uint8_t piece[sizeof s->bytes];
        n = 1 + (size_t)rand() % most;
        n = n < s->n - at ? n : s->n - at;
        memcpy(piece, s->bytes + at, n);
        long kept = frames_pass(&f, piece, n, LIMIT);
        if (kept < 0)
            return -1;
        assert_in_range(kept, 0, n);
        put(seen, piece, (size_t)kept);
    }
    return (long)seen->n;
}

static void assert_seen(struct stream *s, const struct stream *expected)
{
    static const size_t pieces[] = {1, 2, 3, 10, 100, 5000, sizeof s->bytes};
    struct stream *seen = calloc(1, sizeof *seen);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        assert_int_equal(pass(s, pieces[i], seen), expected->n);
        assert_memory_equal(seen->bytes, expected->bytes, expected->n);
    }
    free(seen);
}

static void a_name_is_hidden(void **state)
{
    struct stream *s = calloc(2, sizeof *s), *expected = s + 1;
    (void)state;
    put_greeting(s, 3);
    put_greeting(expected, 3);
    put_ready(s, "Identity");
    put_ready(expected, "Xdentity");
    put_messages(s);
    put_messages(expected);
    assert_seen(s, expected);
    free(s);
}

static void others_stay(void **state)
{
    struct stream *s = calloc(1, sizeof *s);
    (void)state;
    put_greeting(s, 3);
    put_ready(s, "Whatever");
    put_messages(s);
    assert_seen(s, s);
    free(s);
}

static void a_frame_of_name_is_emptied(void **state)
{
    static const uint8_t name[300] = {1, 2, 3};
    struct stream *s = calloc(2, sizeof *s), *expected = s + 1;
    (void)state;
    for (size_t n = 0; n <= sizeof name; n += 50) {
        s->n = expected->n = 0;
        put_greeting(s, 1);
        put_greeting(expected, 1);
        put_frame(s, 5, name, n);
        put(expected, n > 255 ? "\2\0\0\0\0\0\0\0\0" : "\0\0", n > 255 ? 9 : 2);
        put_messages(s);
        put_messages(expected);
        assert_seen(s, expected);
    }
    free(s);
}

/* How many of these frames of n bytes are taken. */
static int taken_of(struct frames f, uint8_t flags, size_t n, uint8_t between)
{
    static const uint8_t body[60000];
    struct stream *s = calloc(1, sizeof *s);
    int count = 0;
    put_greeting(s, 3);
    put_ready(s, "Identity");
    while (count < 10000 && frames_pass(&f, s->bytes, s->n, LIMIT) == (long)s->n) {
        s->n = 0;
        put_frame(s, flags, body, n);
        if (between != 0xff)
            put_frame(s, between, body, 1);
        count++;
    }
    free(s);
    return count - 1;
}

static int taken(uint8_t flags, size_t n, uint8_t between)
{
    return taken_of((struct frames){0}, flags, n, between);
}

static void topics_without_end_end(void **state)
{
    static const uint8_t ping[] = "\4PING\0";
    struct frames f = {.is_subscriber = 1};
    struct stream *s = calloc(1, sizeof *s);
    int limit = FRAMES_SUBSCRIPTION_BYTES / 1000;
    (void)state;
    assert_int_equal(taken_of(f, 0, 936, 0xff), limit);
    assert_int_equal(taken_of(f, 1, 936, 0xff), limit);
    assert_int_equal(taken_of(f, 4, 936, 0xff), limit); /* in commands, as of ZMTP 3.1 */
    put_greeting(s, 3);
    put_ready(s, "Identity");
    for (int i = 0; i < FRAMES_SUBSCRIPTION_BYTES; i++, s->n = 0) {
        if (i > 0)
            put_frame(s, 4, ping, sizeof ping);
        assert_int_equal(frames_pass(&f, s->bytes, s->n, LIMIT), (long)s->n);
    }
    free(s);
}

static void a_message_without_end_ends(void **state)
{
    (void)state;
    assert_int_equal(taken(1, 60000, 0xff), 1);
    assert_int_equal(taken(1, 936, 0xff), LIMIT / (FRAMES_EACH_BYTES + 936));
    assert_int_equal(taken(1, 0, 0xff), LIMIT / FRAMES_EACH_BYTES);
    assert_int_equal(taken(5, 936, 0xff), 0); /* a command has no more */
    assert_int_equal(taken(1, 936, 0), 9999); /* messages that end */
    assert_int_equal(taken(0, 60000, 0xff), 9999);
    assert_int_equal(taken(4, 936, 0xff), 0); /* no heartbeat */
}

/* What a message takes is counted from its frame's head on, and is done with its last frame;
 * heartbeats are no part. */
static void messages_are_counted(void **state)
{
    static const uint8_t body[3000], ping[] = "\4PING\0";
    struct frames f = {0};
    struct stream *s = calloc(1, sizeof *s);
    (void)state;
    put_greeting(s, 3);
    put_ready(s, "Identity");
    put_frame(s, 1, body, 100);
    put_frame(s, 4, ping, sizeof ping);
    assert_int_equal(frames_pass(&f, s->bytes, s->n, LIMIT), (long)s->n);
    assert_int_equal(f.held, FRAMES_EACH_BYTES + 100);
    s->n = 0;
    put_frame(s, 0, body, sizeof body);
    assert_int_equal(frames_pass(&f, s->bytes, 20, LIMIT), 20);
    assert_int_equal(f.held, 2 * FRAMES_EACH_BYTES + 3100);
    assert_int_equal(f.done, 0);
    assert_int_equal(frames_pass(&f, s->bytes + 20, s->n - 20, LIMIT), (long)s->n - 20);
    assert_int_equal(f.held, 0);
    assert_int_equal(f.done, 2 * FRAMES_EACH_BYTES + 3100);
    free(s);
}

static void what_is_not_spoken_ends(void **state)
{
    static const uint8_t zeros[12] = {0};
    struct stream s, seen;
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        s.n = 0;
        put_greeting(&s, kind == 3 ? 0 : 3);
        if (kind == 0)
            s.bytes[0] = 1;
        if (kind == 1)
            s.bytes[9] = 0x7e;
        if (kind == 2)
            put(&s, "\6\0\0\0\0\0\1\0\1", 9); /* a handshake of 65537 bytes */
        put(&s, zeros, sizeof zeros);
        assert_int_equal(pass(&s, 1, &seen), -1);
        assert_int_equal(pass(&s, sizeof s.bytes, &seen), -1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_name_is_hidden),
        cmocka_unit_test(others_stay),
        cmocka_unit_test(a_frame_of_name_is_emptied),
        cmocka_unit_test(a_message_without_end_ends),
        cmocka_unit_test(messages_are_counted),
        cmocka_unit_test(topics_without_end_end),
        cmocka_unit_test(what_is_not_spoken_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
