/* test_http_coalesce.c - when requests go, and in what order their rows do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "broker/ask/card.h"
#include "broker/http/jobs.h"
#include "schema/clock.h"

#define N 6

static const struct card_model model = {.name = "m"};

struct fixture {
    struct coalesce c;
    struct rows rows[N];
    struct ticket tickets[N];
};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    coalesce_init(&f->c);
    for (int i = 0; i < N; i++) {
        rows_init(&f->rows[i]);
        f->tickets[i].rows = &f->rows[i];
        f->tickets[i].model = &model;
    }
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < N; i++) {
        ticket_release(&f->tickets[i]);
        rows_release(&f->rows[i]);
    }
    free(f);
    return 0;
}

static void add(struct fixture *f, int i, const char *text, long long us)
{
    struct row_options o;
    row_options_init(&o);
    assert_int_equal(rows_add_text(&f->rows[i], &o, text, strlen(text), NULL), 0);
    row_options_release(&o);
    coalesce_add(&f->c, &f->tickets[i], us);
}

static void a_lone_client_does_not_wait(void **state)
{
    struct fixture *f = *state;
    struct coalesce_load idle = {.n_groups = 1};
    assert_true(coalesce_due(&f->c, &idle) == FOREVER);
    add(f, 0, "a", 1000);
    assert_true(coalesce_due(&f->c, &idle) == 1000);
    /* nor after a job of its own */
    idle.last_end_us = 990;
    assert_true(coalesce_due(&f->c, &idle) == 1000);
    /* two are no lone client */
    add(f, 1, "b", 1000);
    assert_true(coalesce_due(&f->c, &idle) == 1000 + COALESCE_LEAST_US);
}

static void others_are_expected_after_a_shared_job(void **state)
{
    struct fixture *f = *state;
    struct coalesce_load load = {.n_groups = 1, .last_end_us = 990, .last_was_shared = 1};
    add(f, 0, "a", 1000);
    assert_true(coalesce_due(&f->c, &load) == 1000 + COALESCE_LEAST_US);
    load.last_end_us = 1000 - COALESCE_RECENT_US;
    assert_true(coalesce_due(&f->c, &load) == 1000);
}

static void those_that_keep_coming_are_waited_for_a_little(void **state)
{
    struct fixture *f = *state;
    struct coalesce_load load = {.n_groups = 2, .n_sent = 1};
    add(f, 0, "a", 10000);
    add(f, 1, "b", 10000 + COALESCE_LEAST_US);
    assert_true(coalesce_due(&f->c, &load) == 10000 + COALESCE_LEAST_US + COALESCE_QUIET_US);
    add(f, 2, "c", 10000 + COALESCE_MOST_US);
    assert_true(coalesce_due(&f->c, &load) == 10000 + COALESCE_MOST_US);
}

static void a_long_job_waits_longer_for_more(void **state)
{
    struct fixture *f = *state;
    long long most = 20 * COALESCE_MOST_US, quiet = most * COALESCE_MOST_PART / COALESCE_QUIET_PART;
    struct coalesce_load load = {.n_groups = 2, .n_sent = 1, .takes_us = most * COALESCE_MOST_PART};
    add(f, 0, "a", 10000);
    assert_true(coalesce_due(&f->c, &load) == 10000 + quiet);
    add(f, 1, "b", 10000 + most - 1);
    assert_true(coalesce_due(&f->c, &load) == 10000 + most);
    load.takes_us = 10 * COALESCE_LONG_US;
    assert_true(coalesce_due(&f->c, &load) == 10000 + COALESCE_LONG_US / COALESCE_MOST_PART);
}

static void a_busy_broker_gets_one_job_more_shortly_before_it_is_free(void **state)
{
    struct fixture *f = *state;
    struct coalesce_load load = {.n_groups = 1, .n_sent = 1, .soonest_end_us = 500000};
    add(f, 0, "a", 10000);
    assert_true(coalesce_due(&f->c, &load) == 500000 - COALESCE_LEAD_US);
    /* while more keep coming, a little later */
    add(f, 1, "b", 500000 - COALESCE_LEAD_US + 1);
    assert_true(coalesce_due(&f->c, &load) == 500000 - COALESCE_LEAD_US + 1 + COALESCE_QUIET_US);
    add(f, 2, "c", 500000);
    assert_true(coalesce_due(&f->c, &load) == 500000 - COALESCE_LEAD_US + COALESCE_MOST_US);
    /* it was over earlier than thought */
    load = (struct coalesce_load){.n_groups = 1, .last_end_us = 499000};
    assert_true(coalesce_due(&f->c, &load) == 500000 + COALESCE_QUIET_US);
    coalesce_remove(&f->c, &f->tickets[1]);
    coalesce_remove(&f->c, &f->tickets[2]);
    f->c.last_us = 10000;
    load = (struct coalesce_load){.n_groups = 1, .n_sent = 1};
    assert_true(coalesce_due(&f->c, &load) == 10000 + COALESCE_LEAST_US);
    load.n_sent = 2;
    assert_true(coalesce_due(&f->c, &load) == FOREVER);
}

