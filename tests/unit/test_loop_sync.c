/* test_loop_sync.c - the broker's loop and a slow disk, or one that fails: nobody hears of anything
 * before it is synced, and if that fails, never. Syncs of the broker go through here: they can be
 * made to wait, or to fail. */
#include "tests/unit/loop_fixture.h"

#include <errno.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* What the child's syncs do; in memory that both share. */
enum disk { DISK_FINE, DISK_WAITS, DISK_FAILS, DISK_FAILS_DATABASE };
static _Atomic int *disk; /* NULL outside of the tests that use it */

static _Atomic int somebody_waits;                /* in this process */
static _Atomic int n_database_syncs, n_log_syncs; /* also in this process */

static int is_file(int fd, const char *end)
{
    char name[64], path[512];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(name, path, sizeof path), m = (ssize_t)strlen(end);
    return n >= m && memcmp(path + n - m, end, (size_t)m) == 0;
}

static int is_database(int fd)
{
    return is_file(fd, "/assay.db");
}

int fdatasync(int fd)
{
    for (; disk && *disk == DISK_WAITS; usleep(1000))
        somebody_waits = 1;
    if (disk && (*disk == DISK_FAILS || (*disk == DISK_FAILS_DATABASE && is_database(fd)))) {
        errno = EIO;
        return -1;
    }
    n_database_syncs += is_database(fd);
    n_log_syncs += is_file(fd, "/assay.db-wal");
    return (int)syscall(SYS_fdatasync, fd);
}

static _Atomic int cuts_slowly, n_cuts, n_log_syncs_before; /* also in this process */

