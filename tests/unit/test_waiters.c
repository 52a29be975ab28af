/* test_waiters.c - requests that wait: answered when their rows are there, when their time is over,
 * when their tick is undone, and when the broker stops; each once. The store and the sockets are
 * real, time is the test's own. */
#include "broker/api/send.h"
#include "broker/api/waiters.h"
#include "broker/broker.h"
#include "tests/unit/store_fixture.h"

#include <zmq.h>

#define FAR 1000000
#define PATIENCE_MS 60000
#define FOREVER (1ll << 59) /* later than any deadline here */

struct scene {
    struct fixture *store;
    struct broker b;
    struct options options;
    void *client; /* DEALER */
    struct envelope envelope;
};

/* What the client hears. */
struct answer {
    int64_t id;
    int ok;
    char code[32];
    uint32_t n_rows;
    int done;
    int retry; /* retry_after_ms was there */
};

static void read_error(struct msg_reader *r, struct answer *a)
{
    struct err err;
    struct slice key, text, raw;
    uint32_t n;
    must(msg_read_map(r, "err", &n, &err));
    while (n-- > 0) {
        must(msg_read_str(r, "", &key, &err));
        if (key.len == 4 && memcmp(key.at, "code", 4) == 0) {
            must(msg_read_str(r, "code", &text, &err));
            snprintf(a->code, sizeof a->code, "%.*s", (int)text.len, (const char *)text.at);
        } else {
            a->retry |= key.len == 14;
            must(msg_read_raw(r, "", 2, &raw, &err));
        }
    }
}

static void read_field(struct msg_reader *r, struct slice key, struct answer *a)
{
    struct err err;
    struct slice raw;
    if (key.len == 2 && memcmp(key.at, "id", 2) == 0)
        must(msg_read_int(r, "id", 0, INT64_MAX, &a->id, &err));
    else if (key.len == 2 && memcmp(key.at, "ok", 2) == 0)
        must(msg_read_bool(r, "ok", &a->ok, &err));
    else if (key.len == 3 && memcmp(key.at, "err", 3) == 0)
        read_error(r, a);
    else if (key.len == 4 && memcmp(key.at, "done", 4) == 0)
        must(msg_read_bool(r, "done", &a->done, &err));
    else {
        struct msg_reader again = *r;
        if (key.len == 4 && memcmp(key.at, "rows", 4) == 0)
            must(msg_read_array(&again, "rows", &a->n_rows, &err));
        must(msg_read_raw(r, "", MSG_MAX_DEPTH, &raw, &err));
    }
}

/* 1 and *a, or 0 when no answer comes. */
static int hear_within(struct scene *s, struct answer *a, long ms)
{
    struct msg_reader r;
    struct slice key;
    struct err err;
    uint32_t n;
    static uint8_t bytes[1 << 16];
    zmq_pollitem_t item = {.socket = s->client, .events = ZMQ_POLLIN};
    memset(a, 0, sizeof *a);
    if (zmq_poll(&item, 1, ms) == 0)
        return 0;
    int len = zmq_recv(s->client, bytes, sizeof bytes, 0);
    assert_in_range(len, 1, sizeof bytes);
    msg_reader_init(&r, bytes, (size_t)len);
    must(msg_read_map(&r, "", &n, &err));
    while (n-- > 0) {
        must(msg_read_str(&r, "", &key, &err));
        read_field(&r, key, a);
    }
    must(msg_read_end(&r, &err));
    return 1;
}

static int hear(struct scene *s, struct answer *a)
{
    return hear_within(s, a, PATIENCE_MS);
}

static void assert_silence(struct scene *s)
{
    struct answer a;
    assert_int_equal(hear_within(s, &a, 50), 0);
}

static void assert_heard(struct scene *s, int64_t id, const char *code, uint32_t n_rows)
{
    struct answer a;
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.id, id);
    assert_string_equal(a.code, code);
    assert_int_equal(a.ok, *code == '\0');
    assert_int_equal(a.n_rows, n_rows);
}

/* The client's routing id, which a ROUTER learns from its first message. */
static void introduce(struct scene *s)
{
    uint8_t name[64], body[8];
    assert_int_equal(zmq_send(s->client, "x", 1, 0), 1);
    int n = zmq_recv(s->b.clients, name, sizeof name, 0);
    assert_int_equal(zmq_recv(s->b.clients, body, sizeof body, 0), 1);
    assert_int_equal(envelope_add(&s->envelope, name, (size_t)n), 0);
}

