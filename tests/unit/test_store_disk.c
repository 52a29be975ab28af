/* test_store_disk.c - what is on the disk: when a commit is, after kill -9, and when it is full. */
#include "tests/unit/seen_results.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>

#include "broker/store/private.h"
#include "schema/clock.h"

/* What is committed to be synced later is numbered and waited for; the next commit that is synced
 * at once has all before it on the disk with it. */
static void test_two_kinds_of_commit(void **state)
{
    struct fixture *f = *state;
    struct err err;
    uint64_t synced, before = store_written(f->s);
    int64_t job = new_job(f->s, "k", 0), level;
    for (int k = 0; k < 20; k++) {
        must(store_begin_later(f->s, &err));
        must(store_integer(f->s, -1, &level, &err, "pragma synchronous", ""));
        assert_int_equal(level, 1);
        assert_int_equal(add_chunk(f->s, job, (uint32_t)k, 1, 4, 0), CHUNK_IN_ORDER);
        must(store_commit(f->s, &err));
        must(store_synced(f->s, &synced, &err));
        assert_in_range(synced, before + 1, before + 2 + (uint64_t)k);
    }
    assert_int_equal(store_written(f->s), before + 21);
    must(store_wait_synced(f->s, &err));
    must(store_synced(f->s, &synced, &err));
    assert_int_equal(synced, before + 21);
    must(store_begin_later(f->s, &err));
    assert_int_equal(add_chunk(f->s, job, 20, 1, 4, 0), CHUNK_IN_ORDER);
    must(store_commit(f->s, &err));
    must(store_begin(f->s, &err));
    must(store_integer(f->s, -1, &level, &err, "pragma synchronous", ""));
    assert_int_equal(level, 2);
    assert_int_equal(add_chunk(f->s, job, 21, 1, 4, 0), CHUNK_IN_ORDER);
    must(store_commit(f->s, &err));
    must(store_synced(f->s, &synced, &err));
    assert_int_equal(synced, before + 23);
}

static void test_idle_empties_the_wal(void **state)
{
    struct fixture *f = *state;
    put_job(f->s, "idle", 0, 200, 100);
    assert_true(store_wal_bytes(f->s) > 80000);
    idle(f->s);
    idle(f->s);
    assert_int_equal(store_wal_bytes(f->s), 0);
    char path[128];
    snprintf(path, sizeof path, "%s/reserve", f->dir);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(store_free_reserve(f->s), 1);
    assert_int_equal(store_free_reserve(f->s), 0);
    idle(f->s);
    assert_int_equal(access(path, F_OK), 0); /* made again */
}

static void test_room(void **state)
{
    struct fixture *f = *state;
    struct err err;
    must(store_check_room(f->s, 1000, &err));
    assert_int_equal(store_check_room(f->s, (uint64_t)1 << 50, &err), ASSAY_EQUEUEFULL);
}

/* What is asked for within one answer of the disk adds up. */
static void test_room_is_used_up(void **state)
{
    struct fixture *f = *state;
    struct err err;
    long long begin_ms = now_mono_ms();
    int64_t asked;
    uint64_t room = (uint64_t)1 << 30;
    must(store_check_room(f->s, 0, &err));
    f->s->room = room;
    f->s->room_ms = begin_ms + 100000;
    for (asked = 0; f->s->room_ms == begin_ms + 100000 && asked < 2000; asked++)
        must(store_check_room(f->s, 1 << 20, &err));
    assert_int_equal(asked, 257); /* four times, as it is written twice and more */
}

/* What the second's work says in the log. */
static void warned(struct fixture *f, const char *words, int wanted)
{
    char path[128], said[4096] = "";
    snprintf(path, sizeof path, "%s/said", f->dir);
    int before = dup(STDERR_FILENO), to = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    dup2(to, STDERR_FILENO);
    idle(f->s);
    dup2(before, STDERR_FILENO);
    assert_true(pread(to, said, sizeof said - 1, 0) >= 0);
    close(before);
    close(to);
    assert_int_equal(strstr(said, words) != NULL, wanted);
}

