/* test_minutes.c - the records of minutes stay bounded, and no row is lost of them. */
#include "tests/unit/store_fixture.h"

#define NOW 29800000ll /* a minute of 2026 */
#define OLD 20000      /* minutes of a version before, two weeks */

static int64_t number(struct store *s, const char *sql)
{
    struct err err;
    int64_t value = -1;
    must(store_integer(s, -1, &value, &err, sql, ""));
    return value;
}

static void note(struct store *s, int64_t minute)
{
    struct err err;
    must(store_begin(s, &err));
    must(store_note_minute(s, minute * 60000 + 59999, 2, 30, &err));
    must(store_commit(s, &err));
}

static void old_minutes_become_hours(void **state)
{
    struct fixture *f = *state;
    struct err err;
    must(store_begin(f->s, &err));
    for (int64_t m = NOW - OLD; m < NOW; m++)
        must(store_run(f->s, &err, "insert into minute values (?, 2, 30)", "i", m));
    must(store_commit(f->s, &err));
    int n = 0;
    do {
        f->s->minutes_due_ms = 0;
        note(f->s, NOW);
        assert_int_equal(number(f->s, "select sum(n_rows) from minute"), 2 * (OLD + ++n));
        assert_int_equal(number(f->s, "select sum(n_tokens) from minute"), 30 * (OLD + n));
    } while (n < 20);
    int64_t kept = NOW - 8 * 1440, end = kept / 60 * 60;
    assert_int_equal(number(f->s, "select count(*) from minute where minute % 60 <> 0 and "
                                  "minute < 29800000 - 8 * 1440 - 60"),
        0);
    assert_int_equal(
        number(f->s, "select count(*) from minute where minute >= 29800000 - 8 * 1440"),
        8 * 1440 + 1);
    int64_t hours = number(f->s, "select count(*) from minute where minute < 29800000 - 8 * 1440");
    assert_in_range(hours, (OLD - 8 * 1440) / 60, (OLD - 8 * 1440) / 60 + 2 + (kept - end));
    /* a whole hour, by the view that everybody reads */
    assert_int_equal(number(f->s, "select rows from throughput where minute_ts = "
                                  "(29800000 - 15000) / 60 * 60 * 60"),
        120);
}

/* A clock that was set back: what comes late goes to its hour, once. */
static void a_late_minute_is_added(void **state)
{
    struct fixture *f = *state;
    int64_t old = (NOW - 20000) / 60 * 60;
    for (int k = 0; k < 3; k++) {
        f->s->minutes_due_ms = 0;
        note(f->s, old + 7);
        f->s->minutes_due_ms = 0;
        note(f->s, NOW);
        assert_int_equal(number(f->s, "select count(*) from minute"), 2);
        assert_int_equal(
            number(f->s, "select n_rows from minute order by minute limit 1"), 2 * (k + 1));
    }
    assert_int_equal(number(f->s, "select minute from minute order by minute limit 1"), old);
}

/* It is not looked for at every batch. */
static void it_is_looked_for_now_and_then(void **state)
{
    struct fixture *f = *state;
    note(f->s, NOW);
    note(f->s, NOW - 20000);
    note(f->s, NOW);
    assert_int_equal(number(f->s, "select count(*) from minute"), 2);
    assert_int_equal(
        number(f->s, "select count(*) from minute where minute = 29800000 - 20000"), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(old_minutes_become_hours, setup, teardown),
        cmocka_unit_test_setup_teardown(a_late_minute_is_added, setup, teardown),
        cmocka_unit_test_setup_teardown(it_is_looked_for_now_and_then, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
