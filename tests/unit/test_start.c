/* test_start.c - what a process does not take from its parent, and how it ends without memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "schema/start.h"

#define STRING_BYTES 100000

static int status_of(pid_t child)
{
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_children_are_waited_for(void **state)
{
    (void)state;
    signal(SIGCHLD, SIG_IGN);
    start_process();
    pid_t child = fork();
    if (child == 0)
        _exit(3);
    assert_int_equal(status_of(child), 3);
}

/* Parses objects with long strings until memory runs out: exits inside the parser. */
static void parse_for_ever(void)
{
    static char text[STRING_BYTES + 16];
    json_t *all = json_array();
    memset(text, 'x', sizeof text);
    memcpy(text, "{\"k\":\"", 6);
    memcpy(text + STRING_BYTES, "\"}", 3);
    int null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    setrlimit(RLIMIT_AS, &(struct rlimit){200 << 20, 200 << 20});
    for (int n = 0; n < 100000; n++)
        json_array_append_new(all, json_loads(text, 0, NULL));
    _exit(0);
}

static void test_the_parser_without_memory(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* the sanitizer itself needs terabytes of addresses */
#endif
    start_process();
    pid_t child = fork();
    if (child == 0)
        parse_for_ever();
    assert_int_equal(status_of(child), 71);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_children_are_waited_for),
        cmocka_unit_test(test_the_parser_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