/* A busy broker does not wait for the second to be over: the log is checkpointed and begun anew,
 * and does not grow but where a reader holds it. */
static void test_the_log_stays_small(void **state)
{
    struct fixture *f = *state;
    sqlite3 *reader = NULL;
    char path[128];
    uint64_t largest[2] = {0};
    int64_t job = new_job(f->s, "log", 0);
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    assert_int_equal(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    for (uint32_t k = 0; k < 160; k++) {
        if (k == 80)
            sqlite3_exec(reader, "begin; select * from jobs", NULL, NULL, NULL);
        put_chunk(f->s, job, k, 1, 1 << 20, 0);
        store_tend(f->s);
        if (store_wal_bytes(f->s) > largest[k / 80])
            largest[k / 80] = store_wal_bytes(f->s);
    }
    assert_in_range(largest[0], 40 << 20, 120 << 20);
    assert_in_range(largest[1], 160 << 20, 320 << 20);
    warned(f, "event=log_grows", 1);
    warned(f, "event=log_grows", 0); /* once, not each second */
    sqlite3_close(reader);
    put_chunk(f->s, job, 160, 1, 4, 0);
    idle(f->s);
    put_chunk(f->s, job, 161, 1, 4, 0);
    assert_in_range(store_wal_bytes(f->s), 0, 112 << 20);
    assert_in_range(f->s->wal_pages, 1, 100);
    warned(f, "event=log_is_small_again", 1);
}

/* ---- kill -9 ---- */

/* Promises go through the pipe only after the commit returned. */
struct promise {
    uint32_t chunks, done;
};

static _Noreturn void write_until_killed(struct fixture *f, int64_t job, int fd)
{
    struct err err;
    open_mode(f, MODE);
    struct promise p = {.done = (uint32_t)job_now(f->s, job).done};
    while (put_chunk(f->s, job, p.chunks, 3, 40, 0) == CHUNK_SAME)
        p.chunks++;
    for (p.chunks++;; p.chunks++) {
        if (write(fd, &p, sizeof p) != sizeof p)
            _exit(1);
        struct row_list list = queued(f->s, job, 0, 2);
        must(store_begin(f->s, &err));
        for (uint32_t i = 0; i < list.n; i++)
            p.done += (uint32_t)finish(f->s, list.at[i], 0);
        free_rows(&list);
        add_chunk(f->s, job, p.chunks, 3, 40, 0);
        must(store_commit(f->s, &err));
    }
}

/* What was promised is there, and the counters say what the tables hold. */
static void check_promise(struct fixture *f, int64_t job, const struct promise *p)
{
    struct err err;
    struct seen *seen = calloc(1, sizeof *seen);
    open_mode(f, MODE);
    struct store_job now = job_now(f->s, job);
    assert_true(now.accepted >= 3 * (int64_t)p->chunks);
    assert_true(now.done >= p->done);
    assert_int_equal(now.accepted % 3, 0); /* a chunk is there whole or not at all */
    assert_int_equal(now.placed, now.accepted);
    must(store_each_result(f->s, &(struct store_page){job, 0, 4096}, see, seen, &err));
    assert_int_equal(seen->n, now.done);
    for (uint32_t i = 0; i < seen->n; i++)
        assert_int_equal(seen->i[i], i); /* they were finished in order: none twice, none missing */
    struct row_list list = queued(f->s, job, 0, 4096);
    assert_int_equal(list.n, now.accepted - now.done);
    assert_int_equal(store_queued_bytes(f->s), list.n * 40 * 4);
    for (uint32_t i = 0; i < list.n; i++)
        assert_int_equal(
            3 * list.at[i]->ids[0] + list.at[i]->ids[1], row_index(list.at[i]->row_id));
    free_rows(&list);
    free(seen);
    store_close(&f->s);
}

/* Lets a child write until it has made some promises, and up to 3 ms longer, kills it; the last
 * promise. So a kill meets the child at work on a busy machine and on a quick one. */
static struct promise killed_writer(struct fixture *f, int64_t job)
{
    int fds[2], status;
    struct promise p = {0};
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        close(fds[0]);
        write_until_killed(f, job, fds[1]);
    }
    close(fds[1]);
    for (int promises = rand() % 20; promises > 0; promises--)
        assert_int_equal(read(fds[0], &p, sizeof p), sizeof p);
    usleep((useconds_t)rand() % 3000);
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    while (read(fds[0], &p, sizeof p) == sizeof p)
        ;
    close(fds[0]);
    return p;
}