static int open_scene(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    int mandatory = 1;
    setup((void **)&s->store);
    s->b.options = &s->options;
    s->b.store = s->store->s;
    s->b.waiters = waiters_new();
    s->b.model.n_labels = 1;
    s->b.limits.max_message_bytes = 1 << 20;
    s->b.zmq = zmq_ctx_new();
    s->b.clients = zmq_socket(s->b.zmq, ZMQ_ROUTER);
    s->client = zmq_socket(s->b.zmq, ZMQ_DEALER);
    zmq_setsockopt(s->b.clients, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof mandatory);
    assert_int_equal(zmq_bind(s->b.clients, "inproc://clients"), 0);
    assert_int_equal(zmq_connect(s->client, "inproc://clients"), 0);
    s->b.outbox = outbox_new(s->b.clients);
    introduce(s);
    *state = s;
    return 0;
}

static int close_scene(void **state)
{
    struct scene *s = *state;
    int zero = 0;
    waiters_free(&s->b.waiters);
    outbox_free(&s->b.outbox);
    zmq_setsockopt(s->client, ZMQ_LINGER, &zero, sizeof zero);
    zmq_close(s->client);
    zmq_close(s->b.clients);
    zmq_ctx_term(s->b.zmq);
    teardown((void **)&s->store);
    free(s);
    return 0;
}

static void wait_for(
    struct scene *s, enum waiter_kind kind, int64_t job, uint8_t id, long long deadline_ms)
{
    struct request q = {.id = {&id, 1}}; /* below 128 a byte is its own msgpack */
    waiters_add(&s->b, kind, &s->envelope, &q, job, deadline_ms);
}

static void test_results_wait_for_a_row(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_RESULTS, job, 7, FAR);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), FAR);
    assert_silence(s);
    finish_some(s->b.store, job, 2, 0);
    assert_int_equal(waiters_tick(&s->b, 2), FAR); /* nobody said that the job changed */
    assert_silence(s);
    waiters_job_changed(&s->b, job + 1);
    waiters_tick(&s->b, 3);
    assert_silence(s);
    waiters_job_changed(&s->b, job);
    assert_true(waiters_tick(&s->b, 4) > FOREVER);
    assert_heard(s, 7, "", 2);
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 5);
    assert_silence(s); /* once */
}

static void test_results_end_empty_when_their_time_is_over(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_RESULTS, job, 1, 500);
    wait_for(s, WAIT_RESULTS, job, 2, 300);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 1), 300);
    assert_int_equal(waiters_tick(&s->b, 299), 300);
    assert_silence(s);
    assert_int_equal(waiters_tick(&s->b, 300), 500);
    assert_heard(s, 2, "", 0);
    assert_true(waiters_tick(&s->b, 501) > FOREVER);
    assert_heard(s, 1, "", 0);
    assert_silence(s);
}

static void test_results_of_a_job_that_is_over_do_not_wait(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 2, 5);
    struct request q = {.id = {(const uint8_t *)"\x05", 1}, .after = 100};
    struct answer a;
    finish_some(s->b.store, job, 2, 0);
    waiters_add(&s->b, WAIT_RESULTS, &s->envelope, &q, job, FAR);
    waiters_tick(&s->b, 1);
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.n_rows, 0);
    assert_int_equal(a.done, 1);
}

static void test_score_waits_for_all_rows(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    finish_some(s->b.store, job, 2, 0);
    waiters_tick(&s->b, 1);
    assert_silence(s);
    finish_some(s->b.store, job, 1, ASSAY_ENONFINITE); /* a failed row is a row */
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 2);
    assert_heard(s, 9, "", 3);
}

static void test_score_times_out_and_its_job_lives_on(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 9, 50);
    waiters_tick(&s->b, 49);
    assert_silence(s);
    assert_true(waiters_tick(&s->b, 50) > FOREVER);
    assert_heard(s, 9, "timeout", 0);
    assert_int_equal(job_now(s->b.store, job).state, JOB_QUEUED);
}

static void test_score_of_a_cancelled_job(void **state)
{
    struct scene *s = *state;
    struct err err;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    waiters_tick(&s->b, 1);
    must(store_begin(s->b.store, &err));
    must(store_cancel(s->b.store, job, &err));
    must(store_commit(s->b.store, &err));
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 2);
    assert_heard(s, 9, "wrong_state", 0);
}

static void test_score_too_large_for_a_message(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 300, 5);
    s->b.limits.max_message_bytes = 4096;
    finish_some(s->b.store, job, 300, 0);
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    waiters_tick(&s->b, 1);
    assert_heard(s, 9, "too_large", 0);
    s->b.limits.max_message_bytes = 1 << 20;
    wait_for(s, WAIT_SCORE, job, 9, FAR);
    waiters_tick(&s->b, 2);
    assert_heard(s, 9, "", 300);
}

/* A job that was never there must not make a waiter that no answer ends: with its deadline passed
 * the loop would not sleep again. */
