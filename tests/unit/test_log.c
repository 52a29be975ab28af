/* test_log.c - one event is one line that a terminal only shows, whatever is in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "schema/log.h"
#include "schema/log_line.h"

/* What log_warn writes for this text, without its head. */
static void logged(const char *text, char *out, size_t size)
{
    char line[4096] = "";
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_warn("event=test text=%s", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    assert_true(read(ends[0], line, sizeof line - 1) > 0);
    close(ends[0]);
    const char *at = strstr(line, "event=test text=");
    assert_non_null(at);
    snprintf(out, size, "%s", at + strlen("event=test text="));
}

static void control_characters_are_not_logged(void **state)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {{"plain \xc3\xa4 \xe4\xb8\xad", "\"plain \xc3\xa4 \xe4\xb8\xad\"\n"},
        {"a\nevent=forged", "\"a?event=forged\"\n"}, {"\x1b[2J\r\t", "?[2J??\n"}, {"\x7f", "?\n"},
        {"\xc2\x9b"
         "2J",
            "?2J\n"},
        {"a\xe2\x80\xae"
         "b",
            "a?b\n"},
        {"\xff\xc3", "??\n"}};
    char out[4096];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        logged(cases[i].text, out, sizeof out);
        assert_string_equal(out, cases[i].shown);
    }
}

static size_t line_of(char *out, size_t size, int is_json, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static size_t line_of(char *out, size_t size, int is_json, const char *format, ...)
{
    struct log_head head = {"2026-01-31T12:00:00.123Z", "info", "assayd", is_json ? -1 : 3};
    va_list args;
    va_start(args, format);
    size_t n = log_line_write(out, size, &head, is_json, format, args);
    va_end(args);
    out[n] = '\0';
    return n;
}

static void both_forms_have_the_same_pairs(void **state)
{
    char out[2049];
    const char *hostile = "a\" level=error x=\"\\";
    (void)state;
    line_of(out, 2048, 0, "event=%s error=\"%s\" n=%d path=/a b/%s", "test", hostile, -7, "c");
    assert_string_equal(out, "2026-01-31T12:00:00.123Z info assayd 3 event=test "
                             "error=\"a\\\" level=error x=\\\"\\\\\" n=-7 path=\"/a b/c\"\n");
    line_of(out, 2048, 1, "event=%s error=\"%s\" n=%d path=/a b/%s", "test", hostile, -7, "c");
    assert_string_equal(out,
        "{\"ts\":\"2026-01-31T12:00:00.123Z\",\"level\":\"info\",\"role\":\"assayd\",\"rank\":null,"
        "\"event\":\"test\",\"error\":\"a\\\" level=error x=\\\"\\\\\",\"n\":-7,\"path\":\"/a "
        "b/c\"}\n");
    line_of(out, 2048, 1, "out of memory: %d bytes", 5);
    assert_non_null(strstr(out, ",\"message\":\"out of memory: 5 bytes\"}\n"));
    line_of(out, 2048, 1, "event=a name=%s mode=%04o", "007", 0600u);
    assert_non_null(strstr(out, ",\"event\":\"a\",\"name\":\"007\",\"mode\":\"0600\"}\n"));
}

/* A line of any room, of a value of any length, is JSON. */
static void a_cut_line_is_whole(void **state)
{
    char text[3000], out[2049];
    (void)state;
    for (size_t len = 300; len < sizeof text; len += 37) {
        memset(text, len % 2 ? '"' : 'x', len);
        text[len] = '\0';
        for (size_t size = LOG_LINE_LEAST; size < LOG_LINE_LEAST + 64; size++) {
            size_t n = line_of(out, size, 1, "event=a error=\"%s\" n=%d last=%s", text, 1, text);
            json_t *line = json_loadb(out, n, JSON_REJECT_DUPLICATES, NULL);
            assert_true(n <= size && out[n - 1] == '\n');
            assert_non_null(line);
            assert_string_equal(json_string_value(json_object_get(line, "event")), "a");
            json_decref(line);
        }
    }
}

static void beginning_anew_holds_no_more(void **state)
{
    int ends[2], saved = dup(STDERR_FILENO);
    (void)state;
    assert_int_equal(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO);
    log_init("test", -1, LOG_LEVEL_INFO);
    int next = dup(STDERR_FILENO);
    close(next);
    log_init("test", -1, LOG_LEVEL_INFO);
    int again = dup(STDERR_FILENO);
    close(again);
    dup2(saved, STDERR_FILENO);
    log_init("test", -1, LOG_LEVEL_INFO);
    close(saved);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(again, next);
}

static void a_long_line_is_cut_between_characters(void **state)
{
    char text[4096], out[4096];
    (void)state;
    for (size_t i = 0; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa4", 3);
    for (int shift = 0; shift < 2; shift++) {
        logged(text + shift, out, sizeof out); /* half a character first */
        size_t n = strlen(out);
        assert_in_range(n, 1000, 2048);
        assert_int_equal(out[n - 1], '\n');
        assert_true(out[n - 2] == '?' || memcmp(out + n - 3, "\xc3\xa4", 2) == 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(control_characters_are_not_logged),
        cmocka_unit_test(both_forms_have_the_same_pairs), cmocka_unit_test(a_cut_line_is_whole),
        cmocka_unit_test(a_long_line_is_cut_between_characters),
        cmocka_unit_test(beginning_anew_holds_no_more), /* it changes the lines' head */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