int ftruncate(int fd, off_t size)
{
    if (n_cuts++ == 0)
        n_log_syncs_before = n_log_syncs;
    usleep(cuts_slowly ? 200000 : 0);
    return (int)syscall(SYS_ftruncate, fd, size);
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

static int close_disk(void **state)
{
    int rc = close_scene(state);
    if (disk)
        munmap((void *)disk, sizeof *disk);
    disk = NULL;
    return rc;
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

static struct store *open_store(const struct scene *s)
{
    struct store *store;
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    struct err err;
    must(store_open(&store, s->dir, &options, &err));
    return store;
}

/* A transaction that changes nothing, as one of results that nobody wants any more, writes no
 * frames and syncs none: what was written before it is still not on the disk. */
static void test_a_transaction_of_nothing_syncs_nothing(void **state)
{
    struct scene *s = *state;
    struct store *store;
    struct err err;
    int64_t job = 0;
    uint64_t synced;
    share_disk();
    store = open_store(s);
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

static void write_a_little(struct store *store, const char *key)
{
    struct err err;
    int64_t job = 0;
    must(store_begin_later(store, &err));
    must(store_new_job(store, slice_of(key), 0, (struct slice){0}, &job, &err));
    must(store_commit(store, &err));
}

/* Has what is left of the log copied, and writes to it before the thread is done. */
static void write_while_it_copies(struct store *store)
{
    *disk = DISK_WAITS;
    somebody_waits = 0;
    store_tend(store);
    while (!somebody_waits)
        usleep(1000);
    write_a_little(store, "meanwhile");
}

/* The log is copied into the database, and both are synced, beside the loop's work. */
static void test_copying_the_log_holds_nobody(void **state)
{
    struct scene *s = *state;
    struct store *store;
    struct err err;
    uint64_t synced;
    share_disk();
    store = open_store(s);
    int64_t job = new_job(store, "before", 0);
    *disk = DISK_WAITS;
    alarm(PATIENCE_MS / 1000); /* or it would wait for ever */
    for (uint32_t chunk = 0; store_wal_bytes(store) < 64 << 20; chunk++) {
        must(store_begin_later(store, &err));
        assert_int_equal(add_chunk(store, job, chunk, 4, 1 << 20, 0), CHUNK_IN_ORDER);
        must(store_commit(store, &err));
        store_tend(store);
        store_idle(store);
    }
    *disk = DISK_FINE;
    store_copier_wait(store);
    write_while_it_copies(store);
    *disk = DISK_FINE;
    store_copier_wait(store);
    *disk = DISK_WAITS;
    store_tend(store); /* has the last pages copied */
    assert_true(store_large_waits(store));
    *disk = DISK_FINE;
    alarm(0);
    new_job(store, "after", 0); /* waits until they are */
    store_tend(store);
    assert_in_range(store->wal_pages, 1, 100); /* it was begun anew */
    must(store_wait_synced(store, &err));
    idle(store);
    *disk = DISK_WAITS;
    alarm(PATIENCE_MS / 1000);
    store_idle(store); /* empties it */
    must(store_synced(store, &synced, &err));
    assert_true(store_wal_bytes(store) > 0);
    *disk = DISK_FINE;
    alarm(0);
    new_job(store, "then", 0); /* waits until it is empty */
    assert_in_range(store->wal_pages, 1, 100);
    store_close(&store);
}

/* Has the log emptied, and begins to cut its file, slowly. What makes it empty is synced before. */
static void cut_slowly(struct store *store)
{
    int before = n_log_syncs;
    cuts_slowly = 1;
    n_cuts = 0;
    alarm(PATIENCE_MS / 1000);
    store_idle(store);
    while (n_cuts == 0)
        usleep(1000);
    alarm(0);
    assert_true(n_log_syncs_before > before);
}

static void write_while_it_is_cut(struct store *store)
{
    cut_slowly(store);
    write_a_little(store, "meanwhile");
    cuts_slowly = 0;
    assert_true(store_wal_bytes(store) > 8 << 20); /* a part or two are cut, of ten */
    assert_in_range(store->wal_pages, 1, 100);
}

/* As a kill would leave it now, it is whole. */
static void open_copy(const struct scene *s, int64_t job, int64_t n_rows)
{
    struct scene copy;
    char command[300];
    make_dir(copy.dir);
    snprintf(command, sizeof command, "cd %.63s && cp assay.db assay.db-wal synced %.63s", s->dir,
        copy.dir);
    assert_int_equal(system(command), 0);
    struct store *store = open_store(&copy);
    assert_int_equal(job_now(store, job).accepted, n_rows);
    store_close(&store);
    remove_dir(copy.dir);
}

/* Who writes does not wait until the file of a log that was emptied is cut. */
static void test_cutting_the_log_holds_nobody(void **state)
{
    struct scene *s = *state;
    struct store *store = open_store(s);
    struct err err;
    int64_t job = new_job(store, "before", 0);
    uint32_t chunk = 0;
    for (; store_wal_bytes(store) < 40 << 20; chunk++) {
        must(store_begin_later(store, &err));
        assert_int_equal(add_chunk(store, job, chunk, 4, 1 << 20, 0), CHUNK_IN_ORDER);
        must(store_commit(store, &err));
    }
    idle(store);
    write_while_it_is_cut(store);
    open_copy(s, job, 4 * (int64_t)chunk);
    idle(store);
    cut_slowly(store);
    open_copy(s, job, 4 * (int64_t)chunk);
    cuts_slowly = 0;
    store_copier_wait(store);
    assert_int_equal(store_wal_bytes(store), 0);
    store_close(&store);
}

/* Lets the thread copy if an idle moment has it do so; returns how often the database was
 * synced. */
static int idle_once(struct store *store)
{
    int before = n_database_syncs;
    store_idle(store);
    store_copier_wait(store);
    store_tend(store);
    return n_database_syncs - before;
}

/* No pass begins where all is copied: a commit could begin the log anew meanwhile, and SQLite
 * before 3.51.3 then loses pages of the new one. */
static void test_what_is_copied_is_not_copied_again(void **state)
{
    struct scene *s = *state;
    struct store *store = open_store(s);
    idle_once(store);
    for (int k = 0; k < 3; k++) {
        write_a_little(store, k == 0 ? "first" : k == 1 ? "second" : "third");
        assert_int_equal(idle_once(store), 0); /* something happens */
        assert_true(idle_once(store) > 0);
        assert_int_equal(store->wal_copied, store->wal_pages);
        store->changes = STORE_CHANGED_BEFORE; /* as when they were copied since */
        assert_int_equal(idle_once(store), 0);
    }
    store->options.min_free_bytes = 1ull << 50; /* the disk has too little room to wait */
    write_a_little(store, "at once");
    assert_true(idle_once(store) > 0);
    store_close(&store);
}

/* The log has begun to be copied, and SQLite counts its pages as copied though more was written
 * meanwhile: if the database is then not synced, no more is said to be on the disk. */
static void test_a_database_that_is_not_synced(void **state)
{
    struct scene *s = *state;
    struct store *store;
    struct err err;
    uint64_t synced;
    share_disk();
    store = open_store(s);
    int64_t job = new_job(store, "before", 0);
    for (uint32_t chunk = 0; store->wal_pages < store->wal_pages_due; chunk++) {
        must(store_begin_later(store, &err));
        assert_int_equal(add_chunk(store, job, chunk, 4, 1 << 20, 0), CHUNK_IN_ORDER);
        must(store_commit(store, &err));
    }
    write_while_it_copies(store);
    must(store_synced(store, &synced, &err));
    *disk = DISK_FAILS_DATABASE;
    store_copier_wait(store);
    *disk = DISK_FINE;
    assert_int_equal(store_synced(store, &synced, &err), ASSAY_EIO);
    assert_non_null(strstr(err.msg, "/assay.db: cannot sync: Input/output error"));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_replies_wait_for_the_disk, open_scene, close_disk),
        cmocka_unit_test_setup_teardown(test_events_wait_for_the_disk, open_scene, close_disk),
        cmocka_unit_test_setup_teardown(test_replies_that_wait_are_bounded, open_scene, close_disk),
        cmocka_unit_test_setup_teardown(
            test_a_transaction_of_nothing_syncs_nothing, open_scene, close_disk),
        cmocka_unit_test_setup_teardown(
            test_a_sync_that_fails_ends_the_broker, open_scene, close_disk),
        cmocka_unit_test_setup_teardown(test_a_database_that_is_not_synced, open_scene, close_disk),
        cmocka_unit_test_setup_teardown(test_copying_the_log_holds_nobody, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_cutting_the_log_holds_nobody, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_what_is_copied_is_not_copied_again, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_a_stop_waits_for_the_disk, open_scene, close_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