static void test_kill_at_random_moments(void **state)
{
    struct fixture *f = *state;
    int64_t job = new_job(f->s, "kills", 0);
    unsigned seed = (unsigned)time(NULL);
    uint32_t promised = 0;
    print_message("seed %u\n", seed);
    srand(seed);
    store_close(&f->s);
    for (int kill_number = 0; kill_number < 50; kill_number++) {
        struct promise last = killed_writer(f, job);
        check_promise(f, job, &last);
        promised = last.chunks > promised ? last.chunks : promised;
    }
    print_message("50 kills, %u chunks promised\n", promised);
    assert_true(promised > 20);
}

/* ---- a full disk ---- */

static uint32_t fill_disk(struct fixture *f, int64_t job, struct err *e)
{
    struct err err;
    for (uint32_t chunk = 0;; chunk++) {
        struct store_chunk c = {
            .job = job, .chunk = chunk, .n_rows = 8, .rows = slice_of("\x98 chunk")};
        int32_t ids[512] = {0};
        struct store_row row = {.ids = ids, .n_tokens = 512, .pool.type = POOL_LAST, .n_values = 1};
        must(store_begin(f->s, &err));
        int rc = store_add_chunk(f->s, &c, e);
        for (int i = 0; rc >= 0 && i < 8; i++)
            rc = add_rows(f->s, job, &row, 1, e);
        if (rc >= 0)
            rc = store_commit(f->s, e);
        if (rc < 0) {
            store_rollback(f->s);
            assert_int_equal(rc, ASSAY_EFULL);
            return chunk;
        }
        idle(f->s);
    }
}

static void test_full_disk(void **state)
{
    struct fixture *f = *state;
    struct err err;
    store_close(&f->s);
    if (mount("tmpfs", f->dir, "tmpfs", 0, "size=2m") != 0) {
        print_error("SKIPPED: a tmpfs cannot be mounted here: %s\n", strerror(errno));
        skip();
    }
    open_mode(f, MODE);
    int64_t job = new_job(f->s, "fills", 0);
    uint32_t chunks = fill_disk(f, job, &err);
    print_message("full after %u chunks: %s\n", chunks, err.msg);
    assert_true(chunks > 5);
    assert_int_equal(job_now(f->s, job).accepted, 8 * chunks);
    assert_int_equal(store_queued_bytes(f->s), 8 * chunks * 2048);
    assert_int_equal(store_check_room(f->s, 1 << 20, &err), ASSAY_EQUEUEFULL);
    open_again(f); /* a restart on a full disk finds its way, by the reserve if it must */
    store_free_reserve(f->s);
    assert_int_equal(finish_some(f->s, job, 8, 0), 8); /* results of accepted work still fit */
    store_close(&f->s);
    assert_int_equal(mount("tmpfs", f->dir, "tmpfs", MS_REMOUNT, "size=4m"), 0);
    open_mode(f, MODE);
    assert_int_equal(job_now(f->s, job).accepted, 8 * chunks);
    assert_int_equal(job_now(f->s, job).done, 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_kinds_of_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_idle_empties_the_wal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room_is_used_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_log_stays_small, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kill_at_random_moments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
