/* frames.c - a state machine over the bytes of a ZMTP stream: greeting, flags, length, body
 * (frames.h). */
#include "broker/api/frames.h"

#include <string.h>

enum place { GREETING, FLAGS, LENGTH, BODY };
enum part { COMMAND_SIZE, COMMAND, NAME_SIZE, NAME, VALUE_SIZE, VALUE };

enum { SIGNATURE_BYTES = 10, GREETING_2_BYTES = 12, GREETING_3_BYTES = 64 };
enum { FLAG_MORE = 1, FLAG_LONG = 2, FLAG_COMMAND = 4 };

#define TOPIC_BYTES 64                /* libzmq's memory for a topic of any length */
#define MAX_HANDSHAKE_BYTES (8 << 10) /* libzmq keeps the properties as long as the connection */
#define MAX_COMMAND_BYTES (4 << 10)   /* a heartbeat has 20 at most */

static int greet(struct frames *f, uint8_t byte)
{
    if (f->n == 0 && byte != 0xff) /* ZMTP 1, without a signature */
        return -1;
    if (f->n == SIGNATURE_BYTES - 1 && !(byte & 1))
        return -1;
    if (f->n == SIGNATURE_BYTES && byte == 0)
        return -1;
    if (f->n == SIGNATURE_BYTES)
        f->version = byte == 1 ? 2 : 3;
    if (++f->n == (f->version == 2 ? GREETING_2_BYTES : GREETING_3_BYTES))
        f->place = FLAGS;
    return 0;
}

/* The head of a frame is complete. libzmq keeps the frames of a message until the last one; a
 * command (a heartbeat) may come between them and does not end the message. */
static int begin_body(struct frames *f, uint64_t max_bytes)
{
    f->place = BODY;
    f->part = COMMAND_SIZE;
    f->left = f->number;
    if (!f->is_ready)
        return f->left > MAX_HANDSHAKE_BYTES ? -1 : 0;
    if (f->is_subscriber) /* see count_topic */
        return 0;
    if (f->flags & FLAG_COMMAND)
        return f->flags & FLAG_MORE || f->left > MAX_COMMAND_BYTES ? -1 : 0;
    if (f->left > max_bytes || f->held + f->left + FRAMES_EACH_BYTES > max_bytes)
        return -1;
    f->held += f->left + FRAMES_EACH_BYTES;
    return 0;
}

static int hides_routing_id(const struct frames *f)
{
    return f->version == 2 && !f->is_ready;
}

/* Reads a byte of flags or length, and leaves in it what libzmq is to see. */
static int read_head(struct frames *f, uint8_t *byte, uint64_t max_bytes)
{
    if (f->place == FLAGS) {
        f->flags = *byte;
        f->n = 0;
        f->number = 0;
        f->place = LENGTH;
        if (hides_routing_id(f))
            *byte &= FLAG_LONG;
        return 0;
    }
    f->number = f->number << 8 | *byte;
    if (hides_routing_id(f))
        *byte = 0;
    return ++f->n == (f->flags & FLAG_LONG ? 8 : 1) ? begin_body(f, max_bytes) : 0;
}

/* At the first byte of a frame's body, counts a topic that is added or removed, by a message or
 * (ZMTP 3.1) by a command. PING and PONG name no topic; clients that do not subscribe send no other
 * commands. Removals count too, or removing topics never asked for would make room. */
static int count_topic(struct frames *f, uint8_t first)
{
    int is_first = f->is_ready && f->left == f->number;
    int is_heartbeat = f->flags & FLAG_COMMAND && first == strlen("PING");
    if (!is_first || is_heartbeat)
        return 0;
    if (!f->is_subscriber)
        return f->flags & FLAG_COMMAND ? -1 : 0; /* libzmq would take it for a message */
    f->held += TOPIC_BYTES;
    if (f->left > FRAMES_SUBSCRIPTION_BYTES || f->held + f->left > FRAMES_SUBSCRIPTION_BYTES)
        return -1;
    f->held += f->left;
    return 0;
}

static void begin_part(struct frames *f, enum part part, uint64_t bytes)
{
    f->part = part;
    f->part_left = bytes;
    f->number = f->n = 0;
}

/* Reads a byte of READY's body: its name, then names and values, each after its length. */
static void read_ready(struct frames *f, uint8_t *byte)
{
    switch ((enum part)f->part) {
    case COMMAND_SIZE:
        begin_part(f, *byte ? COMMAND : NAME_SIZE, *byte);
        break;
    case NAME_SIZE:
        begin_part(f, *byte ? NAME : VALUE_SIZE, *byte);
        f->number = *byte;
        break;
    case NAME:
        if (f->part_left == f->number && f->number == strlen("Identity") && (*byte | 32) == 'i')
            *byte = 'X';
        if (--f->part_left == 0)
            begin_part(f, VALUE_SIZE, 0);
        break;
    case VALUE_SIZE:
        f->number = f->number << 8 | *byte;
        if (++f->n == 4)
            begin_part(f, f->number ? VALUE : NAME_SIZE, f->number);
        break;
    case COMMAND:
    case VALUE:
        if (--f->part_left == 0)
            begin_part(f, NAME_SIZE, 0);
    }
}

/* Returns how many of the body's bytes were read; *dropped: libzmq is not to see them. */
static size_t read_body(struct frames *f, uint8_t *bytes, size_t n, int *dropped)
{
    size_t passed = f->left < n ? (size_t)f->left : n;
    *dropped = hides_routing_id(f);
    for (size_t i = 0; i < passed && !f->is_ready && !*dropped; i++)
        read_ready(f, bytes + i);
    f->left -= passed;
    return passed;
}

static void end_body(struct frames *f)
{
    if (f->is_ready && !f->is_subscriber && !(f->flags & (FLAG_MORE | FLAG_COMMAND))) {
        f->done += f->held;
        f->held = 0;
    }
    f->is_ready = 1;
    f->place = FLAGS;
}

long frames_pass(struct frames *f, uint8_t *bytes, size_t n, uint64_t max_bytes)
{
    size_t kept = 0;
    for (size_t i = 0, passed; i < n; i += passed) {
        int rc = 0, dropped = 0;
        passed = 1;
        if (f->place == GREETING)
            rc = greet(f, bytes[i]);
        else if (f->place == BODY && (rc = count_topic(f, bytes[i])) == 0)
            passed = read_body(f, bytes + i, n - i, &dropped);
        else if (f->place != BODY)
            rc = read_head(f, bytes + i, max_bytes);
        if (rc != 0)
            return -1;
        if (f->place == BODY && f->left == 0)
            end_body(f);
        if (dropped)
            continue;
        if (kept != i)
            memmove(bytes + kept, bytes + i, passed);
        kept += passed;
    }
    return (long)kept;
}
