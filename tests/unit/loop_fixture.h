/* loop_fixture.h - the broker's loop in a child, and the test as its client. There are no worker
 * groups, and the database may be bounded to a number of pages: SQLite then fails as on a full
 * disk. */
#ifndef ASSAY_LOOP_FIXTURE_H
#define ASSAY_LOOP_FIXTURE_H

#include <signal.h>
#include <sqlite3.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <zmq.h>

#include "broker/api/progress.h"
#include "broker/api/sessions.h"
#include "broker/api/waiters.h"
#include "broker/broker.h"
#include "broker/loop.h"
#include "broker/store/private.h"
#include "schema/log.h"
#include "tests/unit/store_fixture.h"

#define PATIENCE_MS 20000

struct scene {
    char dir[64], endpoint[96], events[96];
    pid_t child;
    void *zmq, *client; /* DEALER */
};

/* Room for so many kilobytes more than there are. */
static inline void bound_database(struct store *s, int kbytes)
{
    char sql[96];
    struct err err;
    int64_t n, page;
    must(store_integer(s, 0, &n, &err, "pragma page_count", ""));
    must(store_integer(s, 0, &page, &err, "pragma page_size", ""));
    snprintf(sql, sizeof sql, "pragma max_page_count=%lld", (long long)(n + kbytes * 1024 / page));
    assert_int_equal(sqlite3_exec(s->db, sql, NULL, NULL, NULL), SQLITE_OK);
}

/* In the child: a broker of its own until SIGTERM; the exit code says how it went. kbytes 0: no
 * bound. */
