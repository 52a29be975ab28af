/* test_config_file.c - lines of a file of options. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/config_file.h"

static int add(void *arg, int line, char *key, char *value)
{
    char *out = arg;
    sprintf(out + strlen(out), "%d:%s=%s;", line, key, value ? value : "(none)");
    return strcmp(key, "stop") == 0 ? 5 : 0;
}

/* Reads these bytes; `seen` gets the lines, or the error behind them. */
static int read_bytes(const char *bytes, size_t n, char seen[400])
{
    char path[] = "/tmp/assay_config_XXXXXX", *text = NULL;
    struct err e = {0};
    int fd = mkstemp(path);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
    seen[0] = '\0';
    int rc = config_file_read(path, &text, add, seen, &e);
    if (rc < 0)
        snprintf(seen, 400, "%.399s", e.msg);
    free(text);
    unlink(path);
    return rc;
}

static void lines(void **state)
{
    (void)state;
    static const struct {
        const char *text, *seen;
    } cases[] = {
        {"", ""},
        {"\n\n# x = 1\n  # y\n", ""},
        {"a = 1\nb 2\nc=3\nd", "1:a=1;2:b=2;3:c=3;4:d=(none);"},
        {"  a\t=\t x = y # z \r\n", "1:a=x = y # z;"},
        {"lora = n=d", "1:lora=n=d;"},
        {"a = = 1", "1:a== 1;"},
        {"\nb  two words\n", "2:b=two words;"},
    };
    char seen[400];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(read_bytes(cases[i].text, strlen(cases[i].text), seen), 0);
        assert_string_equal(seen, cases[i].seen);
    }
}

static void what_is_refused(void **state)
{
    (void)state;
    char seen[400];
    assert_int_equal(read_bytes("a 1\n = 2", 8, seen), ASSAY_EFORMAT);
    assert_non_null(strstr(seen, ":2: expected `key = value`"));
    assert_int_equal(read_bytes("a =", 3, seen), ASSAY_EFORMAT);
    assert_int_equal(read_bytes("a\0b", 3, seen), ASSAY_EFORMAT);
    assert_int_equal(read_bytes("a \xff", 3, seen), ASSAY_EFORMAT);
    assert_int_equal(read_bytes("stop\nb", 6, seen), 5);
    assert_string_equal(seen, "1:stop=(none);");
    char *text, *large = malloc(CONFIG_FILE_BYTES + 1);
    memset(large, '\n', CONFIG_FILE_BYTES + 1);
    assert_int_equal(read_bytes(large, CONFIG_FILE_BYTES, seen), 0);
    assert_int_equal(read_bytes(large, CONFIG_FILE_BYTES + 1, seen), ASSAY_EFORMAT);
    free(large);
    struct err e = {0};
    assert_int_equal(config_file_read("/nowhere/x", &text, add, seen, &e), ASSAY_EIO);
    free(text);
    assert_int_equal(config_file_read("/", &text, add, seen, &e), ASSAY_EIO);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
