/* bench_submit.c - rows that a queue has made durable, per second: the same client for Assay and
 * for the queues that it is compared with.
 *
 *     bench_submit assay|redis|beanstalkd ENDPOINT CONNECTIONS WINDOW SECONDS [ROWS]
 *
 * A row is 2,048 bytes: 512 token ids. It is counted once its acknowledgement has come. A batch of
 * ROWS rows, 64 by default, is sent at once. Each connection has WINDOW batches under way, and
 * sends the next one when a whole batch has been acknowledged.
 *
 *     assay       a batch is one `submit` of ROWS rows, ids as bin; ENDPOINT as libzmq names it.
 *                 The jobs are paused, so that nobody takes rows off: the others have no
 *                 consumer either
 *     redis       ROWS times XADD of one field, written at once; ENDPOINT is its unix socket's path
 *     beanstalkd  ROWS times put, written at once; likewise
 *
 * The server decides how durable an acknowledgement is: bench.py starts all three so that each one
 * is synced before it is sent. Output: one JSON line. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sysexits.h>
#include <unistd.h>
#include <zmq.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"
#include "schema/msg.h"

enum { TOKENS = 512, MAX_ROWS = 4096, MAX_CONNECTIONS = 1024, REPLY_MS = 20000 };

struct bench {
    const char *endpoint;
    int connections, window, rows; /* rows of a batch */
    long long run_ms;
    int32_t row[TOKENS];
};

static _Noreturn void failed(const char *what, const char *why)
{
    die(EX_IOERR, "event=bench_failed what=%s error=\"%s\"", what, why);
}

static double per_second(int64_t rows, long long begin_ms)
{
    return (double)rows * 1000 / (double)(now_mono_ms() - begin_ms);
}

/* ---- over a stream of bytes: Redis and beanstalkd ---- */

struct peer {
    const char *name, *head, *tail; /* of a row's command */
    int lines;                      /* of its reply */
    const char *begin;              /* what a line of a good reply begins with, one of these */
};

static const struct peer peers[] = {
    {"redis", "*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$3\r\nids\r\n$2048\r\n", "\r\n", 2,
        "$0123456789"},
    {"beanstalkd", "put 0 0 120 2048\r\n", "\r\n", 1, "I"},
};

struct stream {
    int fd;
    int lines;   /* of the batch that is being acknowledged */
    int in_line; /* the last byte read was not the end of one */
};

