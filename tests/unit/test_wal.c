/* test_wal.c - a log that lacks what was synced to it is refused, and no other one is
 * (store/wal.c). */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/store/scrub.h"
#include "broker/xxh.h"
#include "schema/log.h"

enum { CHUNKS = 20, ROWS = 10 };

static void sh(const struct fixture *f, const char *command)
{
    char whole[600];
    snprintf(whole, sizeof whole, "cd %s && %s", f->dir, command);
    assert_int_equal(system(whole), 0);
}

/* ---- a broker that is killed ---- */

/* Chunks from `first` to before `end`, acknowledged where `synced`. */
static void put_chunks(struct fixture *f, int64_t job, uint32_t first, uint32_t end, int synced)
{
    struct err err;
    for (uint32_t k = first; k < end; k++) {
        must(store_begin_later(f->s, &err));
        assert_int_equal(add_chunk(f->s, job, k, ROWS, 40, 0), CHUNK_IN_ORDER);
        must(store_commit(f->s, &err));
    }
    if (synced)
        must(store_wait_synced(f->s, &err));
}

/* After `work` the process is gone, as by kill -9. */
static void die_after(struct fixture *f, void (*work)(struct fixture *f))
{
    int status;
    store_close(&f->s);
    pid_t child = fork();
    if (child == 0) {
        open_mode(f, MODE);
        work(f);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void fill(struct fixture *f)
{
    int64_t job = new_job(f->s, "k", 0);
    put_chunks(f, job, 0, CHUNKS / 2, 1);
    sh(f, "cp assay.db-wal older");
    put_chunks(f, job, CHUNKS / 2, CHUNKS - 1, 1);
    assert_int_equal(put_chunk(f->s, job, CHUNKS - 1, ROWS, 40, 0), CHUNK_IN_ORDER);
}

/* ---- what the next start says ---- */

static void refused(struct fixture *f, const char *found)
{
    struct err err = {0};
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    int rc = store_open(&f->s, f->dir, &options, &err);
    if (rc == 0)
        print_error("expected it to be refused: %s\n", found);
    assert_int_equal(rc, ASSAY_EFORMAT);
    if (!strstr(err.msg, found))
        print_error("%s\n", err.msg);
    assert_non_null(strstr(err.msg, found));
    assert_non_null(strstr(err.msg, "assay.db-wal: expected the "));
    assert_non_null(strstr(err.msg, "`synced`"));
}

static void opened(struct fixture *f, int64_t rows)
{
    int64_t job;
    struct err err;
    open_mode(f, MODE);
    assert_int_equal(must(store_find_job(f->s, slice_of("k"), &job, &err)), 1);
    assert_int_equal(job_now(f->s, job).accepted, rows);
    store_close(&f->s);
}

struct heard {
    int n;
    char what[400];
};

static void hear(void *arg, const struct scrub_finding *finding)
{
    struct heard *h = arg;
    if (h->n++ == 0)
        snprintf(h->what, sizeof h->what, "%s", finding->what);
}

static int go_on(void *arg, int64_t done, int64_t total)
{
    (void)arg, (void)done, (void)total;
    return 0;
}

static void scrubbed(struct fixture *f, const char *word)
{
    struct err err = {0};
    struct heard h = {.n = 0};
    struct scrub_caller caller = {hear, go_on, &h};
    struct scrub_totals totals;
    must(store_scrub(f->dir, &caller, &totals, &err));
    assert_int_equal(h.n > 0, word != NULL);
    if (word)
        assert_non_null(strstr(h.what, word));
}

/* ---- damage ---- */

static void flip(struct fixture *f, const char *name, off_t at)
{
    char path[128];
    uint8_t byte;
    snprintf(path, sizeof path, "%s/%s", f->dir, name);
    int fd = open(path, O_RDWR);
    if (at < 0)
        at += lseek(fd, 0, SEEK_END);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void test_a_log_that_lacks_something_is_refused(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill);
    sh(f, "mkdir whole && cp -p assay.db* synced whole");
    static const struct {
        const char *command; /* NULL: a bit flips at `at` */
        off_t at;
        const char *found;
    } cases[] = {
        {NULL, 60000, " that are whole, and damage"},
        {NULL, -1, " that are whole, and damage"},
        {NULL, 33, "found 0 that are whole, and damage"},
        {NULL, 0, "whose beginning is damaged"},
        {NULL, 18, "whose beginning is damaged"},
        {"truncate -s 100000 assay.db-wal", 0, "the end behind them"},
        {"truncate -s 20 assay.db-wal", 0, "whose beginning is damaged"},
        {"truncate -s 0 assay.db-wal", 0, "an empty file"},
        {"cp older assay.db-wal", 0, "the end behind them"},
        {"rm assay.db-wal", 0, "no such file"},
        {"rm assay.db-wal assay.db-shm", 0, "no such file"},
        /* times prove nothing */
        {"touch assay.db && rm assay.db-wal", 0, "no such file, and assay.db without their last"},
        {"touch assay.db && : > assay.db-wal", 0, "an empty file, and assay.db without their last"},
        {"touch -d yesterday synced && rm assay.db-wal", 0, "no such file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sh(f, "cp -p whole/* .");
        if (cases[i].command)
            sh(f, cases[i].command);
        else
            flip(f, "assay.db-wal", cases[i].at);
        refused(f, cases[i].found);
        refused(f, cases[i].found); /* it changed nothing */
        scrubbed(f, cases[i].found);
    }
    sh(f, "cp -p whole/* .");
    scrubbed(f, NULL);
    opened(f, CHUNKS * ROWS);
}

static void test_without_the_record_it_goes_on(void **state)
{
    struct fixture *f = *state;
    int64_t job;
    struct err err;
    die_after(f, fill);
    sh(f, "cp older assay.db-wal");
    refused(f, "the end behind them");
    sh(f, "rm synced");
    open_mode(f, MODE);
    assert_int_equal(must(store_find_job(f->s, slice_of("k"), &job, &err)), 1);
    assert_in_range(job_now(f->s, job).accepted, CHUNKS / 2 * ROWS, (CHUNKS - 1) * ROWS);
}

/* ---- logs begun anew ---- */

static void fill_two_logs(struct fixture *f)
{
    int64_t job = new_job(f->s, "k", 0);
    put_chunks(f, job, 0, CHUNKS / 2, 1);
    sh(f, "cp assay.db-wal older");
    idle(f->s); /* all of it is in the database; the next commit begins the log anew */
    put_chunks(f, job, CHUNKS / 2, CHUNKS, 1);
}

static void test_an_older_log_is_refused(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill_two_logs);
    sh(f, "cp assay.db-wal whole && cp older assay.db-wal");
    refused(f, "found an older log");
    sh(f, "cp whole assay.db-wal");
    opened(f, CHUNKS * ROWS);
}

static void fill_a_log_nobody_syncs(struct fixture *f)
{
    int64_t job = new_job(f->s, "k", 0);
    put_chunks(f, job, 0, CHUNKS / 2, 1);
    idle(f->s);
    put_chunks(f, job, CHUNKS / 2, CHUNKS, 0); /* the record is of the log before */
}

static void test_a_log_that_was_begun_anew_is_whole(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill_a_log_nobody_syncs);
    opened(f, CHUNKS * ROWS);
}

/* ---- no more than was synced ---- */

static void fill_and_begin_more(struct fixture *f)
{
    int64_t job = new_job(f->s, "k", 0);
    put_chunks(f, job, 0, CHUNKS / 2, 1);
    put_chunks(f, job, CHUNKS / 2, CHUNKS / 2 + 1, 0);
}

static void test_what_was_not_synced_may_be_missing(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill_and_begin_more);
    flip(f, "assay.db-wal", -1);
    opened(f, CHUNKS / 2 * ROWS);
}

