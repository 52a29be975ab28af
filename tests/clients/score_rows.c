/* score_rows.c - a client of assayd in C: scores the rows given on the command line and prints one
 * line each. It needs libzmq and msgpack-c and nothing of Assay's:
 *
 *     cc -o score_rows score_rows.c -lzmq -lmsgpackc      (-lmsgpack-c, where it is called that)
 *     score_rows ipc://assay-data/broker.sock "The sky is blue." ids:9707,11,1879
 *
 * A row is a text, or `ids:` and token ids. Output: the row's index, and its score with the nine
 * digits that give the float32 back, or the code and message of its error. Exit codes: 0, 1 if a
 * row failed, 64 usage, 69 no reply, 70 refused, 75 try again later, 76 not a reply.
 *
 * One request: score, which submits, waits and gives the results in the order of the rows. Its key
 * makes it safe to repeat. When no reply comes, because the broker is killed and started again,
 * say, or the rows take longer than timeout_ms, the same bytes go out once more on a new socket;
 * the rows are computed once, and the request goes on waiting for them. */
#include <errno.h>
#include <inttypes.h>
#include <msgpack.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>
#include <zmq.h>

enum { TIMEOUT_MS = 2000, REPLY_MS = 3000, TRIES = 20 };

static void pack_text(msgpack_packer *p, const char *text)
{
    size_t len = strlen(text);
    msgpack_pack_str(p, len);
    msgpack_pack_str_body(p, text, len);
}

/* Numbers between commas; an array of ints (bin of little-endian int32 is the faster form). 0, or
 * -1 when that is not what stands there. */
static int pack_ids(msgpack_packer *p, const char *list)
{
    uint32_t n = *list != '\0';
    char *end;
    for (const char *at = list; *at; at++)
        n += *at == ',';
    msgpack_pack_array(p, n);
    for (uint32_t i = 0; i < n; i++, list = end + 1) {
        errno = 0;
        intmax_t id = strtoimax(list, &end, 10);
        if (end == list || errno != 0 || *end != (i + 1 < n ? ',' : '\0'))
            return -1;
        msgpack_pack_int64(p, id);
    }
    return 0;
}

static int pack_row(msgpack_packer *p, const char *row)
{
    int is_ids = strncmp(row, "ids:", 4) == 0;
    msgpack_pack_map(p, 1);
    pack_text(p, is_ids ? "ids" : "text");
    if (is_ids)
        return pack_ids(p, row + 4);
    pack_text(p, row);
    return 0;
}

