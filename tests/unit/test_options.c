/* test_options.c - what the client's option table offers is what the code behind it knows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "broker/cli/cli.h"
#include "broker/text/chat.h"
#include "schema/pooling.h"

/* Calls check for each of the option's values; returns how many there are. */
static int each_value(enum cli_option option, int (*check)(const char *word, unsigned long len))
{
    int n = 0;
    for (const char *at = cli_option_info(option)->values; *at; n++) {
        unsigned long len = strcspn(at, " ");
        assert_true(check(at, len));
        at += len + (at[len] == ' ');
    }
    return n;
}

static int is_pooling(const char *word, unsigned long len)
{
    return pool_type_from_name(word, len) > 0;
}

static int is_activation(const char *word, unsigned long len)
{
    return activation_from_name(word, len) > 0;
}

static int is_chat(const char *word, unsigned long len)
{
    char name[64] = "";
    memcpy(name, word, len);
    return chat_from_name(name) != CHAT_COUNT;
}

static void values_are_known(void **state)
{
    (void)state;
    assert_int_equal(each_value(CLI_POOL, is_pooling), POOL_CLS); /* all but POSITIONS */
    assert_int_equal(each_value(CLI_ACTIVATION, is_activation), ACTIVATION_CONFIG);
    assert_int_equal(each_value(CLI_CHAT_TEMPLATE, is_chat), CHAT_COUNT - CHAT_CHATML);
}

static void every_option_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int a = 0; a < CLI_OPTION_COUNT; a++) {
        const struct cli_option_info *info = cli_option_info((enum cli_option)a);
        assert_non_null(info->name);
        assert_true(info->argument || !info->values);
        for (int b = 0; b < a; b++)
            assert_string_not_equal(info->name, cli_option_info((enum cli_option)b)->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_known),
        cmocka_unit_test(every_option_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
