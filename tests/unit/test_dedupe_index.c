/* test_dedupe_index.c - the table of hints: what was added is found, in memory and in a file that
 * none can reach. */
#include "tests/unit/store_fixture.h"

#include <dirent.h>
#include <sys/stat.h>

#include "broker/sched/dedupe_index.h"
#include "schema/log.h"
#include "tests/unit/dedupe_file.h"

enum { JOB = 7 };

static struct dedupe_index *open_at(const char *dir)
{
    return dedupe_index_open(&(struct dedupe_index_options){.dir = dir, .job = JOB});
}

/* Not one that anybody chose. */
static uint64_t hash_of(uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15ull;
    i = (i ^ i >> 31) * 0xbf58476d1ce4e5b9ull;
    return i ^ i >> 29;
}

static int has(struct dedupe_index *t, uint64_t hash, uint32_t i)
{
    uint32_t found[DEDUPE_INDEX_SAME], n = dedupe_index_find(t, hash, found);
    while (n > 0)
        if (found[--n] == i)
            return 1;
    return 0;
}

static void add_many(struct dedupe_index *t, uint32_t from, uint32_t to)
{
    for (uint32_t i = from; i < to; i++)
        dedupe_index_add(t, hash_of(i), i);
}

static uint32_t count(struct dedupe_index *t, uint32_t from, uint32_t to)
{
    uint32_t n = 0;
    for (uint32_t i = from; i < to; i++)
        n += (uint32_t)has(t, hash_of(i), i);
    return n;
}

static uint64_t file_bytes(const struct fixture *f)
{
    return dedupe_file(f->dir, JOB).bytes;
}

/* Of files called so. */
static int names_in(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));)
        n += strncmp(entry->d_name, "twins", 5) == 0;
    closedir(d);
    return n;
}

static void test_all_are_found_and_no_others(void **state)
{
    enum { N = 300000 };
    const char *dirs[] = {NULL, ((struct fixture *)*state)->dir};
    for (int k = 0; k < 2; k++) {
        struct dedupe_index *t = open_at(dirs[k]);
        uint32_t found[DEDUPE_INDEX_SAME], others = 0;
        add_many(t, 0, N);
        assert_int_equal(count(t, 0, N), N);
        for (uint32_t i = N; i < 2 * N; i++)
            others += dedupe_index_find(t, hash_of(i), found);
        assert_true(others < 100); /* one in 2^32 / N: 21 */
        dedupe_index_close(&t);
        assert_int_equal(file_bytes(*state), 0);
    }
}

static void test_the_ends(void **state)
{
    static const uint64_t hashes[] = {0, 1, UINT64_MAX, 0xffffffff00000000ull, 1ull << 32};
    static const uint32_t rows[] = {0, 1, UINT32_MAX - 1, UINT32_MAX};
    struct dedupe_index *t = open_at(((struct fixture *)*state)->dir);
    for (int h = 0; h < 5; h++)
        for (int i = 0; i < 4; i++)
            dedupe_index_add(t, hashes[h], rows[i]);
    add_many(t, 10, 5000);
    for (int h = 0; h < 5; h++)
        for (int i = 0; i < 4; i++)
            assert_true(has(t, hashes[h], rows[i]));
    dedupe_index_close(&t);
}

/* All with one hash: a bounded number is kept, and it takes no longer for that. */
static void test_malice(void **state)
{
    uint32_t found[DEDUPE_INDEX_SAME];
    struct dedupe_index *t = open_at(NULL);
    (void)state;
    for (uint32_t i = 0; i < 1000000; i++)
        dedupe_index_add(t, 5ull << 32, i % 500000);
    assert_int_equal(dedupe_index_find(t, 5ull << 32, found), DEDUPE_INDEX_SAME);
    add_many(t, 0, 3000);
    assert_int_equal(count(t, 0, 3000), 3000);
    dedupe_index_close(&t);
}

static void test_small_ones_have_no_file(void **state)
{
    struct fixture *f = *state;
    struct dedupe_index *t = open_at(f->dir);
    add_many(t, 0, 3000);
    assert_int_equal(file_bytes(f), 0);
    add_many(t, 3000, 3200);
    assert_int_equal(file_bytes(f), 8 << 13);
    assert_int_equal(dedupe_index_small_bytes(t), 0);
    dedupe_index_close(&t);
    assert_int_equal(file_bytes(f), 0);
}

/* A file that can be found can be cut short, and the next page that is looked at ends the broker by
 * SIGBUS. */
static void test_none_can_be_cut_short(void **state)
{
    struct fixture *f = *state;
    struct dedupe_index *t = open_at(f->dir);
    for (uint32_t n = 4000; n < 300000; n *= 2) {
        add_many(t, n - 4000, n);
        assert_int_equal(names_in(f->dir), 0);
    }
    assert_true(file_bytes(f) > 0);
    dedupe_index_close(&t);
}

/* Slots of random bits, of one tag, of bits that are all ones: each search ends, and the table is
 * told to lie. */
