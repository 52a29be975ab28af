/* test_endpoint.c - which texts are an endpoint, and that nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "schema/endpoint.h"

static int parse(const char *text, enum endpoint_use use)
{
    struct endpoint endpoint;
    struct err e = {0};
    int rc = endpoint_parse(&endpoint, text, use, &e);
    if (rc != 0)
        assert_int_equal(strncmp(e.msg, "endpoint '", 10), 0); /* says which */
    return rc;
}

static void local_ones_are_for_both(void **state)
{
    static const char *const good[] = {"ipc:///tmp/a.sock", "ipc://a.sock", "ipc://./@a",
        "ipc:///tmp/a;b", "ipc:///tmp/\xc3\xa4 b", "tcp://127.0.0.1:1", "tcp://127.0.0.1:65535",
        "tcp://127.1.2.3:5555", "tcp://[::1]:5555", "tcp://[0:0:0:0:0:0:0:1]:5555"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(parse(good[i], ENDPOINT_LISTEN), 0);
        assert_int_equal(parse(good[i], ENDPOINT_CONNECT), 0);
    }
}

static void parts_are_told(void **state)
{
    struct endpoint endpoint;
    struct err e;
    (void)state;
    assert_int_equal(endpoint_parse(&endpoint, "ipc:///tmp/a", ENDPOINT_LISTEN, &e), 0);
    assert_string_equal(endpoint.path, "/tmp/a");
    assert_int_equal(endpoint_parse(&endpoint, "tcp://[::1]:5", ENDPOINT_LISTEN, &e), 0);
    assert_true(endpoint.is_ipv6 && !endpoint.path);
    assert_int_equal(endpoint_parse(&endpoint, "tcp://127.0.0.1:5", ENDPOINT_LISTEN, &e), 0);
    assert_true(!endpoint.is_ipv6 && !endpoint.path);
}

static void others_are_to_connect_only(void **state)
{
    static const char *const far[] = {"tcp://10.0.0.1:5555", "tcp://0.0.0.0:5555",
        "tcp://[fd00::1]:5555", "tcp://[::]:5555", "tcp://[::ffff:127.0.0.1]:5555",
        "tcp://localhost:5555", "tcp://box-1.example.org:5555", "tcp://eth0:5555"};
    (void)state;
    for (size_t i = 0; i < sizeof far / sizeof far[0]; i++) {
        assert_true(parse(far[i], ENDPOINT_LISTEN) < 0);
        assert_int_equal(parse(far[i], ENDPOINT_CONNECT), 0);
    }
}

static void all_else_is_refused(void **state)
{
    static const char *const bad[] = {"", "ipc", "ipc://", "ipc://@name", "ipc://@", "ipc://*",
        "ipc:///tmp/", "ipc:///tmp/a\nb", "IPC:///tmp/a", " ipc:///tmp/a", "tcp://",
        "tcp://:", "tcp://127.0.0.1", "tcp://127.0.0.1:", "tcp://127.0.0.1:0", "tcp://127.0.0.1:*",
        "tcp://127.0.0.1:!", "tcp://127.0.0.1:65536", "tcp://127.0.0.1:05555",
        "tcp://127.0.0.1:+5555", "tcp://127.0.0.1:-1", "tcp://127.0.0.1:5555 ",
        "tcp://127.0.0.1:5555/", "tcp://127.0.0.1:5555,tcp://127.0.0.1:5556", "tcp://*:5555",
        "tcp://:5555", "tcp://127.1:5555", "tcp://0x7f.0.0.1:5555", "tcp://127.0.0.1.5:5555",
        "tcp://127.0.0.1:1;0.0.0.0:5574", "tcp://127.0.0.1:0;0.0.0.0:5574",
        "tcp://eth0;127.0.0.1:5574", "tcp://127.0.0.1;127.0.0.1:5574", "tcp://::1:5555",
        "tcp://[::1]", "tcp://[::1:5555", "tcp://[]:5555", "tcp://[127.0.0.1]:5555",
        "tcp://[::1%lo]:5555", "tcp://a b:5555", "tcp://-a:5555", "tcp://user@127.0.0.1:5555",
        "inproc://a", "pgm://127.0.0.1;239.0.0.1:5", "epgm://eth0;239.0.0.1:5", "vmci://1:2",
        "tipc://{1,2,3}", "ws://127.0.0.1:80", "wss://127.0.0.1:80", "udp://127.0.0.1:5",
        "norm://a:5", "http://127.0.0.1:80", "/tmp/a.sock"};
    char longest[6 + 108 + 1] = "ipc:///";
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_true(parse(bad[i], ENDPOINT_LISTEN) < 0);
        assert_true(parse(bad[i], ENDPOINT_CONNECT) < 0);
    }
    memset(longest + 7, 'a', sizeof longest - 8);
    assert_true(parse(longest, ENDPOINT_LISTEN) < 0);
    longest[sizeof longest - 2] = '\0';
    assert_int_equal(parse(longest, ENDPOINT_LISTEN), 0);
}

