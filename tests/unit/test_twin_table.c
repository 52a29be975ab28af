/* test_twin_table.c - the table of hints: what was added is found, in memory, in its file, after a kill. */
#include "tests/unit/store_fixture.h"

#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/twin_table.h"
#include "schema/log.h"

enum { JOB = 7, BORN = 1234, SEED = 99 };

static struct twin_table *open_at(const char *dir)
{
    return twin_table_open(&(struct twin_table_options){dir, JOB, BORN, SEED, 0});
}

/* Not one that anybody chose. */
static uint64_t hash_of(uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15ull;
    i = (i ^ i >> 31) * 0xbf58476d1ce4e5b9ull;
    return i ^ i >> 29;
}

static int has(const struct twin_table *t, uint64_t hash, uint32_t i)
{
    uint32_t found[TWIN_TABLE_SAME], n = twin_table_find(t, hash, found);
    while (n > 0)
        if (found[--n] == i)
            return 1;
    return 0;
}

static void add_many(struct twin_table *t, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        twin_table_add(t, hash_of(i), i);
}

static uint32_t count(const struct twin_table *t, uint32_t from, uint32_t to)
{
    uint32_t n = 0;
    for (uint32_t i = from; i < to; i++)
        n += (uint32_t)has(t, hash_of(i), i);
    return n;
}

static const char *file_of(const struct fixture *f)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/twins-%d.map", f->dir, JOB);
    return path;
}

static long long file_bytes(const struct fixture *f)
{
    struct stat st;
    return stat(file_of(f), &st) == 0 ? (long long)st.st_size : -1;
}

static void test_all_are_found_and_no_others(void **state)
{
    enum { N = 300000 };
    const char *dirs[] = {NULL, ((struct fixture *)*state)->dir};
    for (int k = 0; k < 2; k++) {
        struct twin_table *t = open_at(dirs[k]);
        uint32_t found[TWIN_TABLE_SAME], others = 0;
        add_many(t, 0, N);
        assert_int_equal(count(t, 0, N), N);
        for (uint32_t i = N; i < 2 * N; i++)
            others += twin_table_find(t, hash_of(i), found);
        assert_true(others < 100); /* one in 2^32 / N: 21 */
        twin_table_delete(&t);
        assert_int_equal(file_bytes(*state), -1);
    }
}

static void test_the_ends(void **state)
{
    static const uint64_t hashes[] = {0, 1, UINT64_MAX, 0xffffffff00000000ull, 1ull << 32};
    static const uint32_t rows[] = {0, 1, UINT32_MAX - 1, UINT32_MAX};
    struct twin_table *t = open_at(((struct fixture *)*state)->dir);
    for (int h = 0; h < 5; h++)
        for (int i = 0; i < 4; i++)
            twin_table_add(t, hashes[h], rows[i]);
    add_many(t, 10, 5000);
    for (int h = 0; h < 5; h++)
        for (int i = 0; i < 4; i++)
            assert_true(has(t, hashes[h], rows[i]));
    twin_table_delete(&t);
}

/* All with one hash: a bounded number is kept, and it takes no longer for that. */
static void test_malice(void **state)
{
    uint32_t found[TWIN_TABLE_SAME];
    struct twin_table *t = open_at(NULL);
    (void)state;
    for (uint32_t i = 0; i < 1000000; i++)
        twin_table_add(t, 5ull << 32, i % 500000);
    assert_int_equal(twin_table_find(t, 5ull << 32, found), TWIN_TABLE_SAME);
    add_many(t, 0, 3000);
    assert_int_equal(count(t, 0, 3000), 3000);
    twin_table_close(&t);
}

static void test_small_ones_have_no_file(void **state)
{
    struct fixture *f = *state;
    struct twin_table *t = open_at(f->dir);
    add_many(t, 0, 3000);
    assert_int_equal(file_bytes(f), -1);
    add_many(t, 3000, 3200);
    assert_int_equal(file_bytes(f), 128 + (8 << 13));
    twin_table_set_scanned(t, 42);
    twin_table_close(&t);
    t = open_at(f->dir);
    assert_int_equal(count(t, 0, 3200), 3200);
    assert_int_equal(twin_table_scanned(t), 42);
    assert_int_equal(twin_table_job(t), JOB);
    twin_table_delete(&t);
}

