/* test_loop.c - the broker's loop and the disk. When it fills up in the middle of a tick, every
 * request of the tick is answered, none of them was kept, and what was accepted before is still
 * there. When it is slow, nobody hears of anything before it is synced, and when it fails, never.
 *
 * The loop runs in a child, without worker groups, on a database that may not grow beyond a number
 * of pages: SQLite then fails as on a full disk. The test is its client. Syncs of the child go
 * through here: they can be made to wait, or to fail. */
#include "broker/api/progress.h"
#include "broker/api/waiters.h"
#include "broker/broker.h"
#include "broker/loop.h"
#include "broker/store/private.h"
#include "tests/unit/store_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <zmq.h>

#include "schema/log.h"

#define PATIENCE_MS 20000

struct scene {
    char dir[64], endpoint[96], events[96];
    pid_t child;
    void *zmq, *client; /* DEALER */
};

/* What the child's syncs do; in memory that both share. */
enum disk { DISK_FINE, DISK_WAITS, DISK_FAILS };
static _Atomic int *disk; /* NULL outside of the tests that use it */

int fdatasync(int fd)
{
    while (disk && *disk == DISK_WAITS)
        usleep(1000);
    if (disk && *disk == DISK_FAILS) {
        errno = EIO;
        return -1;
    }
    return (int)syscall(SYS_fdatasync, fd);
}

/* Room for so many kilobytes more than there are. */
static void bound_database(struct store *s, int kbytes)
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
static int run_broker(const struct scene *s, int kbytes)
{
    struct options options = {.tp = 1, .max_queued_bytes = 1 << 30};
    struct broker b = {.options = &options, .waiters = waiters_new()};
    struct planner_limits limits = {4096, 1024, 4096, 4096, 4096, 0, 0};
    struct store_options store = {.mode = MODE, .digest = DIGEST};
    struct err err;
    b.model = (struct model_info){.vocab_size = 1000,
        .max_len = 1000,
        .n_labels = 1,
        .pool.type = POOL_LAST,
        .pool.activation = ACTIVATION_NONE};
    b.admit.model = &b.model;
    b.limits = (struct request_limits){1 << 20, 10000, 1000};
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
    progress_free(&b.progress);
    outbox_free(&b.outbox);
    zmq_close(b.clients);
    zmq_ctx_term(b.zmq);
    store_close(&b.store);
    admit_release(&b.admit);
    return rc == 0 ? 0 : 2;
}

static void start(struct scene *s, int kbytes)
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
static int stop(struct scene *s)
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