static void test_who_empties_the_log_says_so(void **state)
{
    struct fixture *f = *state;
    put_job(f->s, "k", 0, ROWS, 40);
    idle(f->s);
    idle(f->s);
    assert_int_equal(store_wal_bytes(f->s), 0);
    sh(f, "mkdir idle && cp -p assay.db synced idle"); /* as kill -9 would leave it */
    store_close(&f->s);
    scrubbed(f, NULL);
    opened(f, ROWS);
    sh(f, "rm assay.db-wal assay.db-shm");
    opened(f, ROWS);
    sh(f, "cp -p idle/* . && rm assay.db-wal assay.db-shm");
    opened(f, ROWS);
}

/* A reader keeps the log from being emptied as the store is closed: what is in it is still looked
 * after. */
static void test_a_log_that_stays_is_looked_after(void **state)
{
    struct fixture *f = *state;
    sqlite3 *reader = NULL;
    char path[128];
    snprintf(path, sizeof path, "%s/assay.db", f->dir);
    assert_int_equal(sqlite3_open_v2(path, &reader, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(
        sqlite3_exec(reader, "begin; select * from jobs", NULL, NULL, NULL), SQLITE_OK);
    put_job(f->s, "k", 0, ROWS, 40);
    store_close(&f->s);
    sh(f, "cp -p assay.db-wal whole && truncate -s -1 assay.db-wal");
    refused(f, "the end behind them");
    sh(f, "cp whole assay.db-wal");
    opened(f, ROWS);
    sqlite3_close(reader);
}

/* ---- others ---- */

/* Who opens the database to write and closes it last brings the log into it and deletes it. */
static void test_another_program_brings_it_over(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill);
    run_sql(f, "select count(*) from jobs");
    sh(f, "test ! -e assay.db-wal && test -e synced");
    opened(f, CHUNKS * ROWS);
}

/* What was written after the last sync is brought over as well, and a copy has other times. */
static void test_what_was_brought_over_may_be_more_and_elsewhere(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill_and_begin_more);
    run_sql(f, "select count(*) from jobs");
    sh(f, "test ! -e assay.db-wal && touch -d yesterday assay.db");
    scrubbed(f, NULL);
    opened(f, (CHUNKS / 2 + 1) * ROWS);
}

