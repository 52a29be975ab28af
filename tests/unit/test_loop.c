/* test_loop.c - the broker's loop. When the disk fills up in the middle of a tick, every request of
 * the tick is answered, none of them was kept, and what was accepted before is still there. Who
 * waits hears of the end, who does not listen harms nobody, and the log is cut when there is
 * time. */
#include "tests/unit/loop_fixture.h"

#include <sys/stat.h>

static void test_every_request_of_a_full_tick_is_answered(void **state)
{
    struct scene *s = *state;
    char words[12][32], word[32];
    start(s, 160); /* a few rows, and not 200 of 500 tokens */
    send_submit(s, 1, "small", 2);
    assert_int_equal(hear(s, word, sizeof word), 1);
    assert_string_equal(word, "queued");
    /* Sent at once, so that some of them share a tick. */
    send_submit(s, 1, "large", 200);
    send_score(s, 2, 1, 300);
    send_submit(s, 3, "large again", 200);
    send_on_job(s, "status", 4, "small");
    send_on_job(s, "status", 5, "large");
    send_score(s, 6, 200, 300);
    hear_all(s, 6, words);
    assert_string_equal(words[1], "queue_full");
    assert_string_equal(words[3], "queue_full");
    assert_string_equal(words[6], "queue_full");
    assert_true(strcmp(words[2], "queue_full") == 0 || strcmp(words[2], "timeout") == 0);
    assert_true(strcmp(words[4], "queue_full") == 0 || strcmp(words[4], "queued") == 0);
    assert_true(strcmp(words[5], "queue_full") == 0 || strcmp(words[5], "unknown_job") == 0);
    assert_string_equal(ask(s, "status", "large", word, sizeof word), "unknown_job");
    assert_string_equal(ask(s, "status", "small", word, sizeof word), "queued");
    /* Nobody is left who waits for a job that is not there and keeps the loop awake. */
    uint64_t before = cpu_ms(s->child);
    usleep(600000);
    assert_in_range(cpu_ms(s->child) - before, 0, 200);
    assert_int_equal(stop(s), 0);
    start(s, 0);
    assert_string_equal(ask(s, "status", "large again", word, sizeof word), "unknown_job");
    assert_string_equal(ask(s, "status", "small", word, sizeof word), "queued");
    send_submit(s, 1, "large", 200); /* the same key, refused before, is free */
    assert_int_equal(hear(s, word, sizeof word), 1);
    assert_string_equal(word, "queued");
    assert_int_equal(stop(s), 0);
}

/* The disk is full before all rows of a large chunk are written: it is refused alone, and its rows
 * make room for others. */
static void test_a_large_chunk_that_has_no_room(void **state)
{
    enum { MANY = 9900 };
    struct scene *s = *state;
    char words[4][32], word[32];
    start(s, 400);
    send_submit(s, 1, "small", 2);
    assert_int_equal(hear(s, word, sizeof word), 1);
    send_submit_of(s, 1, "large", MANY, 3);
    send_on_job(s, "status", 2, "large"); /* waits for it, as all of this client */
    hear_all(s, 2, words);
    assert_string_equal(words[1], "queue_full");
    assert_string_equal(words[2], "unknown_job");
    assert_string_equal(ask(s, "status", "small", word, sizeof word), "queued");
    for (int i = 0; i < 50 && strcmp(word, "taken") != 0; i++) { /* once they are deleted */
        char key[24];
        usleep(100000);
        snprintf(key, sizeof key, "later %d", i);
        send_submit(s, 1, key, 60);
        assert_int_equal(hear(s, word, sizeof word), 1);
        if (strcmp(word, "queued") == 0)
            strcpy(word, "taken");
    }
    assert_string_equal(word, "taken");
    assert_int_equal(stop(s), 0);
    start(s, 0);
    send_submit_of(s, 1, "large", MANY, 3);
    assert_int_equal(hear(s, word, sizeof word), 1);
    assert_string_equal(word, "queued");
    assert_int_equal(stop(s), 0);
}

static void test_a_cancel_that_was_undone_did_not_happen(void **state)
{
    struct scene *s = *state;
    char words[8][32], word[32];
    start(s, 160);
    send_submit(s, 1, "small", 2);
    assert_int_equal(hear(s, word, sizeof word), 1);
    send_on_job(s, "cancel", 1, "small");
    send_submit(s, 2, "large", 200);
    hear_all(s, 2, words);
    assert_string_equal(words[2], "queue_full");
    int kept = strcmp(words[1], "cancelled") == 0; /* it had a tick of its own */
    if (!kept)
        assert_string_equal(words[1], "queue_full");
    assert_string_equal(
        ask(s, "status", "small", word, sizeof word), kept ? "cancelled" : "queued");
    assert_int_equal(stop(s), 0);
}

static void test_who_waits_hears_of_the_end(void **state)
{
    struct scene *s = *state;
    char word[32];
    start(s, 0);
    send_score(s, 5, 1, 60000);
    send_on_job(s, "status", 6, "nobody");
    assert_int_equal(hear(s, word, sizeof word), 6); /* so the score was taken */
    kill(s->child, SIGTERM);
    assert_int_equal(hear(s, word, sizeof word), 5);
    assert_string_equal(word, "not_ready");
    assert_int_equal(stop(s), 0);
}

/* A client that asks and does not listen costs its replies and nobody else's. */
static void test_one_who_does_not_listen(void **state)
{
    struct scene *s = *state;
    char word[32];
    int zero = 0, one = 1;
    start(s, 0);
    void *deaf = zmq_socket(s->zmq, ZMQ_DEALER);
    zmq_setsockopt(deaf, ZMQ_LINGER, &zero, sizeof zero);
    zmq_setsockopt(deaf, ZMQ_RCVHWM, &one, sizeof one);
    assert_int_equal(zmq_connect(deaf, s->endpoint), 0);
    for (int i = 0; i < 5000; i++) {
        struct msg_writer w;
        begin_request(&w, "hello", i, 0);
        assert_true(zmq_send(deaf, w.buffer.data, w.buffer.size, 0) > 0);
        msg_writer_release(&w);
    }
    assert_string_equal(ask(s, "status", "nobody", word, sizeof word), "unknown_job");
    zmq_close(deaf);
    assert_string_equal(ask(s, "status", "nobody", word, sizeof word), "unknown_job");
    assert_int_equal(stop(s), 0);
}

/* When there is nothing to do the WAL is cut, and then the broker leaves the database alone. */
static void test_an_idle_broker_cuts_the_wal(void **state)
{
    struct scene *s = *state;
    char word[32], path[128];
    struct stat st = {.st_size = 1};
    snprintf(path, sizeof path, "%s/assay.db-wal", s->dir);
    start(s, 0);
    send_submit(s, 1, "small", 2);
    assert_int_equal(hear(s, word, sizeof word), 1);
    for (int waited_ms = 0; st.st_size > 0 && waited_ms < 6000; waited_ms += 100) {
        usleep(100000);
        assert_int_equal(stat(path, &st), 0);
    }
    assert_int_equal(st.st_size, 0);
    assert_int_equal(stop(s), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            test_every_request_of_a_full_tick_is_answered, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_cancel_that_was_undone_did_not_happen, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(
            test_a_large_chunk_that_has_no_room, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_who_waits_hears_of_the_end, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_one_who_does_not_listen, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_an_idle_broker_cuts_the_wal, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