/* {v: 1, op: "score", key, timeout_ms, rows: [..]} */
static int pack_request(msgpack_packer *p, int n, char **rows)
{
    char key[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(key, sizeof key, "score_rows-%ld-%jd-%ld", (long)getpid(), (intmax_t)now.tv_sec,
        now.tv_nsec);
    msgpack_pack_map(p, 5);
    pack_text(p, "v");
    msgpack_pack_int(p, 1);
    pack_text(p, "op");
    pack_text(p, "score");
    pack_text(p, "key");
    pack_text(p, key);
    pack_text(p, "timeout_ms");
    msgpack_pack_int(p, TIMEOUT_MS);
    pack_text(p, "rows");
    msgpack_pack_array(p, (size_t)n);
    for (int i = 0; i < n; i++)
        if (pack_row(p, rows[i]) != 0)
            return fprintf(
                       stderr, "score_rows: row %d: expected ids:N,N,.., found '%s'\n", i, rows[i]),
                   -1;
    return 0;
}

/* Send once, on a socket of its own. 0, or an exit code, told on stderr. */
static int ask(void *context, const char *endpoint, const msgpack_sbuffer *body, zmq_msg_t *reply)
{
    int linger = 0, wait_ms = REPLY_MS, rc = 0;
    void *socket = zmq_socket(context, ZMQ_REQ);
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    if (zmq_connect(socket, endpoint) != 0)
        rc = EX_USAGE;
    else if (zmq_send(socket, body->data, body->size, 0) < 0 || zmq_msg_recv(reply, socket, 0) < 0)
        rc = EX_UNAVAILABLE;
    if (rc != 0)
        fprintf(stderr, "score_rows: no reply from %s: %s\n", endpoint, zmq_strerror(zmq_errno()));
    zmq_close(socket);
    return rc;
}

/* The value under a key of a map; nil when there is none. */
static msgpack_object find(msgpack_object map, const char *key)
{
    msgpack_object nil = {.type = MSGPACK_OBJECT_NIL};
    for (uint32_t i = 0; map.type == MSGPACK_OBJECT_MAP && i < map.via.map.size; i++) {
        msgpack_object_kv *pair = &map.via.map.ptr[i];
        if (pair->key.type == MSGPACK_OBJECT_STR && pair->key.via.str.size == strlen(key) &&
            memcmp(pair->key.via.str.ptr, key, strlen(key)) == 0)
            return pair->val;
    }
    return nil;
}

static void print_error(FILE *out, msgpack_object error)
{
    msgpack_object code = find(error, "code"), message = find(error, "message");
    if (code.type == MSGPACK_OBJECT_STR && message.type == MSGPACK_OBJECT_STR)
        fprintf(out, "%.*s: %.*s\n", (int)code.via.str.size, code.via.str.ptr,
            (int)message.via.str.size, message.via.str.ptr);
}

/* One number, or an array of them: a model with several labels, or one with steps. */
static void print_values(msgpack_object value)
{
    uint32_t n = value.type == MSGPACK_OBJECT_ARRAY ? value.via.array.size : 1;
    for (uint32_t i = 0; i < n; i++) {
        msgpack_object *one = value.type == MSGPACK_OBJECT_ARRAY ? &value.via.array.ptr[i] : &value;
        printf("%s%.9g", i ? " " : "", one->via.f64);
    }
    printf("\n");
}

static int print_row(uint32_t i, msgpack_object row)
{
    msgpack_object error = find(row, "error"), score = find(row, "score");
    if (score.type == MSGPACK_OBJECT_NIL)
        score = find(row, "scores");
    if (score.type == MSGPACK_OBJECT_NIL)
        score = find(row, "steps");
    printf("%" PRIu32 "\t", i);
    if (error.type == MSGPACK_OBJECT_NIL)
        print_values(score);
    else
        print_error(stdout, error);
    return error.type == MSGPACK_OBJECT_NIL ? 0 : 1;
}

/* What passes with time is waited out: EX_TEMPFAIL; all else is final. */
static int refused(msgpack_object error)
{
    msgpack_object code = find(error, "code"), pause = find(error, "retry_after_ms");
    int is_timeout = code.type == MSGPACK_OBJECT_STR && code.via.str.size == 7 &&
                     memcmp(code.via.str.ptr, "timeout", 7) == 0;
    print_error(stderr, error);
    if (pause.type != MSGPACK_OBJECT_POSITIVE_INTEGER)
        return is_timeout ? EX_TEMPFAIL : EX_SOFTWARE;
    struct timespec nap = {(time_t)(pause.via.u64 / 1000), (long)(pause.via.u64 % 1000) * 1000000};
    nanosleep(&nap, NULL);
    return EX_TEMPFAIL;
}

static int print_reply(msgpack_object reply)
{
    msgpack_object ok = find(reply, "ok"), rows = find(reply, "rows");
    int failed = 0;
    if (ok.type != MSGPACK_OBJECT_BOOLEAN)
        return EX_PROTOCOL;
    if (!ok.via.boolean)
        return refused(find(reply, "err"));
    for (uint32_t i = 0; rows.type == MSGPACK_OBJECT_ARRAY && i < rows.via.array.size; i++)
        failed |= print_row(i, rows.via.array.ptr[i]);
    return failed;
}

static int score_once(void *context, const char *endpoint, const msgpack_sbuffer *body)
{
    zmq_msg_t reply;
    msgpack_unpacked decoded;
    zmq_msg_init(&reply);
    msgpack_unpacked_init(&decoded);
    int rc = ask(context, endpoint, body, &reply);
    if (rc == 0)
        rc = msgpack_unpack_next(&decoded, zmq_msg_data(&reply), zmq_msg_size(&reply), NULL) ==
                     MSGPACK_UNPACK_SUCCESS
                 ? print_reply(decoded.data)
                 : EX_PROTOCOL;
    msgpack_unpacked_destroy(&decoded);
    zmq_msg_close(&reply);
    return rc;
}

static int score(const char *endpoint, const msgpack_sbuffer *body)
{
    void *context = zmq_ctx_new();
    int rc = EX_UNAVAILABLE;
    for (int i = 0; i < TRIES && (rc == EX_UNAVAILABLE || rc == EX_TEMPFAIL); i++)
        rc = score_once(context, endpoint, body);
    zmq_ctx_term(context);
    return rc;
}

/* ipc://PATH or tcp://HOST:PORT. ZeroMQ reads more into such a text: abstract sockets, wildcards,
 * an address to come from before a ';'. */
static int is_endpoint(const char *text)
{
    size_t n = strlen(text);
    const char *colon = strrchr(text, ':');
    if (strncmp(text, "ipc://", 6) == 0)
        return n > 6 && text[6] != '@' && text[6] != '*' && text[n - 1] != '/';
    return n > 6 && strncmp(text, "tcp://", 6) == 0 && !strpbrk(text + 6, ";*@") &&
           colon > text + 6 && colon[1] >= '1' && colon[1] <= '9';
}

int main(int argc, char **argv)
{
    msgpack_sbuffer body;
    msgpack_packer packer;
    int rc = EX_USAGE;
    if (argc < 3) {
        fprintf(stderr, "score_rows: expected ENDPOINT and rows: a text, or ids:N,N,..\n");
        return EX_USAGE;
    }
    if (!is_endpoint(argv[1])) {
        fprintf(
            stderr, "score_rows: expected ipc:///PATH or tcp://HOST:PORT, found '%s'\n", argv[1]);
        return EX_USAGE;
    }
    msgpack_sbuffer_init(&body);
    msgpack_packer_init(&packer, &body, msgpack_sbuffer_write);
    if (pack_request(&packer, argc - 2, argv + 2) == 0)
        rc = score(argv[1], &body);
    msgpack_sbuffer_destroy(&body);
    return rc;
}