/* A checkpoint that copies all but leaves the log, and further commits to a log begun anew. */
static void test_a_log_begun_anew_is_brought_over(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill_a_log_nobody_syncs);
    sh(f, "mkdir whole && cp -p assay.db* synced whole");
    run_sql(f, "select count(*) from jobs");
    sh(f, "touch -d yesterday assay.db");
    opened(f, CHUNKS * ROWS);
    sh(f, "cp -p whole/* . && rm assay.db-wal"); /* what was synced is in the database */
    opened(f, CHUNKS / 2 * ROWS);
}

/* The form before did not say what the log would bring to the database. */
static void write_old_record(struct fixture *f)
{
    char path[128];
    struct {
        char magic[8];
        uint32_t salt[2];
        uint64_t frames, sum;
    } r;
    snprintf(path, sizeof path, "%s/synced", f->dir);
    int fd = open(path, O_RDWR);
    assert_int_equal(pread(fd, &r, sizeof r, 0), sizeof r);
    memcpy(r.magic, "assaywal", 8);
    r.sum = XXH3_64bits(&r, 24);
    assert_int_equal(pwrite(fd, &r, sizeof r, 0), sizeof r);
    assert_int_equal(ftruncate(fd, sizeof r), 0);
    close(fd);
}

static void test_a_record_of_the_form_before(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill);
    write_old_record(f);
    sh(f, "mkdir whole && cp -p assay.db* synced whole && rm assay.db-wal && touch assay.db");
    refused(f, "no such file");
    sh(f, "cp -p whole/* . && truncate -s -1 assay.db-wal");
    refused(f, "the end behind them");
    sh(f, "cp -p whole/* .");
    scrubbed(f, NULL);
    opened(f, CHUNKS * ROWS);
    sh(f, "test $(stat -c %s synced) = 64");
}

static void test_another_program_empties_it(void **state)
{
    struct fixture *f = *state;
    put_job(f->s, "k", 0, ROWS, 40);
    sh(f, "sleep 0.02"); /* a file's time has steps */
    run_sql(f, "pragma wal_checkpoint(truncate)");
    assert_int_equal(store_wal_bytes(f->s), 0);
    sh(f, "mkdir killed && cp -p assay.db* synced killed");
    idle(f->s);
    idle(f->s);
    sh(f, "mkdir later && cp -p assay.db* synced later && touch -d yesterday later/assay.db");
    store_close(&f->s);
    sh(f, "cp -p killed/* .");
    opened(f, ROWS);
    sh(f, "cp -p later/* .");
    opened(f, ROWS);
}

/* Of a version before, or copied by name; or a start that was cut short by a power cut. */
static void test_no_record_says_nothing(void **state)
{
    struct fixture *f = *state;
    static const char *const without[] = {"rm synced", ": > synced",
        "head -c 32 /dev/zero > synced", "head -c 64 /dev/zero > synced"};
    for (size_t i = 0; i < sizeof without / sizeof without[0]; i++) {
        die_after(f, i == 0 ? fill : open_again);
        sh(f, without[i]);
        scrubbed(f, NULL);
        opened(f, CHUNKS * ROWS);
    }
}

static void test_a_damaged_record_is_said(void **state)
{
    struct fixture *f = *state;
    die_after(f, fill);
    flip(f, "synced", 17);
    scrubbed(
        f, "synced: expected how much of assay.db-wal was synced, found a record that is damaged");
    opened(f, CHUNKS * ROWS);
    scrubbed(f, NULL);
}

static void test_it_is_a_file_of_its_own(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct store_options options = {.mode = MODE, .digest = DIGEST};
    store_close(&f->s);
    sh(f, "test \"$(stat -c %a:%s synced)\" = 600:64 && rm synced && echo mine > other && ln -s "
          "other synced");
    assert_int_equal(store_open(&f->s, f->dir, &options, &err), ASSAY_EIO);
    assert_non_null(strstr(err.msg, "synced"));
    sh(f, "test \"$(cat other)\" = mine && rm synced");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_log_that_lacks_something_is_refused),
        TEST(test_without_the_record_it_goes_on),
        TEST(test_an_older_log_is_refused),
        TEST(test_a_log_that_was_begun_anew_is_whole),
        TEST(test_what_was_not_synced_may_be_missing),
        TEST(test_who_empties_the_log_says_so),
        TEST(test_a_log_that_stays_is_looked_after),
        TEST(test_another_program_brings_it_over),
        TEST(test_what_was_brought_over_may_be_more_and_elsewhere),
        TEST(test_a_log_begun_anew_is_brought_over),
        TEST(test_a_record_of_the_form_before),
        TEST(test_another_program_empties_it),
        TEST(test_no_record_says_nothing),
        TEST(test_a_damaged_record_is_said),
        TEST(test_it_is_a_file_of_its_own),
    };
    log_init("test", -1, LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