static void test_score_of_a_job_that_is_not_there(void **state)
{
    struct scene *s = *state;
    wait_for(s, WAIT_SCORE, 77, 9, 10);
    assert_true(waiters_tick(&s->b, 1) > FOREVER);
    assert_heard(s, 9, "unknown_job", 0);
}

static void test_an_undone_tick_is_told_to_its_waiters_only(void **state)
{
    struct scene *s = *state;
    struct err why = {.code = ASSAY_EQUEUEFULL, .retry_after_ms = 5000};
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    struct answer a;
    wait_for(s, WAIT_RESULTS, job, 1, FAR);
    waiters_settle(&s->b, NULL);
    wait_for(s, WAIT_SCORE, 77, 2, FAR);
    wait_for(s, WAIT_RESULTS, job, 3, FAR);
    waiters_settle(&s->b, &why);
    waiters_settle(&s->b, &why); /* they are gone: nothing more to tell */
    send_replies(&s->b);
    for (int64_t id = 3; id >= 2; id--) {
        assert_int_equal(hear(s, &a), 1);
        assert_int_equal(a.id, id);
        assert_string_equal(a.code, "queue_full");
        assert_int_equal(a.retry, 1);
    }
    assert_silence(s);
    finish_some(s->b.store, job, 1, 0);
    waiters_job_changed(&s->b, job);
    waiters_tick(&s->b, 1);
    assert_heard(s, 1, "", 1);
    assert_silence(s);
}

static void test_a_stopping_broker_answers_all(void **state)
{
    struct scene *s = *state;
    struct answer a;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    wait_for(s, WAIT_SCORE, job, 1, FAR);
    wait_for(s, WAIT_RESULTS, job, 2, FAR);
    s->b.draining = 1;
    waiters_tick(&s->b, 1);
    assert_heard(s, 2, "", 0); /* nothing more will come from this broker */
    assert_silence(s);
    waiters_end(&s->b, NULL);
    send_replies(&s->b);
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.id, 1);
    assert_string_equal(a.code, "not_ready");
    assert_int_equal(a.retry, 1);
    waiters_end(&s->b, NULL);
    send_replies(&s->b);
    assert_silence(s);
}

static void test_a_client_that_has_gone_harms_nobody(void **state)
{
    struct scene *s = *state;
    int64_t job = put_job(s->b.store, "k", 0, 1, 5);
    struct envelope gone = {0};
    struct request q = {.id = {(const uint8_t *)"\x01", 1}};
    assert_int_equal(envelope_add(&gone, "nobody", 6), 0);
    finish_some(s->b.store, job, 1, 0);
    wait_for(s, WAIT_SCORE, job, 2, FAR);
    waiters_add(&s->b, WAIT_SCORE, &gone, &q, job, FAR);
    assert_true(waiters_tick(&s->b, 1) > FOREVER);
    assert_heard(s, 2, "", 1);
    assert_silence(s);
}

/* As many as this connection gets places for; returns how many. */
static int fill(struct scene *s, uint64_t connection, enum waiter_kind kind, int most)
{
    struct err e = {0};
    int n = 0;
    s->envelope.connection = connection;
    for (; n < most && waiters_make_room(&s->b, &s->envelope, &e) == 0; n++) {
        wait_for(s, kind, 1, (uint8_t)connection, FAR);
        waiters_settle(&s->b, NULL);
    }
    send_replies(&s->b);
    assert_true(n == most || (e.code == ASSAY_EQUEUEFULL && e.retry_after_ms > 0));
    return n;
}

static void test_waiters_are_bounded(void **state)
{
    struct scene *s = *state;
    int of_first = fill(s, 1, WAIT_RESULTS, 1000000);
    assert_in_range(of_first, 1000, 50000);
    for (uint64_t other = 2; other < 30; other++)
        fill(s, other, WAIT_RESULTS, 1000);
    assert_in_range(waiters_count(&s->b), of_first + 1000, 50000);
    for (uint64_t other = 30; other < 37; other++)
        fill(s, other, WAIT_RESULTS, of_first);
    assert_int_equal(waiters_count(&s->b), 100000);
}

/* When all places are taken, who has few gets one of who has most, and that is answered: `results`
 * as if its time were over, `score` that the job lives on. */
static void test_nobody_is_kept_out_by_others(void **state)
{
    struct scene *s = *state;
    struct answer a;
    int of_first = fill(s, 1, WAIT_RESULTS, 1000000), all = 5 * of_first;
    assert_int_equal(put_job(s->b.store, "k", 0, 3, 5), 1);
    for (uint64_t other = 2; other <= 5; other++)
        assert_int_equal(fill(s, other, WAIT_SCORE, of_first), of_first);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(fill(s, 99, WAIT_RESULTS, 1), 1);
        assert_int_equal(waiters_count(&s->b), all);
        assert_int_equal(hear(s, &a), 1);
        assert_true(a.id >= 1 && a.id < 99);
        assert_true(a.ok ? a.n_rows == 0 && !a.done : strcmp(a.code, "timeout") == 0);
    }
    assert_silence(s);
}