static struct slice make_commands(const struct bench *b, const struct peer *p)
{
    size_t head = strlen(p->head), tail = strlen(p->tail), one = head + sizeof b->row + tail;
    uint8_t *bytes = xcalloc((size_t)b->rows, one);
    for (size_t i = 0; i < (size_t)b->rows; i++) {
        memcpy(bytes + i * one, p->head, head);
        memcpy(bytes + i * one + head, b->row, sizeof b->row);
        memcpy(bytes + i * one + head + sizeof b->row, p->tail, tail);
    }
    return (struct slice){bytes, (size_t)b->rows * one};
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int room = 4 << 20;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        failed(path, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    return fd;
}

/* Replies are few bytes: what is not read yet never keeps the server from reading. */
static void send_batch(int fd, struct slice batch)
{
    for (size_t sent = 0; sent < batch.len;) {
        ssize_t n = write(fd, batch.at + sent, batch.len - sent);
        if (n < 0)
            failed("write", strerror(errno));
        sent += (size_t)n;
    }
}

/* Batches whose last acknowledgement is in what can be read now. */
static int read_replies(struct stream *s, const struct peer *p, int rows)
{
    char bytes[65536];
    int batches = 0;
    ssize_t n = read(s->fd, bytes, sizeof bytes - 1);
    if (n <= 0)
        failed("read", n < 0 ? strerror(errno) : "the server closed the connection");
    bytes[n] = '\0';
    for (ssize_t i = 0; i < n; i++) {
        if (!s->in_line && !strchr(p->begin, bytes[i]))
            failed("reply", bytes + i);
        s->in_line = bytes[i] != '\n';
        s->lines += !s->in_line;
        if (s->lines == rows * p->lines) {
            s->lines = 0;
            batches++;
        }
    }
    return batches;
}

static double run_streams(const struct bench *b, const struct peer *p)
{
    struct stream streams[MAX_CONNECTIONS] = {0};
    struct pollfd items[MAX_CONNECTIONS];
    struct slice batch = make_commands(b, p);
    int64_t rows = 0;
    for (int c = 0; c < b->connections; c++) {
        streams[c].fd = connect_to(b->endpoint);
        items[c] = (struct pollfd){.fd = streams[c].fd, .events = POLLIN};
    }
    long long begin_ms = now_mono_ms();
    for (int i = 0; i < b->connections * b->window; i++)
        send_batch(streams[i % b->connections].fd, batch);
    while (now_mono_ms() - begin_ms < b->run_ms) {
        if (poll(items, (nfds_t)b->connections, REPLY_MS) <= 0)
            failed("poll", "no reply");
        for (int c = 0; c < b->connections; c++)
            for (int n = items[c].revents ? read_replies(&streams[c], p, b->rows) : 0; n > 0; n--) {
                rows += b->rows;
                send_batch(streams[c].fd, batch);
            }
    }
    double rate = per_second(rows, begin_ms);
    for (int c = 0; c < b->connections; c++)
        close(streams[c].fd);
    free((void *)batch.at);
    return rate;
}

/* ---- over ZeroMQ: Assay ---- */

struct submitter {
    void *socket; /* DEALER */
    char key[64];
    int64_t chunk; /* the next one */
};

static void begin_request(struct msg_writer *w, uint32_t n_fields, const char *op)
{
    msg_writer_init(w);
    msg_map(w, n_fields);
    msg_key_int(w, "v", 1);
    msg_key_str(w, "op", op);
}

/* The rows of every submit, encoded. */
static void encode_rows(const struct bench *b, struct msg_writer *rows)
{
    msg_writer_init(rows);
    msg_array(rows, (uint32_t)b->rows);
    for (int i = 0; i < b->rows; i++) {
        msg_map(rows, 1);
        msg_str(rows, "ids");
        msg_bin(rows, b->row, sizeof b->row);
    }
}

static void send_request(struct submitter *s, struct msg_writer *w)
{
    if (zmq_send(s->socket, w->buffer.data, w->buffer.size, 0) < 0)
        failed("send", zmq_strerror(errno));
    msg_writer_release(w);
}

static void submit(struct submitter *s, const struct msg_writer *rows)
{
    struct msg_writer w;
    begin_request(&w, 5, "submit");
    msg_key_str(&w, "key", s->key);
    msg_key_int(&w, "chunk", s->chunk++);
    msg_str(&w, "rows");
    msg_raw(&w, (struct slice){(const uint8_t *)rows->buffer.data, rows->buffer.size});
    send_request(s, &w);
}

/* 1: an acknowledgement; 0: none is here. */
static int take_reply(struct submitter *s, int flags)
{
    static const uint8_t fine[] = "\xa2ok\xc3";
    uint8_t reply[4096];
    int n = zmq_recv(s->socket, reply, sizeof reply, flags);
    if (n < 0 && errno == EAGAIN && flags)
        return 0;
    if (n < 0 || n > (int)sizeof reply)
        failed("receive", n < 0 ? zmq_strerror(errno) : "a long reply");
    for (int i = 0; i + 4 <= n; i++)
        if (memcmp(reply + i, fine, 4) == 0)
            return 1;
    reply[n < 4095 ? n : 4095] = '\0';
    failed("reply", (const char *)reply);
}

static void pause_job(struct submitter *s)
{
    struct msg_writer w;
    begin_request(&w, 3, "pause");
    msg_key_str(&w, "job", s->key);
    send_request(s, &w);
    take_reply(s, 0);
}

/* A connection, and its job with a first chunk, paused. */
static void open_submitter(const struct bench *b, void *zmq, int number,
    const struct msg_writer *rows, struct submitter *s)
{
    int zero = 0, wait_ms = REPLY_MS;
    *s = (struct submitter){.socket = zmq_socket(zmq, ZMQ_DEALER)};
    snprintf(s->key, sizeof s->key, "bench-%d-%d", (int)getpid(), number);
    zmq_setsockopt(s->socket, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(s->socket, ZMQ_RCVTIMEO, &wait_ms, sizeof wait_ms);
    if (zmq_connect(s->socket, b->endpoint) != 0)
        failed(b->endpoint, zmq_strerror(errno));
    submit(s, rows);
    take_reply(s, 0);
    pause_job(s);
}

static int64_t run_submitters(
    const struct bench *b, struct submitter *s, const struct msg_writer *rows, long long begin_ms)
{
    zmq_pollitem_t items[MAX_CONNECTIONS];
    int64_t acknowledged = 0;
    for (int c = 0; c < b->connections; c++)
        items[c] = (zmq_pollitem_t){.socket = s[c].socket, .events = ZMQ_POLLIN};
    for (int i = 0; i < b->connections * b->window; i++)
        submit(&s[i % b->connections], rows);
    while (now_mono_ms() - begin_ms < b->run_ms) {
        if (zmq_poll(items, b->connections, REPLY_MS) <= 0)
            failed("poll", "no reply");
        for (int c = 0; c < b->connections; c++)
            while (items[c].revents && take_reply(&s[c], ZMQ_DONTWAIT)) {
                acknowledged += b->rows;
                submit(&s[c], rows);
            }
    }
    return acknowledged;
}

static double run_assay(const struct bench *b)
{
    struct submitter submitters[MAX_CONNECTIONS];
    struct msg_writer rows;
    void *zmq = zmq_ctx_new();
    zmq_ctx_set(zmq, ZMQ_MAX_SOCKETS, MAX_CONNECTIONS + 1);
    encode_rows(b, &rows);
    for (int c = 0; c < b->connections; c++)
        open_submitter(b, zmq, c, &rows, &submitters[c]);
    long long begin_ms = now_mono_ms();
    double rate = per_second(run_submitters(b, submitters, &rows, begin_ms), begin_ms);
    for (int c = 0; c < b->connections; c++)
        zmq_close(submitters[c].socket);
    zmq_ctx_term(zmq);
    msg_writer_release(&rows);
    return rate;
}

/* ---- all ---- */

/* A connection takes two descriptors and more. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static const struct peer *find_peer(const char *name)
{
    for (size_t i = 0; i < sizeof peers / sizeof peers[0]; i++)
        if (strcmp(peers[i].name, name) == 0)
            return &peers[i];
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    log_init("bench", -1, LOG_LEVEL_WARN);
    const struct peer *peer = argc >= 6 ? find_peer(argv[1]) : NULL;
    if (argc < 6 || argc > 7 || (!peer && strcmp(argv[1], "assay") != 0))
        die(EX_USAGE, "event=usage expected=\"PEER ENDPOINT CONNECTIONS WINDOW SECONDS [ROWS]\"");
    b.endpoint = argv[2];
    b.connections = atoi(argv[3]);
    b.window = atoi(argv[4]);
    b.rows = argc > 6 ? atoi(argv[6]) : 64;
    b.run_ms = (long long)(1000 * atof(argv[5]));
    if (b.connections < 1 || b.connections > MAX_CONNECTIONS || b.window < 1 || b.run_ms < 1 ||
        b.rows < 1 || b.rows > MAX_ROWS)
        die(EX_USAGE, "event=usage error=\"a number is out of range\"");
    raise_descriptor_limit();
    for (int i = 0; i < TOKENS; i++)
        b.row[i] = i % 500;
    double rate = peer ? run_streams(&b, peer) : run_assay(&b);
    printf("{\"peer\": \"%s\", \"connections\": %d, \"window\": %d, \"rows\": %d, \"rows_per_s\": "
           "%.0f}\n",
        argv[1], b.connections, b.window, b.rows, rate);
    return 0;
}
