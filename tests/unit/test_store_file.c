/* test_store_file.c - the database as others see it: who may open it, what is refused, readers,
 * documentation. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>
#include <time.h>

#include "schema/clock.h"

static void check_refused(struct fixture *f, const char *word)
{
    struct err err;
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    assert_true(store_open(&f->s, f->dir, &options, &err) < 0);
    assert_null(f->s);
    assert_non_null(strstr(err.msg, word));
}

static void test_second_opener_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store *second = NULL;
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    assert_int_equal(store_open(&second, f->dir, &options, &err), ASSAY_EBUSY);
    assert_null(second);
    char pid[16];
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    assert_non_null(strstr(err.msg, pid));
    assert_non_null(strstr(err.msg, f->dir));
    put_job(f->s, "still works", 0, 1, 4);
}

/* A broker that was killed while it started a rank: the child has the lock until its program
 * runs. */
static void test_an_orphan_s_lock_is_waited_for(void **state)
{
    struct fixture *f = *state;
    char path[128];
    store_close(&f->s);
    snprintf(path, sizeof path, "%s/lock", f->dir);
    pid_t broker = fork();
    if (broker == 0) {
        struct timespec t = {0, 300000000};
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (flock(fd, LOCK_EX) != 0 || ftruncate(fd, 0) != 0)
            _exit(1);
        dprintf(fd, "%d\n", (int)getpid());
        if (fork() == 0)
            nanosleep(&t, NULL);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(broker, &status, 0), broker);
    assert_int_equal(status, 0);
    open_mode(f, MODE);
}

/* A database that was made with other pages keeps them. */
static void test_small_pages_stay(void **state)
{
    struct fixture *f = *state;
    char out[64];
    assert_string_equal(shell(f, "pragma page_size", out, sizeof out), "8192\n");
    int64_t job = put_job(f->s, "before", 0, 3, 600);
    store_close(&f->s);
    run_sql(f, "pragma journal_mode=delete; pragma page_size=4096; vacuum;");
    open_mode(f, MODE);
    assert_string_equal(
        shell(f, "pragma page_size; pragma journal_mode", out, sizeof out), "4096\nwal\n");
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
    assert_int_equal(put_job(f->s, "after", 0, 3, 600), job + 1);
    open_again(f);
    assert_string_equal(shell(f, "pragma integrity_check", out, sizeof out), "ok\n");
    assert_int_equal(store_queued_bytes(f->s), 3 * 600 * 4);
}

static void test_strange_files_are_refused(void **state)
{
    struct fixture *f = *state;
    uint64_t epoch = store_epoch(f->s);
    open_again(f);
    assert_int_equal(store_epoch(f->s), epoch + 1);
    store_close(&f->s);
    static const char *const versions[] = {"99", "-1", "-2147483648", "0"};
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        char sql[64], found[64];
        struct store *reader = NULL;
        struct err err = {0};
        snprintf(sql, sizeof sql, "pragma user_version = %s;", versions[i]);
        snprintf(found, sizeof found, "found %s", versions[i]);
        run_sql(f, sql);
        check_refused(f, found);
        assert_int_equal(store_open_reader(&reader, f->dir, &err), ASSAY_EFORMAT);
        assert_non_null(strstr(err.msg, found));
        assert_non_null(strstr(err.msg, "assay.db: schema version: expected 1 to "));
    }
    char path[128];
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 10000; i++)
        fputs("this is not a database\n", file);
    fclose(file);
    check_refused(f, "assay.db");
    unlink(path);
    open_mode(f, MODE);
}

/* A reader in another process reads every view, over and over, while the broker writes. */
static void test_readers_in_parallel(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_worker worker = {.pid = 1, .device = "cpu", .state = "ready"};
    must(store_set_worker(f->s, &worker, &err));
    char command[1024];
    snprintf(command, sizeof command,
        "for i in 1 2 3 4 5 6 7 8 9 10; do for v in jobs rows results errors workers batches"
        " throughput; do sqlite3 -readonly %s/assay.db \"select * from $v\" || exit 1; done; done"
        " > /dev/null 2>%s/complaints",
        f->dir, f->dir);
    pid_t reader = fork();
    if (reader == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    int status = 0, turns = 0;
    for (; waitpid(reader, &status, WNOHANG) == 0; turns++) {
        char key[32];
        snprintf(key, sizeof key, "reader-%d", turns);
        int64_t job = put_job(f->s, key, 0, 20, 64);
        finish_some(f->s, job, 15, 0);
        finish_some(f->s, job, 5, ASSAY_ENONFINITE);
        idle(f->s);
    }
    assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 0);
    assert_true(turns > 3);
    char out[256], want[64];
    snprintf(want, sizeof want, "%d|%d|%d\n", turns, turns * 20, turns * 5);
    assert_string_equal(shell(f,
                            "select (select count(*) from jobs where state = 'done'),"
                            " (select count(*) from results), (select count(*) from errors)",
                            out, sizeof out),
        want);
    assert_string_equal(
        shell(f, "select device, state from workers", out, sizeof out), "cpu|ready\n");
    snprintf(want, sizeof want, "%d\n", turns * 20);
    assert_string_equal(shell(f, "select sum(rows) from throughput", out, sizeof out), want);
}

