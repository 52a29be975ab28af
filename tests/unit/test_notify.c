/* test_notify.c - what a service manager hears, by a path and by an abstract name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "schema/notify.h"

/* A manager's socket; '@' in front: abstract. */
static int listen_at(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, path, strlen(path));
    if (*path == '@')
        a.sun_path[0] = '\0';
    else
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
    return fd;
}

/* The next datagram, or "" when there is none. */
static const char *heard(int fd, char text[100])
{
    ssize_t n = recv(fd, text, 99, 0);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

static void lines_arrive(void **state)
{
    (void)state;
    char path[60], text[100];
    for (int is_abstract = 0; is_abstract < 2; is_abstract++) {
        struct notify n;
        snprintf(path, sizeof path, "%sassay_notify_%d", is_abstract ? "@" : "/tmp/", getpid());
        int fd = listen_at(path);
        notify_open(&n, path, NULL, NULL);
        notify_send(&n, "READY=1\nSTATUS=x");
        assert_string_equal(heard(fd, text), "READY=1\nSTATUS=x");
        assert_true(notify_alive(&n, 5) == LLONG_MAX); /* none was asked for */
        assert_string_equal(heard(fd, text), "");
        close(fd);
        notify_send(&n, "STOPPING=1"); /* nobody is there any more */
        notify_close(&n);
        unlink(path);
    }
}

static void signs_of_life(void **state)
{
    (void)state;
    char path[60], text[100], pid[20];
    struct notify n;
    snprintf(path, sizeof path, "@assay_alive_%d", getpid());
    snprintf(pid, sizeof pid, "%d", getpid());
    int fd = listen_at(path);
    notify_open(&n, path, "30000000", pid);
    assert_true(notify_alive(&n, 1000) == 11000);
    assert_string_equal(heard(fd, text), "WATCHDOG=1");
    assert_true(notify_alive(&n, 10999) == 11000);
    assert_string_equal(heard(fd, text), "");
    assert_true(notify_alive(&n, 12000) == 22000);
    assert_string_equal(heard(fd, text), "WATCHDOG=1");
    notify_close(&n);
    notify_open(&n, path, "30000000", "1"); /* it was for another process */
    assert_true(notify_alive(&n, 1000) == LLONG_MAX);
    notify_close(&n);
    close(fd);
}

static void nobody_wants_to_know(void **state)
{
    (void)state;
    struct notify n;
    static const char *const paths[] = {NULL, "", "relative", "/nowhere/at/all", "vsock:2:3",
        "/much/too/long/for/a/socket/much/too/long/for/a/socket/much/too/long/for/a/socket/much/"
        "too/long/for/a/socket/x"};
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
        notify_open(&n, paths[i], "1000", NULL);
        assert_int_equal(n.fd, 0);
        assert_true(notify_alive(&n, 1) == LLONG_MAX);
        notify_send(&n, "READY=1");
        notify_close(&n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_arrive),
        cmocka_unit_test(signs_of_life),
        cmocka_unit_test(nobody_wants_to_know),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