static void a_job_takes_what_there_is_within_limits(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 4; i++)
        add(f, i, "text", i);
    coalesce_remove(&f->c, &f->tickets[1]);
    struct ticket *first = coalesce_take(&f->c, 2, SIZE_MAX);
    assert_ptr_equal(first, &f->tickets[0]);
    assert_ptr_equal(first->next, &f->tickets[2]);
    assert_null(first->next->next);
    assert_int_equal(f->c.n, 1);
    /* one that is over the limit goes alone */
    add(f, 4, "text", 9);
    assert_ptr_equal(coalesce_take(&f->c, 1, 1), &f->tickets[3]);
    assert_ptr_equal(coalesce_take(&f->c, 1, 1), &f->tickets[4]);
    assert_null(coalesce_take(&f->c, 1, 1));
    assert_true(f->c.n == 0 && f->c.n_rows == 0 && f->c.n_bytes == 0);
}

static void the_last_one_can_be_removed(void **state)
{
    struct fixture *f = *state;
    add(f, 0, "a", 1);
    add(f, 1, "b", 2);
    coalesce_remove(&f->c, &f->tickets[1]);
    add(f, 2, "c", 3);
    assert_ptr_equal(f->tickets[0].next, &f->tickets[2]);
    coalesce_remove(&f->c, &f->tickets[1]); /* it is not there: nothing happens */
    assert_int_equal(f->c.n, 2);
}

/* Two prompts whose samples come in turns are put side by side, and each result finds its way. */
static void rows_that_begin_alike_lie_side_by_side(void **state)
{
    struct fixture *f = *state;
    static const char *const texts[] = {
        "bb 1", "a long prompt 9", "bb 22", "a long prompt 1", "bb 1"};
    static const int order[] = {3, 1, 0, 4, 2};
    struct msg_writer w;
    struct err e = {0};
    for (int i = 0; i < 5; i++)
        add(f, i, texts[i], i);
    struct job *job = job_new(coalesce_take(&f->c, 100, SIZE_MAX), 7, "key");
    assert_int_equal(job->n_rows, 5);
    msg_writer_init(&w);
    msg_array(&w, 5);
    for (int k = 0; k < 5; k++) {
        assert_ptr_equal(job->rows[k].ticket, &f->tickets[order[k]]);
        msg_map(&w, 1);
        msg_key_float(&w, "score", (float)order[k]);
    }
    struct slice rows = {(const uint8_t *)w.buffer.data, w.buffer.size};
    assert_int_equal(job_give(job, rows, &e), 0);
    for (int i = 0; i < 5; i++)
        assert_true(f->tickets[i].results[0].values[0] == (float)i);
    msg_writer_release(&w);
    job_free(&job);
}

static void a_ticket_that_left_gets_nothing(void **state)
{
    struct fixture *f = *state;
    static const uint8_t rows[] = {0x92, 0x81, 0xa5, 's', 'c', 'o', 'r', 'e', 0xca, 0x3f, 0x80, 0,
        0, 0x81, 0xa5, 's', 'c', 'o', 'r', 'e', 0xca, 0x40, 0, 0, 0};
    struct err e = {0};
    add(f, 0, "a", 0);
    add(f, 1, "b", 0);
    struct job *job = job_new(coalesce_take(&f->c, 100, SIZE_MAX), 7, "key");
    job_leave(job, &f->tickets[0]);
    assert_int_equal(job->n_tickets, 1);
    assert_int_equal(job_give(job, (struct slice){rows, sizeof rows}, &e), 0);
    assert_null(f->tickets[0].results);
    assert_true(f->tickets[1].results[0].values[0] == 2);
    assert_ptr_equal(job_pop(job), &f->tickets[1]);
    assert_null(job_pop(job));
    job_free(&job);
}

static void keys_that_nobody_else_has(void **state)
{
    char key[JOB_KEY_BYTES];
    (void)state;
    job_key_write(key, "0123456789abcdef", INT64_MAX);
    assert_string_equal(key, "assay-http/0123456789abcdef-9223372036854775807");
    assert_true(job_key_is(key));
    assert_true(job_key_is("assay-http/0123456789abcdef-3"));
    static const char *const others[] = {"", "http-0123456789abcdef-3", "assay-http/",
        "assay-http/monday", "assay-http/0123456789abcdef", "assay-http/0123456789abcdef-",
        "assay-http/0123456789abcdef-3b", "assay-http/0123456789abcde-3",
        "assay-http/0123456789abcdef0-3", "assay-http/0123456789ABCDEF-3",
        "my-assay-http/0123456789abcdef-3", "assay-http/0123456789abcdef-12345678901234567890"};
    for (size_t k = 0; k < sizeof others / sizeof others[0]; k++)
        assert_false(job_key_is(others[k]));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_lone_client_does_not_wait),
        TEST(others_are_expected_after_a_shared_job),
        TEST(those_that_keep_coming_are_waited_for_a_little),
        TEST(a_long_job_waits_longer_for_more),
        TEST(a_busy_broker_gets_one_job_more_shortly_before_it_is_free),
        TEST(a_job_takes_what_there_is_within_limits),
        TEST(the_last_one_can_be_removed),
        TEST(rows_that_begin_alike_lie_side_by_side),
        TEST(a_ticket_that_left_gets_nothing),
        TEST(keys_that_nobody_else_has),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