static int open_scene(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    snprintf(s->dir, sizeof s->dir, "/tmp/assay_turn_XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->endpoint, sizeof s->endpoint, "ipc://%s/broker.sock", s->dir);
    snprintf(s->events, sizeof s->events, "ipc://%s/events.sock", s->dir);
    *state = s;
    return 0;
}

static int close_scene(void **state)
{
    struct scene *s = *state;
    if (s->child > 0) {
        kill(s->child, SIGKILL);
        stop(s);
    }
    if (disk)
        munmap((void *)disk, sizeof *disk);
    disk = NULL;
    nftw(s->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(s);
    return 0;
}

static void begin_request(struct msg_writer *w, const char *op, int64_t id, uint32_t n_fields)
{
    msg_writer_init(w);
    msg_map(w, 3 + n_fields);
    msg_key_int(w, "v", 1);
    msg_key_str(w, "op", op);
    msg_key_int(w, "id", id);
}

static void send_request(struct scene *s, struct msg_writer *w)
{
    assert_int_equal(zmq_send(s->client, w->buffer.data, w->buffer.size, 0), (int)w->buffer.size);
    msg_writer_release(w);
}

static void write_rows(struct msg_writer *w, uint32_t n_rows)
{
    static const int32_t ids[500] = {1, 2, 3};
    msg_str(w, "rows");
    msg_array(w, n_rows);
    for (uint32_t i = 0; i < n_rows; i++) {
        msg_map(w, 1);
        msg_str(w, "ids");
        msg_bin(w, ids, sizeof ids);
    }
}

static void send_submit(struct scene *s, int64_t id, const char *key, uint32_t n_rows)
{
    struct msg_writer w;
    begin_request(&w, "submit", id, 4);
    msg_key_str(&w, "key", key);
    msg_key_int(&w, "chunk", 0);
    msg_key_bool(&w, "seal", 1);
    write_rows(&w, n_rows);
    send_request(s, &w);
}

static void send_score(struct scene *s, int64_t id, uint32_t n_rows, int64_t timeout_ms)
{
    struct msg_writer w;
    begin_request(&w, "score", id, 2);
    msg_key_int(&w, "timeout_ms", timeout_ms);
    write_rows(&w, n_rows);
    send_request(s, &w);
}

static void send_on_job(struct scene *s, const char *op, int64_t id, const char *key)
{
    struct msg_writer w;
    begin_request(&w, op, id, 1);
    msg_key_str(&w, "job", key);
    send_request(s, &w);
}

/* The next reply: its id, and its error's code or "" or a job's state. */
static int64_t hear(struct scene *s, char *word, size_t size)
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
static void hear_all(struct scene *s, int n, char words[][32])
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

static uint64_t cpu_ms(pid_t pid)
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

static void test_every_request_of_a_full_tick_is_answered(void **state)
{
    struct scene *s = *state;
    char words[12][32], word[32];
    start(s, 160); /* a few rows, and not 200 of 500 tokens */
    send_submit(s, 1, "small", 2);
    assert_int_equal(hear(s, word, sizeof word), 1);
    assert_string_equal(word, "queued");
    /* Sent at once, so that some of them share a tick. */
    send_submit(s, 1, "large", 200);
    send_score(s, 2, 1, 300);
    send_submit(s, 3, "large again", 200);
    send_on_job(s, "status", 4, "small");
    send_on_job(s, "status", 5, "large");
    send_score(s, 6, 200, 300);
    hear_all(s, 6, words);
    assert_string_equal(words[1], "queue_full");
    assert_string_equal(words[3], "queue_full");
    assert_string_equal(words[6], "queue_full");
    assert_true(strcmp(words[2], "queue_full") == 0 || strcmp(words[2], "timeout") == 0);
    assert_true(strcmp(words[4], "queue_full") == 0 || strcmp(words[4], "queued") == 0);
    assert_true(strcmp(words[5], "queue_full") == 0 || strcmp(words[5], "unknown_job") == 0);
    assert_string_equal(ask(s, "status", "large", word, sizeof word), "unknown_job");
    assert_string_equal(ask(s, "status", "small", word, sizeof word), "queued");
    /* Nobody is left who waits for a job that is not there and keeps the loop awake. */
    uint64_t before = cpu_ms(s->child);
    usleep(600000);
    assert_in_range(cpu_ms(s->child) - before, 0, 200);
    assert_int_equal(stop(s), 0);
    start(s, 0);
    assert_string_equal(ask(s, "status", "large again", word, sizeof word), "unknown_job");
    assert_string_equal(ask(s, "status", "small", word, sizeof word), "queued");
    send_submit(s, 1, "large", 200); /* the same key, refused before, is free */
    assert_int_equal(hear(s, word, sizeof word), 1);
    assert_string_equal(word, "queued");
    assert_int_equal(stop(s), 0);
}

static void test_a_cancel_that_was_undone_did_not_happen(void **state)
{
    struct scene *s = *state;
    char words[8][32], word[32];
    start(s, 160);
    send_submit(s, 1, "small", 2);
    assert_int_equal(hear(s, word, sizeof word), 1);
    send_on_job(s, "cancel", 1, "small");
    send_submit(s, 2, "large", 200);
    hear_all(s, 2, words);
    assert_string_equal(words[2], "queue_full");
    int kept = strcmp(words[1], "cancelled") == 0; /* it had a tick of its own */
    if (!kept)
        assert_string_equal(words[1], "queue_full");
    assert_string_equal(
        ask(s, "status", "small", word, sizeof word), kept ? "cancelled" : "queued");
    assert_int_equal(stop(s), 0);
}

static void test_who_waits_hears_of_the_end(void **state)
{
    struct scene *s = *state;
    char word[32];
    start(s, 0);
    send_score(s, 5, 1, 60000);
    send_on_job(s, "status", 6, "nobody");
    assert_int_equal(hear(s, word, sizeof word), 6); /* so the score was taken */
    kill(s->child, SIGTERM);
    assert_int_equal(hear(s, word, sizeof word), 5);
    assert_string_equal(word, "not_ready");
    assert_int_equal(stop(s), 0);
}

/* Nothing within a while. */
static void assert_silence(struct scene *s)
{
    zmq_pollitem_t item = {.socket = s->client, .events = ZMQ_POLLIN};
    assert_int_equal(zmq_poll(&item, 1, 300), 0);
}

static void share_disk(void)
{
    disk = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(disk != MAP_FAILED);
}

static void start_with_disk(struct scene *s)
{
    char word[32];
    share_disk();
    start(s, 0);
    send_submit(s, 1, "before", 1);
    assert_int_equal(hear(s, word, sizeof word), 1);
}

/* While a sync takes its time, requests are taken; what is told of them waits for it, in order. */
static void test_replies_wait_for_the_disk(void **state)
{
    struct scene *s = *state;
    char word[32];
    start_with_disk(s);
    *disk = DISK_WAITS;
    send_submit(s, 1, "first", 1);
    assert_silence(s);
    send_submit(s, 2, "second", 1);
    send_on_job(s, "status", 3, "first"); /* it rests on rows that are not synced either */
    assert_silence(s);
    *disk = DISK_FINE;
    for (int64_t id = 1; id <= 3; id++) {
        assert_int_equal(hear(s, word, sizeof word), id);
        assert_string_equal(word, "queued");
    }
    assert_int_equal(stop(s), 0);
}

/* Nor do those who watch hear of what is not synced. */
static void test_events_wait_for_the_disk(void **state)
{
    struct scene *s = *state;
    char word[32], key[64];
    start_with_disk(s);
    void *watcher = zmq_socket(s->zmq, ZMQ_SUB);
    zmq_pollitem_t item = {.socket = watcher, .events = ZMQ_POLLIN};
    assert_int_equal(zmq_setsockopt(watcher, ZMQ_SUBSCRIBE, "first", 5), 0);
    assert_int_equal(zmq_connect(watcher, s->events), 0);
    usleep(300000);
    *disk = DISK_WAITS;
    send_submit(s, 1, "first", 1);
    int early = zmq_poll(&item, 1, 700); /* longer than from tick to tick */
    *disk = DISK_FINE;
    int late = zmq_poll(&item, 1, PATIENCE_MS), len = zmq_recv(watcher, key, sizeof key, 0);
    zmq_close(watcher);
    assert_int_equal(hear(s, word, sizeof word), 1);
    assert_int_equal(early, 0);
    assert_int_equal(late, 1);
    assert_int_equal(len, 5);
    assert_int_equal(stop(s), 0);
}

static uint64_t resident_mb(pid_t pid)
{
    char path[64];
    unsigned long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*u %lu", &pages), 1);
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE) >> 20;
}

/* Sends until the broker takes no more for a while. */
static int send_all_it_takes(struct scene *s, int most)
{
    int timeout_ms = 500, n = 0;
    assert_int_equal(zmq_setsockopt(s->client, ZMQ_SNDTIMEO, &timeout_ms, sizeof timeout_ms), 0);
    for (int sent = 1; sent && n < most; n += sent) {
        struct msg_writer w;
        begin_request(&w, "status", 5, 1);
        msg_key_str(&w, "job", "before");
        sent = zmq_send(s->client, w.buffer.data, w.buffer.size, 0) >= 0;
        msg_writer_release(&w);
    }
    return n;
}

/* While a sync takes its time, replies do not fill the memory: requests are left where they are,
 * and the loop sleeps. None is lost to a client that listens. */
static void test_replies_that_wait_are_bounded(void **state)
{
    struct scene *s = *state;
    char word[32];
    start_with_disk(s);
    uint64_t before = resident_mb(s->child);
    *disk = DISK_WAITS;
    send_submit(s, 1, "first", 1);
    int n = send_all_it_takes(s, 1500);
    uint64_t grown = resident_mb(s->child) - before, cpu = cpu_ms(s->child);
    usleep(500000);
    cpu = cpu_ms(s->child) - cpu;
    *disk = DISK_FINE;
    assert_in_range(grown, 0, 20);
    assert_in_range(cpu, 0, 200);
    assert_int_equal(hear(s, word, sizeof word), 1);
    for (int i = 0; i < n; i++)
        assert_int_equal(hear(s, word, sizeof word), 5);
    assert_int_equal(stop(s), 0);
}

/* A transaction that changes nothing, as one of results that nobody wants any more, writes no
 * frames and syncs none: what was written before it is still not on the disk. */
static void test_a_transaction_of_nothing_syncs_nothing(void **state)
{
    struct scene *s = *state;
    struct store *store;
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    struct err err;
    int64_t job;
    uint64_t synced;
    share_disk();
    must(store_open(&store, s->dir, &options, &err));
    new_job(store, "before", 0); /* a new WAL's header is always synced */
    *disk = DISK_WAITS;
    must(store_begin_later(store, &err));
    must(store_new_job(store, slice_of("later"), 0, (struct slice){0}, &job, &err));
    must(store_commit(store, &err));
    must(store_begin(store, &err));
    must(store_commit(store, &err));
    must(store_synced(store, &synced, &err));
    *disk = DISK_FINE;
    assert_true(synced < store_written(store));
    must(store_wait_synced(store, &err));
    must(store_synced(store, &synced, &err));
    assert_int_equal(synced, store_written(store));
    store_close(&store);
}

/* Whether rows are there after a failed sync, nobody knows: no more is said than that, also to who
 * waits, and the broker ends. What was acknowledged before is there. */
static void test_a_sync_that_fails_ends_the_broker(void **state)
{
    struct scene *s = *state;
    char word[32];
    int status = 0;
    start_with_disk(s);
    send_score(s, 5, 1, 60000);
    send_on_job(s, "status", 6, "before");
    assert_int_equal(hear(s, word, sizeof word), 6); /* so the score was taken */
    *disk = DISK_FAILS;
    send_submit(s, 1, "lost", 1);
    for (int heard = 0; heard != 6; assert_string_equal(word, "not_ready"))
        heard += (int)hear(s, word, sizeof word);
    assert_int_equal(waitpid(s->child, &status, 0), s->child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 74);
    assert_silence(s);
    zmq_close(s->client);
    zmq_ctx_term(s->zmq);
    *disk = DISK_FINE;
    start(s, 0);
    assert_string_equal(ask(s, "status", "before", word, sizeof word), "queued");
    assert_int_equal(stop(s), 0);
}

/* A stop waits for the disk too, and then tells. */
static void test_a_stop_waits_for_the_disk(void **state)
{
    struct scene *s = *state;
    char word[32];
    start_with_disk(s);
    *disk = DISK_WAITS;
    send_submit(s, 1, "first", 1);
    assert_silence(s);
    kill(s->child, SIGTERM);
    assert_silence(s);
    *disk = DISK_FINE;
    assert_int_equal(hear(s, word, sizeof word), 1);
    assert_string_equal(word, "queued");
    assert_int_equal(stop(s), 0);
}

/* A client that asks and does not listen costs its replies and nobody else's. */
static void test_one_who_does_not_listen(void **state)
{
    struct scene *s = *state;
    char word[32];
    int zero = 0, one = 1;
    start(s, 0);
    void *deaf = zmq_socket(s->zmq, ZMQ_DEALER);
    zmq_setsockopt(deaf, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(deaf, ZMQ_RCVHWM, &one, sizeof one);
    assert_int_equal(zmq_connect(deaf, s->endpoint), 0);
    for (int i = 0; i < 5000; i++) {
        struct msg_writer w;
        begin_request(&w, "hello", i, 0);
        assert_true(zmq_send(deaf, w.buffer.data, w.buffer.size, 0) > 0);
        msg_writer_release(&w);
    }
    assert_string_equal(ask(s, "status", "nobody", word, sizeof word), "unknown_job");
    zmq_close(deaf);
    assert_string_equal(ask(s, "status", "nobody", word, sizeof word), "unknown_job");
    assert_int_equal(stop(s), 0);
}

/* When there is nothing to do the WAL is cut, and then the broker leaves the database alone. */
static void test_an_idle_broker_cuts_the_wal(void **state)
{
    struct scene *s = *state;
    char word[32], path[128];
    struct stat st = {.st_size = 1};
    snprintf(path, sizeof path, "%s/assay.db-wal", s->dir);
    start(s, 0);
    send_submit(s, 1, "small", 2);
    assert_int_equal(hear(s, word, sizeof word), 1);
    for (int waited_ms = 0; st.st_size > 0 && waited_ms < 6000; waited_ms += 100) {
        usleep(100000);
        assert_int_equal(stat(path, &st), 0);
    }
    assert_int_equal(st.st_size, 0);
    assert_int_equal(stop(s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_every_request_of_a_full_tick_is_answered, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_cancel_that_was_undone_did_not_happen, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_who_waits_hears_of_the_end, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_replies_wait_for_the_disk, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_events_wait_for_the_disk, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_replies_that_wait_are_bounded, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_transaction_of_nothing_syncs_nothing, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_sync_that_fails_ends_the_broker, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_a_stop_waits_for_the_disk, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_one_who_does_not_listen, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_an_idle_broker_cuts_the_wal, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
