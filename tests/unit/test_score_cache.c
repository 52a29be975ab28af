/* test_score_cache.c - the score cache: what is found, for how long, in how many bytes, and after
 * what. */
#include "tests/unit/store_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <sodium.h>
#include <sys/wait.h>

#include "broker/store/score_cache.h"

#define SIZE STORE_CACHE_LEAST

struct cached {
    char dir[64];
    struct score_cache *c;
};

static int begin(void **state)
{
    struct cached *t = calloc(1, sizeof *t);
    make_dir(t->dir);
    t->c = score_cache_open(t->dir, SIZE, 0);
    assert_non_null(t->c);
    *state = t;
    return 0;
}

static int end(void **state)
{
    struct cached *t = *state;
    score_cache_close(&t->c);
    remove_dir(t->dir);
    free(t);
    return 0;
}

static void open_once_more(struct cached *t)
{
    score_cache_close(&t->c);
    t->c = score_cache_open(t->dir, SIZE, 0);
    assert_non_null(t->c);
}

static const uint8_t *key_of(uint32_t k)
{
    static uint8_t key[STORE_CACHE_KEY_BYTES];
    crypto_generichash(key, sizeof key, (const uint8_t *)&k, sizeof k, NULL, 0);
    return key;
}

/* The n values of entry k. */
static const float *values_of(uint32_t k, uint32_t n)
{
    static float values[10000];
    for (uint32_t i = 0; i < n; i++)
        values[i] = (float)k + (float)i / 7;
    return values;
}

static void add(struct cached *t, uint32_t k, uint32_t n)
{
    score_cache_add(&t->c, key_of(k), values_of(k, n), n);
}

/* Is it found? What is found must be right. */
static int has(struct cached *t, uint32_t k, uint32_t n)
{
    float found[10000];
    if (!score_cache_find(&t->c, key_of(k), found, n))
        return 0;
    assert_memory_equal(found, values_of(k, n), n * sizeof *found);
    return 1;
}

static uint64_t bytes_in(const char *dir)
{
    char path[400];
    struct stat st;
    uint64_t sum = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.' && stat(path, &st) == 0)
            sum += (uint64_t)st.st_size;
    }
    closedir(d);
    return sum;
}

static void test_comes_back(void **state)
{
    struct cached *t = *state;
    assert_false(has(t, 1, 1));
    add(t, 1, 1);
    add(t, 2, 500);
    add(t, 3, 9000);
    for (int turn = 0; turn < 3; turn++) {
        assert_true(has(t, 1, 1) && has(t, 2, 500) && has(t, 3, 9000));
        assert_false(has(t, 4, 1));
        assert_false(has(t, 1, 2)); /* as many values as were asked for, or none */
        score_cache_flush(&t->c);
        if (turn == 1)
            open_once_more(t);
    }
}

static void test_a_kill_loses_at_most_what_was_not_flushed(void **state)
{
    struct cached *t = *state;
    score_cache_close(&t->c);
    pid_t child = fork();
    if (child == 0) {
        t->c = score_cache_open(t->dir, SIZE, 0);
        for (uint32_t k = 0; k < 3000; k++) {
            add(t, k, 3);
            if (k % 50 == 49 && k < 2950)
                score_cache_flush(&t->c);
        }
        _exit(0);
    }
    waitpid(child, NULL, 0);
    t->c = score_cache_open(t->dir, SIZE, 0);
    assert_non_null(t->c);
    for (uint32_t k = 0; k < 2950; k++)
        assert_true(has(t, k, 3));
}

/* Many times as much as fits: bytes stay bounded, the latest are there, and so is what was asked
 * for all the time. */
static void bound(struct cached *t, uint32_t n_entries, uint32_t n)
{
    uint32_t latest = 0;
    add(t, 1000000, n);
    for (uint32_t k = 0; k < n_entries; k++) {
        add(t, k, n);
        if (k % 100 == 0) {
            assert_true(has(t, 1000000, n));
            score_cache_flush(&t->c);
            assert_true(bytes_in(t->dir) <= SIZE);
        }
    }
    assert_false(has(t, 0, n));
    for (uint32_t k = n_entries - SIZE / 8 / (48 + 4 * n); k < n_entries; k++)
        assert_true(has(t, k, n));
    for (uint32_t k = 0; k < n_entries; k++)
        latest += has(t, k, n);
    print_message("%u of %u entries of %u values in %llu bytes\n", latest, n_entries, n,
        (unsigned long long)bytes_in(t->dir));
    assert_true(latest * (16ull + 4 * n) > SIZE / 8);
    assert_true(bytes_in(t->dir) <= SIZE);
}

static void test_bound(void **state)
{
    bound(*state, 150000, 1);
}

static void test_bound_of_vectors(void **state)
{
    bound(*state, 6000, 1000);
}