/* ---- sockets in directories of any length ---- */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

/* A directory in `root` whose path has so many bytes, made with those above it. */
static void make_deep(const char *root, char *path, size_t bytes)
{
    size_t n = (size_t)sprintf(path, "%s/", root);
    for (size_t k = 1; n < bytes; k++, n++)
        path[n] = k % 50 == 0 && n + 1 < bytes ? '/' : 'x';
    path[n] = '\0';
    for (char *slash = path + strlen(root); (slash = strchr(slash + 1, '/')) != NULL;) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
}

/* Bound in this process by its own descriptor, reached by another one. */
static void reach(void *context, const char *dir, const char *name)
{
    char here[ENDPOINT_BYTES], there[ENDPOINT_BYTES], heard[8] = "", path[400];
    int fds[2] = {-1, -1}, timeout_ms = 30000;
    struct err e = {0};
    void *pull = zmq_socket(context, ZMQ_PULL), *push = zmq_socket(context, ZMQ_PUSH);
    zmq_setsockopt(pull, ZMQ_RCVTIMEO, &timeout_ms, sizeof timeout_ms);
    assert_int_equal(endpoint_in_dir(here, dir, name, &fds[0], &e), 0);
    assert_int_equal(endpoint_in_dir(there, dir, name, &fds[1], &e), 0);
    assert_int_equal(fds[0] >= 0, strlen(dir) + 1 + strlen(name) > 107);
    assert_int_equal(zmq_bind(pull, here), 0);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(access(path, F_OK), 0); /* it lies there */
    assert_int_equal(zmq_connect(push, there), 0);
    assert_int_equal(zmq_send(push, "hear", 4, 0), 4);
    assert_int_equal(zmq_recv(pull, heard, sizeof heard, 0), 4);
    zmq_close(push);
    zmq_close(pull);
    for (int k = 0; k < 2; k++)
        if (fds[k] >= 0)
            close(fds[k]);
}

static void a_directory_of_any_length_has_sockets(void **state)
{
    char root[] = "/tmp/assay-endpoint-XXXXXX", path[400];
    (void)state;
    assert_non_null(mkdtemp(root));
    for (size_t bytes = 60; bytes <= 350; bytes += bytes >= 80 && bytes < 112 ? 1 : 17) {
        void *context = zmq_ctx_new();
        make_deep(root, path, bytes);
        assert_int_equal(strlen(path), bytes);
        reach(context, path, "broker.sock");
        reach(context, path, "group-0-18446744073709551615.sock");
        zmq_ctx_term(context);
    }
    struct err e = {0};
    int fd = -1;
    char endpoint[ENDPOINT_BYTES];
    strcpy(path + 200, "y");
    assert_int_equal(endpoint_in_dir(endpoint, path, "broker.sock", &fd, &e), ASSAY_EIO);
    assert_non_null(strstr(e.msg, path));
    nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void a_directory_of_any_name_too(void **state)
{
    char endpoint[ENDPOINT_BYTES];
    struct err e = {0};
    int fd = -1;
    (void)state;
    assert_int_equal(endpoint_in_dir(endpoint, "@d", "broker.sock", &fd, &e), 0);
    assert_string_equal(endpoint, "ipc://./@d/broker.sock");
    assert_int_equal(endpoint_in_dir(endpoint, "a\nb", "broker.sock", &fd, &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "control character"));
    assert_int_equal(fd, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_directory_of_any_name_too),
        cmocka_unit_test(local_ones_are_for_both),
        cmocka_unit_test(parts_are_told),
        cmocka_unit_test(others_are_to_connect_only),
        cmocka_unit_test(all_else_is_refused),
        cmocka_unit_test(a_directory_of_any_length_has_sockets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