static void test_waiters_of_a_connection_that_has_gone_go(void **state)
{
    struct scene *s = *state;
    fill(s, 0, WAIT_RESULTS, 10); /* not known: it may be there */
    fill(s, (uint64_t)7 << 32 | 7, WAIT_RESULTS, 1000);
    waiters_let_go(&s->b);
    assert_int_equal(waiters_count(&s->b), 10);
    assert_int_equal(fill(s, 1, WAIT_RESULTS, 1000), 1000); /* the lists are whole */
    waiters_let_go(&s->b);
    assert_int_equal(waiters_count(&s->b), 10);
    assert_silence(s);
}

/* A thousand that are due at once: some a tick, each once, and who came first is not behind who
 * comes later. */
static void test_many_are_answered_bit_by_bit(void **state)
{
    enum { N = 1000, LATER = 500 };
    struct scene *s = *state;
    struct answer a;
    int64_t job = put_job(s->b.store, "k", 0, 3, 5);
    int heard[2] = {0}, ticks = 0, most = 0;
    finish_some(s->b.store, job, 1, 0);
    for (int i = 0; i < N; i++)
        wait_for(s, WAIT_RESULTS, job, 1, FAR);
    waiters_settle(&s->b, NULL);
    for (int n; heard[0] + heard[1] < N + LATER; ticks++) {
        assert_in_range(ticks, 0, N);
        long long next = waiters_tick(&s->b, 1);
        for (n = 0; heard[0] + heard[1] + n < N + LATER && hear_within(s, &a, 50) == 1; n++)
            if (heard[0] + n < N)
                assert_int_equal(a.id, 1); /* the first ones */
        for (int i = 0; i < n; i++)
            heard[heard[0] == N]++;
        most = n > most ? n : most;
        assert_true(heard[0] + heard[1] == N + LATER ? next > FOREVER : next == 1);
        if (ticks < 5)
            for (int i = 0; i < LATER / 5; i++)
                wait_for(s, WAIT_RESULTS, job, 2, FAR);
        waiters_settle(&s->b, NULL);
    }
    assert_in_range(most, 1, 100);
    assert_silence(s);
}

/* Ticks from `now_ms` on until the waiter of this id is answered, the only one. */
static int ticks_until_heard(struct scene *s, int64_t id, long long now_ms)
{
    struct answer a;
    int ticks = 0, n = waiters_count(&s->b);
    for (; waiters_count(&s->b) == n && ticks < 1000; ticks++)
        waiters_tick(&s->b, now_ms);
    assert_int_equal(hear(s, &a), 1);
    assert_int_equal(a.id, id);
    return ticks;
}

/* However many of other connections are due before it, one whose time is over is answered within
 * some ticks. */
static void test_a_deadline_is_kept_whatever_others_do(void **state)
{
    struct scene *s = *state;
    int ticks = 0;
    assert_int_equal(put_job(s->b.store, "k", 0, 3, 5), 1);
    for (uint64_t other = 1; other <= 5; other++)
        fill(s, other, WAIT_RESULTS, 2000);
    waiters_tick(&s->b, 1);
    s->envelope.connection = 99;
    wait_for(s, WAIT_RESULTS, 1, 99, 500);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 2), 2); /* not all were looked at */
    assert_in_range(ticks_until_heard(s, 99, 500), 1, 5);
    for (; waiters_tick(&s->b, 600) == 600; ticks++) /* the others are looked at once */
        assert_in_range(ticks, 0, 5 * 2000);
    wait_for(s, WAIT_RESULTS, 1, 98, 700);
    waiters_settle(&s->b, NULL);
    assert_int_equal(waiters_tick(&s->b, 699), 700);
    waiters_job_changed(&s->b, 1); /* all of them are due again */
    assert_int_equal(waiters_tick(&s->b, 699), 699);
    assert_in_range(ticks_until_heard(s, 98, 700), 1, 5);
    assert_silence(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_results_wait_for_a_row, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_results_end_empty_when_their_time_is_over, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_results_of_a_job_that_is_over_do_not_wait, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_score_waits_for_all_rows, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_score_times_out_and_its_job_lives_on, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_score_of_a_cancelled_job, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_score_too_large_for_a_message, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_score_of_a_job_that_is_not_there, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_an_undone_tick_is_told_to_its_waiters_only, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_stopping_broker_answers_all, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_client_that_has_gone_harms_nobody, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_many_are_answered_bit_by_bit, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_deadline_is_kept_whatever_others_do, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_waiters_are_bounded, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_nobody_is_kept_out_by_others, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_waiters_of_a_connection_that_has_gone_go, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
