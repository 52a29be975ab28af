/* test_spawn.c - children that end, say something, hang (spawn.c), with real processes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/workers/spawn.h"
#include "schema/clock.h"

static struct child start(const char *script)
{
    struct child c;
    struct err e = {0};
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    struct child_options o = {(char *const *)argv, NULL, 0, -1, -1};
    assert_int_equal(child_start(&c, &o, &e), 0);
    return c;
}

static void test_reaping_waits_as_long_as_it_is_told_to(void **unused)
{
    struct child c = start("exec sleep 100"), quick = start("sleep 0.2; exit 7");
    int code = 0, number = 0;
    (void)unused;
    long long before = now_mono_ms();
    assert_int_equal(child_reap(&c, 0, &code, &number), 0);
    assert_int_equal(child_reap(&c, 100, &code, &number), 0);
    assert_in_range(now_mono_ms() - before, 100, 5000);
    assert_int_equal(child_reap(&quick, 10000, &code, &number), 1);
    assert_int_equal(code, 7);
    assert_int_equal(number, 0);
    child_end(&c, now_mono_ms() + CHILD_END_MS, &code, &number);
    assert_int_equal(number, SIGKILL);
    assert_int_equal(c.pidfd, -1);
    child_end(&c, 0, &code, &number); /* nothing is left to do */
}

/* A process that watches another for half a second, as a debugger or a leak checker does; -1: it
 * may not. */
static pid_t watch(pid_t pid)
{
    int fds[2];
    char attached = 0;
    assert_int_equal(pipe(fds), 0);
    pid_t watcher = fork();
    if (watcher == 0) {
        attached = ptrace(PTRACE_SEIZE, pid, NULL, NULL) == 0;
        if (write(fds[1], &attached, 1) == 1)
            usleep(500000);
        _exit(0);
    }
    assert_int_equal(read(fds[0], &attached, 1), 1);
    close(fds[0]);
    close(fds[1]);
    if (!attached)
        waitpid(watcher, NULL, 0);
    return attached ? watcher : -1;
}

/* Of such a child the end is seen at once, but only the watcher may take it, until it goes. */
static void test_a_watched_child_is_reaped(void **unused)
{
    struct child c = start("exec sleep 100");
    int code = 0, number = 0;
    (void)unused;
    pid_t watcher = watch(c.pid);
    if (watcher < 0)
        print_message("not tried: this process may not be traced\n");
    child_end(&c, now_mono_ms() + CHILD_END_MS, &code, &number);
    assert_int_equal(number, SIGKILL);
    if (watcher > 0)
        waitpid(watcher, NULL, 0);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no child is left */
}

static int stop_fd = -1;

static int say(const char *script, int limit_ms, char *words, size_t size, struct err *e)
{
    char out[64];
    const char *argv[] = {"/bin/sh", "-c", script, NULL};
    return child_output((char *const *)argv, (struct child_limits){limit_ms, stop_fd},
        (struct child_text){out, sizeof out}, (struct child_text){words, size}, e);
}

static void test_only_silence_is_too_long(void **unused)
{
    char words[256];
    struct err e = {0};
    (void)unused;
    const char *talks = "for i in 1 2 3 4 5 6; do echo $i >&2; sleep 0.5; done; exit 3";
    assert_int_equal(say(talks, 2000, words, sizeof words, &e), 3);
    assert_string_equal(child_last_line(words, "none"), "6");
    assert_int_equal(say("exec sleep 100", 300, words, sizeof words, &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "did not end, and said nothing"));
    int stop[2];
    assert_int_equal(pipe(stop), 0);
    stop_fd = stop[0];
    assert_int_equal(say(talks, 2000, words, sizeof words, &e), 3);
    assert_int_equal(write(stop[1], "", 1), 1);
    assert_int_equal(say("exec sleep 100", 20000, words, sizeof words, &e), ASSAY_ENOTREADY);
    stop_fd = -1;
    close(stop[0]);
    close(stop[1]);
    /* closes what it says things with, and stays */
    assert_int_equal(say("exec sleep 100 >&- 2>&-", 300, words, sizeof words, &e), ASSAY_EFORMAT);
}

/* Of what is in the broker's environment, ranks get what they may need, and nothing else. */
static void test_the_environment_is_a_short_list(void **unused)
{
    static const char *const passed[] = {"LC_ALL", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG",
        "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "TMPDIR", "ASAN_OPTIONS", "PATH"};
    static const char *const kept_back[] = {"HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "http_proxy",
        "LD_PRELOAD", "PATHOLOGY", "XCUDA_X", "LC"};
    enum {
        N_PASSED = sizeof passed / sizeof passed[0],
        N_KEPT = sizeof kept_back / sizeof passed[0]
    };
    const char *argv[] = {"/usr/bin/env", NULL};
    char out[8192], words[256], line[64], *path = strdup(getenv("PATH"));
    struct err e = {0};
    (void)unused;
    for (int i = 0; i < N_PASSED; i++)
        setenv(passed[i], "7", 1);
    for (int i = 0; i < N_KEPT; i++)
        setenv(kept_back[i], "7", 1);
    int rc = child_output((char *const *)argv, (struct child_limits){20000, -1},
        (struct child_text){out + 1, sizeof out - 1}, (struct child_text){words, sizeof words}, &e);
    out[0] = '\n';
    for (int i = 0; i < N_KEPT; i++)
        unsetenv(kept_back[i]);
    setenv("PATH", path, 1);
    free(path);
    assert_int_equal(rc, 0);
    for (int i = 0; i < N_PASSED + N_KEPT; i++) {
        const char *name = i < N_PASSED ? passed[i] : kept_back[i - N_PASSED];
        snprintf(line, sizeof line, "\n%s=7\n", name);
        if ((strstr(out, line) != NULL) != (i < N_PASSED))
            fail_msg("%s: %s", name, i < N_PASSED ? "not passed on" : "passed on");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reaping_waits_as_long_as_it_is_told_to),
        cmocka_unit_test(test_a_watched_child_is_reaped),
        cmocka_unit_test(test_only_silence_is_too_long),
        cmocka_unit_test(test_the_environment_is_a_short_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
