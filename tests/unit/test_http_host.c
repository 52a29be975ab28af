/* test_http_host.c - which names a server without keys answers to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "broker/http/host.h"

static int check(const char *host)
{
    struct err e = {0};
    int rc = host_check(host, "Scorer.lan:8000", &e);
    assert_int_equal(rc, rc == 0 ? 0 : ASSAY_EUNAUTHORIZED);
    if (rc != 0) {
        assert_string_equal(e.field, "Host");
        assert_non_null(strstr(e.msg, "--api-keys"));
    }
    return rc == 0;
}

static void test_taken(void **state)
{
    static const char *const hosts[] = {"127.0.0.1", "127.0.0.1:8000", "10.1.2.3:80", "[::1]",
        "[::1]:8000", "[2001:db8::7]:1", "localhost", "LocalHost:8000", "localhost.",
        "localhost:", "localhost.:8000", "a.localhost", "a.b.localhost:9", "scorer.lan",
        "SCORER.LAN:1"};
    (void)state;
    for (size_t k = 0; k < sizeof hosts / sizeof hosts[0]; k++)
        if (!check(hosts[k]))
            fail_msg("'%s' is refused", hosts[k]);
    assert_true(check(NULL));
}

static void test_refused(void **state)
{
    static const char *const hosts[] = {"", ".", ":8000", "evil.example", "evil.example:8000",
        "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost", "-localhost", "lan",
        "a.scorer.lan", "scorer.lan.evil.example", "127.1", "0x7f.0.0.1", "2130706433", "::1",
        "[::1", "[::1]x", "[]", "[localhost]", "[scorer.lan]", "[127.0.0.1]", "[fe80::1%eth0]",
        "localhost:80:80", "localhost:x", "localhost@evil.example", "user@localhost", "localhost/",
        "127.0.0.1 evil.example", "\xff\xfe"};
    char longest[1000];
    (void)state;
    for (size_t k = 0; k < sizeof hosts / sizeof hosts[0]; k++)
        if (check(hosts[k]))
            fail_msg("'%s' is taken", hosts[k]);
    memset(longest, 'a', sizeof longest);
    memcpy(longest + sizeof longest - 11, ".localhost", 11);
    assert_false(check(longest));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