/* Someone who stays in a read transaction: checkpoints cannot finish, but the broker does not wait.
 */
static void test_a_long_reader_does_not_block(void **state)
{
    struct fixture *f = *state;
    char path[128];
    sqlite3 *reader = NULL;
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    put_job(f->s, "before", 0, 20, 64);
    assert_int_equal(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(reader, "begin; select * from jobs", NULL, NULL, NULL), SQLITE_OK);
    long long from_ms = now_mono_ms();
    finish_some(f->s, put_job(f->s, "meanwhile", 0, 20, 64), 20, 0);
    for (int i = 0; i < 20; i++) /* each that waited for the reader would take half a second */
        idle(f->s);
    long long took_ms = now_mono_ms() - from_ms;
    print_message("%lld ms beside a reader\n", took_ms);
    sqlite3_close(reader);
    assert_true(took_ms < 5000);
    idle(f->s);
    idle(f->s);
    assert_int_equal(store_wal_bytes(f->s), 0); /* made up for, once it is gone */
}

/* SCHEMA.md has a section for every view, and names every column. */
static void test_schema_is_documented(void **state)
{
    struct fixture *f = *state;
    static char text[32768], names[4096];
    char wanted[80];
    FILE *file = fopen("schema/SCHEMA.md", "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    shell(f,
        "select v.name || ' ' || c.name from sqlite_master v, pragma_table_info(v.name) c"
        " where v.type = 'view'",
        names, sizeof names);
    int n = 0;
    for (char *line = strtok(names, "\n"); line; line = strtok(NULL, "\n"), n++) {
        char *column = strchr(line, ' ');
        *column++ = 0;
        snprintf(wanted, sizeof wanted, "## %s:", line);
        char *section = strstr(text, wanted);
        snprintf(wanted, sizeof wanted, "`%s`", column);
        char *there = section ? strstr(section, wanted) : NULL, *end = section;
        end = end ? strstr(end + 1, "\n## ") : NULL;
        if (!there || !end || there > end)
            fail_msg("schema/SCHEMA.md says nothing of %s.%s", line, column);
    }
    assert_true(n > 40);
}

/* Version 7 had checksums, but nothing of truncation: its jobs are as they were. */
static void test_upgrade_from_7(void **state)
{
    struct fixture *f = *state;
    int64_t job = put_job(f->s, "old", 0, 3, 10);
    store_close(&f->s);
    run_sql(f, TO_VERSION_9 "alter table job drop column truncation; alter table chunk drop "
                            "column sum; pragma user_version = 7;");
    open_mode(f, MODE);
    assert_false(job_now(f->s, job).damaged);
    assert_int_equal(job_now(f->s, job).state, JOB_QUEUED);
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
}

/* Versions 15 and 16 had other views. */
static void test_upgrade_from_15(void **state)
{
    struct fixture *f = *state;
    char out[100];
    int64_t job = put_job(f->s, "old", 0, 3, 10);
    store_close(&f->s);
    run_sql(f, "drop view pairs; drop view responses; create view responses as select 1; pragma "
               "user_version = 15;");
    open_mode(f, MODE);
    assert_int_equal(finish_some(f->s, job, 10, 0), 3);
    assert_string_equal(shell(f,
                            "select count(score) from responses; select count(margin) from pairs; "
                            "pragma user_version",
                            out, sizeof out),
        "0\n0\n17\n");
}

/* Version 9 had the bytes of a chunk past a gap in its record. */
static void test_upgrade_from_9(void **state)
{
    struct fixture *f = *state;
    char out[100];
    int64_t job = new_job(f->s, "old", 0);
    assert_int_equal(put_chunk(f->s, job, 2, 0, 10, 1), CHUNK_KEPT);
    assert_int_equal(put_chunk(f->s, job, 1, 70, 10, 0), CHUNK_KEPT);
    uint64_t bytes = store_queued_bytes(f->s);
    store_close(&f->s);
    run_sql(f, TO_VERSION_9 "pragma user_version = 9;");
    assert_string_equal(
        shell(f, "select typeof(pending), length(pending) from chunk order by chunk", out,
            sizeof out),
        "blob|73\nblob|0\n");
    open_mode(f, MODE);
    assert_int_equal(store_queued_bytes(f->s), bytes);
    assert_int_equal(job_now(f->s, job).accepted, 70);
    assert_int_equal(put_chunk(f->s, job, 0, 3, 10, 0), CHUNK_IN_ORDER);
    assert_int_equal(job_now(f->s, job).total, 73);
    assert_int_equal(finish_some(f->s, job, 100, 0), 73);
    assert_string_equal(shell(f, "select count(*) from piece", out, sizeof out), "0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_second_opener_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_orphan_s_lock_is_waited_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_pages_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_strange_files_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_readers_in_parallel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_long_reader_does_not_block, setup, teardown),
        cmocka_unit_test_setup_teardown(test_upgrade_from_7, setup, teardown),
        cmocka_unit_test_setup_teardown(test_upgrade_from_9, setup, teardown),
        cmocka_unit_test_setup_teardown(test_upgrade_from_15, setup, teardown),
        cmocka_unit_test_setup_teardown(test_schema_is_documented, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