/* A start with a smaller size keeps to that. */
static void test_a_smaller_bound(void **state)
{
    struct cached *t = *state;
    score_cache_close(&t->c);
    t->c = score_cache_open(t->dir, 8 * SIZE, 0);
    for (uint32_t k = 0; k < 4000; k++)
        add(t, k, 1000);
    score_cache_flush(&t->c);
    assert_true(bytes_in(t->dir) > 2 * SIZE);
    open_once_more(t);
    assert_true(bytes_in(t->dir) <= SIZE);
    add(t, 1, 1);
    open_once_more(t);
    assert_true(has(t, 1, 1));
}

/* Its files are removed under it, or others put there: what is added afterwards is kept. */
static void test_files_that_are_removed(void **state)
{
    struct cached *t = *state;
    char path[128], other[128];
    for (uint32_t k = 0; k < 4; k++) {
        snprintf(path, sizeof path, "%s/score-cache-%u.db", t->dir, k / 2);
        snprintf(other, sizeof other, "%s/other", t->dir);
        assert_int_equal(k % 2 ? rename(path, other) : unlink(path), 0);
        add(t, 2 * k, 1);
        score_cache_flush(&t->c);
        assert_non_null(t->c);
        add(t, 2 * k + 1, 1);
        open_once_more(t);
        assert_true(has(t, 2 * k + 1, 1));
    }
}

static void test_too_large_is_not_kept(void **state)
{
    struct cached *t = *state;
    static float values[SIZE / 64 / 4 + 1];
    score_cache_add(&t->c, key_of(1), values, SIZE / 64 / 4 + 1);
    assert_false(score_cache_find(&t->c, key_of(1), values, SIZE / 64 / 4 + 1));
    assert_non_null(t->c);
}

/* Somebody wrote into the file: other values under a key are not that key's. */
static void test_an_entry_proves_itself(void **state)
{
    struct cached *t = *state;
    char command[600];
    add(t, 1, 1);
    add(t, 2, 1);
    score_cache_close(&t->c);
    for (int g = 0; g < 2; g++) {
        snprintf(command, sizeof command,
            "sqlite3 %s/score-cache-%d.db 'update score set value = "
            "(select value from score order by key limit 1)'",
            t->dir, g);
        assert_int_equal(system(command), 0);
    }
    open_once_more(t);
    assert_int_equal(has(t, 1, 1) + has(t, 2, 1), 1);
}

static void spoil(const struct cached *t, int g, long from)
{
    char path[128];
    snprintf(path, sizeof path, "%s/score-cache-%d.db", t->dir, g);
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fseek(f, from, SEEK_SET);
    for (long i = from; i < size; i++)
        fputc((int)(randombytes_random() & 255), f);
    fclose(f);
}

/* Noise where entries were, while it is open: nothing wrong is found, and it goes on. */
static void test_damage_while_it_runs(void **state)
{
    struct cached *t = *state;
    for (uint32_t k = 0; k < 20000; k++)
        add(t, k, 1);
    open_once_more(t);
    spoil(t, 0, 2048);
    spoil(t, 1, 2048);
    int n = 0;
    for (uint32_t k = 0; k < 20000; k++)
        n += has(t, k, 1);
    print_message("%d left\n", n);
    for (uint32_t k = 0; t->c && k < 100; k++)
        add(t, k, 1);
    score_cache_flush(&t->c);
    assert_non_null(t->c);
    for (uint32_t k = 0; k < 100; k++)
        assert_true(has(t, k, 1));
}

static void test_full_disk(void **state)
{
    struct cached *t = *state;
    score_cache_close(&t->c);
    if (mount("tmpfs", t->dir, "tmpfs", 0, "size=1m") != 0) {
        print_error("SKIPPED: a tmpfs cannot be mounted here: %s\n", strerror(errno));
        skip();
    }
    t->c = score_cache_open(t->dir, SIZE, 0);
    assert_non_null(t->c);
    uint32_t k = 0;
    for (; t->c && k < 100000; k++) {
        add(t, k, 1);
        if (k % 100 == 0)
            score_cache_flush(&t->c);
    }
    assert_null(t->c); /* given up, and everything can still be called */
    assert_true(k > 1000);
    add(t, 1, 1);
    assert_false(has(t, 1, 1));
    score_cache_flush(&t->c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_comes_back, begin, end),
        cmocka_unit_test_setup_teardown(test_a_kill_loses_at_most_what_was_not_flushed, begin, end),
        cmocka_unit_test_setup_teardown(test_bound, begin, end),
        cmocka_unit_test_setup_teardown(test_bound_of_vectors, begin, end),
        cmocka_unit_test_setup_teardown(test_a_smaller_bound, begin, end),
        cmocka_unit_test_setup_teardown(test_files_that_are_removed, begin, end),
        cmocka_unit_test_setup_teardown(test_too_large_is_not_kept, begin, end),
        cmocka_unit_test_setup_teardown(test_an_entry_proves_itself, begin, end),
        cmocka_unit_test_setup_teardown(test_damage_while_it_runs, begin, end),
        cmocka_unit_test_setup_teardown(test_full_disk, begin, end),
    };
    return sodium_init() < 0 ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
