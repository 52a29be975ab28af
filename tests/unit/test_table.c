/* test_table.c - a table against a plain array: random keys added, replaced and removed, keys that
 * begin at the same place, and a walk that removes as it goes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "broker/table.h"

#define KEYS 2000

/* Of few different upper bits, as row numbers have, and negative ones. */
static int64_t key_of(int i)
{
    return i % 3 == 0 ? -1 - i : (int64_t)(1 + i % 5) << 32 | i / 5;
}

static void check_all(const struct table *t, const int *values)
{
    size_t n = 0, seen = 0;
    for (int i = 0; i < KEYS; i++) {
        const int *expected = values[i] ? &values[i] : NULL;
        n += expected != NULL;
        assert_int_equal(table_has(t, key_of(i)), expected != NULL);
        assert_ptr_equal(table_find(t, key_of(i)), expected);
    }
    for (size_t i = 0; i < t->room; i++)
        seen += t->at[i].key != 0;
    assert_int_equal(t->n, n);
    assert_int_equal(seen, n);
    assert_true(2 * t->n <= t->room);
}

static void test_against_an_array(void **unused)
{
    struct table t = {0};
    static int values[KEYS];
    (void)unused;
    srand(1);
    check_all(&t, values);
    for (int round = 0; round < 20; round++) {
        for (int k = 0; k < KEYS; k++) {
            int i = rand() % KEYS;
            values[i] = rand() % 20 < round ? 0 : k + 1;
            if (values[i])
                table_set(&t, key_of(i), &values[i]);
            else
                table_remove(&t, key_of(i));
        }
        check_all(&t, values);
    }
    table_release(&t);
    assert_int_equal(t.n, 0);
    assert_null(table_find(&t, 1));
}

/* Where an entry may have no value, table_has tells it from none. */
static void test_no_value(void **unused)
{
    struct table t = {0};
    (void)unused;
    table_set(&t, 7, NULL);
    assert_true(table_has(&t, 7));
    assert_false(table_has(&t, 8));
    table_remove(&t, 8);
    table_remove(&t, 7);
    assert_false(table_has(&t, 7));
    table_release(&t);
}

/* A walk that looks at the same place again after it removed what was there misses none. */
static void test_walk_and_remove(void **unused)
{
    static int values[KEYS];
    struct table t = {0};
    (void)unused;
    for (int i = 0; i < KEYS; i++)
        table_set(&t, key_of(i), &values[i]);
    for (size_t at = 0; at < t.room;) {
        int *value = t.at[at].value;
        if (!value || (value - values) % 2 == 0) {
            at++;
            continue;
        }
        *value = 1;
        table_remove(&t, t.at[at].key);
    }
    for (int i = 0; i < KEYS; i++)
        assert_int_equal(values[i], i % 2);
    assert_int_equal(t.n, KEYS / 2);
    table_release(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_an_array),
        cmocka_unit_test(test_no_value),
        cmocka_unit_test(test_walk_and_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