static void test_damaged_slots(void **state)
{
    struct fixture *f = *state;
    for (int k = 0; k < 3; k++) {
        struct dedupe_index *t = open_at(f->dir);
        add_many(t, 0, 50000);
        assert_false(dedupe_index_lies(t));
        struct dedupe_file file = dedupe_file(f->dir, JOB);
        for (uint64_t i = 0; i < file.bytes / 8; i++)
            file.slots[i] = k == 0   ? hash_of(i + 1000000) | 1
                            : k == 1 ? 5ull << 32 | i
                                     : UINT64_MAX;
        count(t, 0, 1000);
        assert_true(dedupe_index_lies(t));
        add_many(t, 50000, 52000);
        assert_true(count(t, 0, 1000) < 1000);
        dedupe_index_close(&t);
    }
}

/* As it grows it looks at all of them: their number has to be right, and each must find a place. */
static void test_damage_is_seen_as_it_grows(void **state)
{
    struct fixture *f = *state;
    for (int k = 0; k < 2; k++) {
        struct dedupe_index *t = open_at(f->dir);
        add_many(t, 0, 12000); /* of 12,288 */
        struct dedupe_file file = dedupe_file(f->dir, JOB);
        for (uint64_t i = 5000; i < (k == 0 ? 5100 : file.bytes / 8); i++)
            file.slots[i] = k == 0 || file.slots[i] == 0 ? 0 : 9ull << 32 | i;
        add_many(t, 12000, 14000);
        assert_true(dedupe_index_lies(t));
        assert_int_equal(file_bytes(f), 8 << 15);
        dedupe_index_close(&t);
    }
}

/* Memory is believed: so a table that is made again there is the last. */
static void test_in_memory_it_does_not_lie(void **state)
{
    struct fixture *f = *state;
    struct dedupe_index *t = open_at(NULL);
    dedupe_index_distrust(t);
    assert_false(dedupe_index_lies(t));
    add_many(t, 0, 50000);
    assert_false(dedupe_index_lies(t));
    dedupe_index_close(&t);
    t = open_at(f->dir);
    add_many(t, 0, 50000);
    dedupe_index_distrust(t);
    assert_true(dedupe_index_lies(t));
    add_many(t, 50000, 100000); /* and it is not forgotten */
    assert_true(dedupe_index_lies(t));
    dedupe_index_close(&t);
}

/* No room for a file, now or later: it goes on in memory, and leaves no file that lacks rows. */
static void test_no_file_to_be_had(void **state)
{
    struct fixture *f = *state;
    struct dedupe_index *t = open_at("/proc/nowhere");
    add_many(t, 0, 20000);
    assert_int_equal(count(t, 0, 20000), 20000);
    dedupe_index_close(&t);
    char new[128];
    snprintf(new, sizeof new, "%s/twins-%d.new", f->dir, JOB);
    t = open_at(f->dir);
    add_many(t, 0, 4000);
    assert_true(file_bytes(f) > 0);
    assert_int_equal(mkdir(new, 0700), 0); /* in the way */
    add_many(t, 4000, 50000);
    assert_int_equal(count(t, 0, 50000), 50000);
    assert_int_equal(file_bytes(f), 0);
    dedupe_index_close(&t);
}

/* Room on the disk that is meant for results is not taken: it goes on in memory. */
static void test_room_for_results_is_left(void **state)
{
    struct fixture *f = *state;
    struct dedupe_index *t = dedupe_index_open(
        &(struct dedupe_index_options){.dir = f->dir, .job = JOB, .min_free_bytes = 1ull << 60});
    add_many(t, 0, 20000);
    assert_int_equal(file_bytes(f), 0);
    assert_int_equal(count(t, 0, 20000), 20000);
    dedupe_index_close(&t);
}

/* What a killed broker, or version before, left. */
static void test_sweep(void **state)
{
    static const char *const names[] = {
        "twins-7.map", "twins-9.new", "twins-x.map", "twins-7.mapp", "assay.txt"};
    struct fixture *f = *state;
    char path[128];
    for (int k = 0; k < 5; k++) {
        snprintf(path, sizeof path, "%s/%s", f->dir, names[k]);
        fclose(fopen(path, "w"));
    }
    dedupe_index_sweep(f->dir);
    for (int k = 0; k < 5; k++) {
        snprintf(path, sizeof path, "%s/%s", f->dir, names[k]);
        assert_int_equal(access(path, F_OK), k < 2 ? -1 : 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_are_found_and_no_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_malice, setup, teardown),
        cmocka_unit_test_setup_teardown(test_small_ones_have_no_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_none_can_be_cut_short, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damaged_slots, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage_is_seen_as_it_grows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_memory_it_does_not_lie, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_file_to_be_had, setup, teardown),
        cmocka_unit_test_setup_teardown(test_room_for_results_is_left, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sweep, setup, teardown),
    };
    log_init("test", -1, LOG_LEVEL_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