static inline int run_broker(const struct scene *s, int kbytes)
{
    struct options options = {.tp = 1, .max_queued_bytes = 1 << 30};
    struct broker b = {.options = &options, .waiters = waiters_new()};
    struct planner_limits limits = {4096, 1024, 4096, 4096, 4096, 0, 0};
    struct store_options store = {.mode = MODE, .digest = DIGEST};
    struct err err;
    struct served_model model = {.info = {.vocab_size = 1000,
                                     .max_len = 1000,
                                     .n_labels = 1,
                                     .pool.type = POOL_LAST,
                                     .pool.activation = ACTIVATION_NONE}};
    b.models[0] = &model;
    b.admit.model = &model.info;
    b.limits = (struct request_limits){1 << 20, 10000, 1000};
    b.sessions = sessions_new(1 << 20, &b.limits, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    log_init("test", -1, LOG_LEVEL_ERROR);
    must(store_open(&b.store, s->dir, &store, &err));
    must(planner_new(&b.planner, b.store, &limits, &err));
    if (kbytes > 0)
        bound_database(b.store, kbytes);
    b.zmq = zmq_ctx_new();
    b.clients = zmq_socket(b.zmq, ZMQ_ROUTER);
    int linger_ms =
        1000; /* as in main: what a deaf client never takes must not keep the end back */
    zmq_setsockopt(b.clients, ZMQ_LINGER, &linger_ms, sizeof linger_ms);
    b.outbox = outbox_new(b.clients);
    b.progress = progress_new(b.zmq, s->events, &err);
    if (!b.progress || zmq_bind(b.clients, s->endpoint) != 0)
        return 1;
    int rc = loop_run(&b, &err);
    planner_free(&b.planner);
    waiters_free(&b.waiters);
    sessions_free(&b.sessions);
    progress_free(&b.progress);
    outbox_free(&b.outbox);
    zmq_close(b.clients);
    zmq_ctx_term(b.zmq);
    store_close(&b.store);
    admit_release(&b.admit);
    return rc == 0 ? 0 : 2;
}

static inline void start(struct scene *s, int kbytes)
{
    s->child = fork();
    if (s->child == 0)
        _exit(run_broker(s, kbytes));
    s->zmq = zmq_ctx_new();
    s->client = zmq_socket(s->zmq, ZMQ_DEALER);
    int zero = 0;
    zmq_setsockopt(s->client, ZMQ_LINGER, &zero, sizeof zero);
    assert_int_equal(zmq_connect(s->client, s->endpoint), 0);
}

/* Its exit code. */
static inline int stop(struct scene *s)
{
    int status = 0;
    kill(s->child, SIGTERM);
    assert_int_equal(waitpid(s->child, &status, 0), s->child);
    s->child = 0;
    zmq_close(s->client);
    zmq_ctx_term(s->zmq);
    s->client = s->zmq = NULL;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static inline int open_scene(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    snprintf(s->dir, sizeof s->dir, "/tmp/assay_turn_XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->endpoint, sizeof s->endpoint, "ipc://%s/broker.sock", s->dir);
    snprintf(s->events, sizeof s->events, "ipc://%s/events.sock", s->dir);
    *state = s;
    return 0;
}

static inline int close_scene(void **state)
{
    struct scene *s = *state;
    if (s->child > 0) {
        kill(s->child, SIGKILL);
        stop(s);
    }
    nftw(s->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(s);
    return 0;
}

static inline void begin_request(
    struct msg_writer *w, const char *op, int64_t id, uint32_t n_fields)
{
    msg_writer_init(w);
    msg_map(w, 3 + n_fields);
    msg_key_int(w, "v", 1);
    msg_key_str(w, "op", op);
    msg_key_int(w, "id", id);
}

static inline void send_request(struct scene *s, struct msg_writer *w)
{
    assert_int_equal(zmq_send(s->client, w->buffer.data, w->buffer.size, 0), (int)w->buffer.size);
    msg_writer_release(w);
}

static inline void write_rows_of(struct msg_writer *w, uint32_t n_rows, uint32_t n_tokens)
{
    static const int32_t ids[500] = {1, 2, 3};
    msg_str(w, "rows");
    msg_array(w, n_rows);
    for (uint32_t i = 0; i < n_rows; i++) {
        msg_map(w, 1);
        msg_str(w, "ids");
        msg_bin(w, ids, n_tokens * sizeof *ids);
    }
}

static inline void write_rows(struct msg_writer *w, uint32_t n_rows)
{
    write_rows_of(w, n_rows, 500);
}

static inline void send_submit_of(
    struct scene *s, int64_t id, const char *key, uint32_t n_rows, uint32_t n_tokens)
{
    struct msg_writer w;
    begin_request(&w, "submit", id, 4);
    msg_key_str(&w, "key", key);
    msg_key_int(&w, "chunk", 0);
    msg_key_bool(&w, "seal", 1);
    write_rows_of(&w, n_rows, n_tokens);
    send_request(s, &w);
}

static inline void send_submit(struct scene *s, int64_t id, const char *key, uint32_t n_rows)
{
    send_submit_of(s, id, key, n_rows, 500);
}

static inline void send_score(struct scene *s, int64_t id, uint32_t n_rows, int64_t timeout_ms)
{
    struct msg_writer w;
    begin_request(&w, "score", id, 2);
    msg_key_int(&w, "timeout_ms", timeout_ms);
    write_rows(&w, n_rows);
    send_request(s, &w);
}

static inline void send_on_job(struct scene *s, const char *op, int64_t id, const char *key)
{
    struct msg_writer w;
    begin_request(&w, op, id, 1);
    msg_key_str(&w, "job", key);
    send_request(s, &w);
}

/* The next reply: its id, and its error's code or "" or a job's state. */
static inline int64_t hear(struct scene *s, char *word, size_t size)
{
    static uint8_t bytes[1 << 20];
    zmq_pollitem_t item = {.socket = s->client, .events = ZMQ_POLLIN};
    if (zmq_poll(&item, 1, PATIENCE_MS) != 1)
        fail_msg("no reply");
    int len = zmq_recv(s->client, bytes, sizeof bytes, 0);
    struct msg_reader r;
    struct slice key, text, raw;
    struct err err;
    uint32_t n, m;
    int64_t id = -1;
    *word = '\0';
    msg_reader_init(&r, bytes, (size_t)len);
    must(msg_read_map(&r, "", &n, &err));
    while (n-- > 0) {
        must(msg_read_str(&r, "", &key, &err));
        struct msg_reader value = r;
        must(msg_read_raw(&r, "", MSG_MAX_DEPTH, &raw, &err));
        if (key.len == 2 && memcmp(key.at, "id", 2) == 0)
            must(msg_read_int(&value, "id", 0, INT64_MAX, &id, &err));
        if (key.len == 3 && memcmp(key.at, "err", 3) == 0) {
            must(msg_read_map(&value, "", &m, &err));
            must(msg_read_str(&value, "", &key, &err)); /* `code` comes first */
        } else if (key.len != 5 || memcmp(key.at, "state", 5) != 0) {
            continue;
        }
        must(msg_read_str(&value, "", &text, &err));
        snprintf(word, size, "%.*s", (int)text.len, (const char *)text.at);
    }
    return id;
}

/* n replies with ids 1..n in any order; words[id]. */
static inline void hear_all(struct scene *s, int n, char words[][32])
{
    for (int i = 1; i <= n; i++)
        words[i][0] = '?';
    for (int i = 0; i < n; i++) {
        char word[32];
        int64_t id = hear(s, word, sizeof word);
        assert_in_range(id, 1, n);
        assert_int_equal(words[id][0], '?'); /* once */
        memcpy(words[id], word, sizeof word);
    }
}

static const char *ask(struct scene *s, const char *op, const char *key, char *word, size_t size)
{
    send_on_job(s, op, 99, key);
    assert_int_equal(hear(s, word, size), 99);
    return word;
}

static inline uint64_t cpu_ms(pid_t pid)
{
    char path[64];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(
        fscanf(f, "%*d %*s %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system),
        2);
    fclose(f);
    return (user + system) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

#endif
