/* test_identity.c - a checkpoint's identity and digest: every change of a file shows, whatever is
 * done to hide it, and nothing else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "worker/weights.h"

struct scene {
    char dir[64], path[128], cache[128];
    struct identity id;
};

static void put(const char *path, const char *text)
{
    FILE *f = fopen(path, "r+e");
    f = f ? f : fopen(path, "we");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void path_of(const struct scene *s, const char *name, char path[128])
{
    snprintf(path, 128, "%s/%s", s->dir, name);
}

static int setup(void **state)
{
    struct scene *s = xcalloc(1, sizeof *s);
    struct err e = {0};
    snprintf(s->dir, sizeof s->dir, "/tmp/assay-identity-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    path_of(s, "config.json", s->path);
    path_of(s, "digest.cache", s->cache);
    put(s->path, "{\"a\": 1}");
    assert_int_equal(checkpoint_identity(&s->id, s->dir, &e), 0);
    assert_int_equal(checkpoint_settle(&s->id), 1);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", s->dir);
    int rc = system(command);
    free(s);
    return rc;
}

/* Does the identity differ from the one before? It is the one before from then on. */
static int is_another(struct scene *s)
{
    struct identity before = s->id;
    struct err e = {0};
    assert_int_equal(checkpoint_identity(&s->id, s->dir, &e), 0);
    int differs = strcmp(before.hex, s->id.hex) != 0;
    assert_int_equal(
        checkpoint_check_identity(s->dir, before.hex, "they were read", &e) != 0, differs);
    return differs;
}

/* Of the same size, and with the old time set again, at once after the identity was taken. */
static void test_a_write_shows(void **state)
{
    struct scene *s = *state;
    struct stat st;
    assert_false(is_another(s));
    for (int i = 0; i < 20; i++) {
        assert_int_equal(stat(s->path, &st), 0);
        struct timespec times[2] = {st.st_atim, st.st_mtim};
        put(s->path, i % 2 ? "{\"a\": 1}" : "{\"a\": 2}");
        assert_int_equal(utimensat(AT_FDCWD, s->path, times, 0), 0);
        assert_true(is_another(s));
        checkpoint_settle(&s->id);
    }
    assert_false(is_another(s));
}

static void test_files_that_count(void **state)
{
    static const char *const counts[] = {"tokenizer.json", "model.safetensors",
        "model.safetensors.index.json", "model-00001-of-00002.safetensors"};
    static const char *const others[] = {"README.md", "tokenizer_config.json", "safetensors"};
    struct scene *s = *state;
    char path[128], part[128];
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        path_of(s, counts[i], path);
        put(path, "x");
        assert_true(is_another(s));
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        path_of(s, others[i], path);
        put(path, "x");
        assert_false(is_another(s));
    }
    path_of(s, "tokenizer.json", path);
    path_of(s, "copy", part);
    put(part, "x"); /* the same contents, another file */
    assert_int_equal(rename(part, path), 0);
    assert_true(is_another(s));
    unlink(path);
    assert_true(is_another(s));
}

static void test_a_digest_is_of_its_identity(void **state)
{
    struct scene *s = *state;
    struct identity id;
    struct err e = {0};
    char first[65], again[65];
    assert_int_equal(checkpoint_digest(first, &id, s->dir, s->cache, &e), 0);
    assert_string_equal(id.hex, s->id.hex);
    put(s->path, "{\"a\": 2}");
    assert_int_equal(checkpoint_digest(again, &id, s->dir, s->cache, &e), 0);
    assert_string_not_equal(first, again);
    assert_true(is_another(s));
    assert_string_equal(id.hex, s->id.hex);
    put(s->path, "{\"a\": 1}"); /* as it was: the digest too, whatever the times */
    assert_int_equal(checkpoint_digest(again, &id, s->dir, s->cache, &e), 0);
    assert_string_equal(first, again);
    assert_int_equal(checkpoint_digest(again, &id, s->dir, s->cache, &e), 0); /* remembered */
    assert_string_equal(first, again);
    assert_int_equal(
        checkpoint_check_identity(s->dir, "another", "they were read", &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "changed while they were read"));
}

/* ---- a digest that is remembered ---- */

static size_t get_line(const struct scene *s, char line[256])
{
    FILE *f = fopen(s->cache, "re");
    assert_non_null(f);
    size_t n = fread(line, 1, 255, f);
    line[n] = '\0';
    fclose(f);
    return n;
}

static void put_line(const struct scene *s, const char *line)
{
    unlink(s->cache);
    put(s->cache, line);
}

/* The digest is the files', whatever the cache says; and the cache is whole again. */
static void check_digest(const struct scene *s, const char *expected, const char *whole)
{
    struct identity id;
    struct err e = {0};
    char hex[65], line[256];
    assert_int_equal(checkpoint_digest(hex, &id, s->dir, s->cache, &e), 0);
    assert_string_equal(hex, expected);
    get_line(s, line);
    assert_string_equal(line, whole);
}

static void test_a_damaged_line_is_not_believed(void **state)
{
    struct scene *s = *state;
    struct identity id;
    struct err e = {0};
    char hex[65], whole[256], line[256];
    assert_int_equal(checkpoint_digest(hex, &id, s->dir, s->cache, &e), 0);
    size_t n = get_line(s, whole);
    for (size_t i = 0; i < n; i++) {
        memcpy(line, whole, n + 1);
        line[i] = line[i] == '0' ? '1' : '0';
        put_line(s, line);
        check_digest(s, hex, whole);
    }
    for (size_t k = 0; k < n; k++) { /* cut */
        snprintf(line, sizeof line, "%.*s", (int)k, whole);
        put_line(s, line);
        check_digest(s, hex, whole);
    }
    snprintf(line, sizeof line, "%s %.63s0\n", id.hex, hex); /* as an earlier version wrote it */
    put_line(s, line);
    check_digest(s, hex, whole);
}

static void test_folders_that_are_none(void **state)
{
    struct identity id;
    struct err e = {0};
    (void)state;
    assert_int_equal(checkpoint_identity(&id, "/nonexistent", &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "/nonexistent: cannot list it"));
}

static void test_times_of_the_future_are_not_waited_for(void **state)
{
    struct scene *s = *state;
    struct identity future = s->id;
    long long started_ms = now_mono_ms();
    future.changed.tv_sec += 86400;
    assert_int_equal(checkpoint_settle(&future), 0);
    future.changed.tv_sec -= 2 * 86400;
    assert_int_equal(checkpoint_settle(&future), 1);
    assert_true(now_mono_ms() - started_ms < 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_write_shows, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files_that_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_digest_is_of_its_identity, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_damaged_line_is_not_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_folders_that_are_none, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_times_of_the_future_are_not_waited_for, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