static void add_and_be_killed(const char *dir, uint32_t n)
{
    pid_t child = fork();
    if (child == 0) {
        struct twin_table *t = open_at(dir);
        add_many(t, 0, n);
        kill(getpid(), SIGKILL);
    }
    waitpid(child, NULL, 0);
}

static void test_killed(void **state)
{
    enum { N = 100000 };
    struct fixture *f = *state;
    add_and_be_killed(f->dir, N);
    struct twin_table *t = open_at(f->dir);
    assert_int_equal(count(t, 0, N), N);
    assert_int_equal(twin_table_seed(t), SEED);
    twin_table_close(&t);
    t = twin_table_open(
        &(struct twin_table_options){f->dir, JOB, BORN + 1, SEED, 0}); /* another database's */
    assert_int_equal(count(t, 0, N), 0);
    twin_table_close(&t);
    assert_int_equal(file_bytes(f), -1);
}

static void change_file(const struct fixture *f, long at, const void *bytes, size_t n)
{
    FILE *file = fopen(file_of(f), "r+");
    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
}

/* Of another run of the system, of another size, of somebody else: an empty table. */
static void test_what_is_not_trusted(void **state)
{
    struct fixture *f = *state;
    for (int k = 0; k < 5; k++) {
        add_and_be_killed(f->dir, 5000);
        if (k == 0)
            change_file(f, 0, "hello", 5);
        if (k == 1)
            change_file(f, 8, "00000000-0000", 13); /* boot_id */
        if (k == 2)
            assert_int_equal(truncate(file_of(f), 5000), 0);
        if (k == 3)
            assert_int_equal(truncate(file_of(f), 10), 0);
        if (k == 4)
            change_file(f, 88, "\377\377\377\377", 4); /* bits */
        struct twin_table *t = open_at(f->dir);
        assert_int_equal(count(t, 0, 5000), 0);
        add_many(t, 0, 4000);
        assert_int_equal(count(t, 0, 4000), 4000);
        twin_table_delete(&t);
    }
}

/* No room for a file, now or later: it goes on in memory, and leaves no file that lacks rows. */
static void test_no_file_to_be_had(void **state)
{
    struct fixture *f = *state;
    struct twin_table *t = open_at("/proc/nowhere");
    add_many(t, 0, 20000);
    assert_int_equal(count(t, 0, 20000), 20000);
    twin_table_close(&t);
    char new[128];
    snprintf(new, sizeof new, "%s/twins-%d.new", f->dir, JOB);
    t = open_at(f->dir);
    add_many(t, 0, 4000);
    assert_true(file_bytes(f) > 0);
    assert_int_equal(mkdir(new, 0700), 0); /* in the way */
    add_many(t, 4000, 50000);
    assert_int_equal(count(t, 0, 50000), 50000);
    assert_int_equal(file_bytes(f), -1);
    twin_table_delete(&t);
}

/* Room on the disk that is meant for results is not taken: it goes on in memory. */
static void test_room_for_results_is_left(void **state)
{
    struct fixture *f = *state;
    struct twin_table *t =
        twin_table_open(&(struct twin_table_options){f->dir, JOB, BORN, SEED, 1ull << 60});
    add_many(t, 0, 20000);
    assert_int_equal(file_bytes(f), -1);
    assert_int_equal(count(t, 0, 20000), 20000);
    twin_table_close(&t);
}

static int is_nine(void *arg, int64_t job)
{
    ++*(int *)arg;
    return job == 9;
}

static void test_sweep(void **state)
{
    static const char *const names[] = {
        "twins-7.map", "twins-9.map", "twins-9.new", "twins-x.map", "twins-7.mapp", "assay.txt"};
    struct fixture *f = *state;
    char path[128];
    int asked = 0, left = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int k = 0; k < 6; k++) {
            snprintf(path, sizeof path, "%s/%s", f->dir, names[k]);
            fclose(fopen(path, "w"));
        }
        twin_table_sweep(f->dir, pass ? NULL : is_nine, &asked);
        for (int k = 0; k < 6; k++) {
            snprintf(path, sizeof path, "%s/%s", f->dir, names[k]);
            left = left << 1 | (access(path, F_OK) == 0);
        }
    }
    assert_int_equal(asked, 2);
    assert_int_equal(left, 027 << 6 | 007);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_are_found_and_no_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_ones_have_no_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_not_trusted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_file_to_be_had, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room_for_results_is_left, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
    };
    log_init("test", -1, LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
