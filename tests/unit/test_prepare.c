/* test_prepare.c - messages prepared by threads are what they are when prepared here; threads can
 * be stopped in the middle. */
#include "broker/api/preparers.h"
#include "tests/unit/store_fixture.h"
#include "tests/unit/tiny_tokenizer.h"

#include <poll.h>

#define MESSAGES 40
#define ROWS 300

static const struct model_info model = {.architecture = "Qwen2ForRewardModel",
    .vocab_size = 1000,
    .max_len = 100,
    .n_labels = 1,
    .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
    .pad_token = POOL_NO_STEP_TOKEN};
static const struct request_limits limits = {16 << 20, 10000, 100};

struct scene {
    struct fixture store;
    struct text_model text;
    struct preparers *threads;
    struct task tasks[MESSAGES];
    struct msg_writer messages[MESSAGES];
};

/* Row i of message m: text, or ids; each seventh is too long. */
static void write_row(struct msg_writer *w, int m, int i)
{
    char text[400] = "";
    int32_t ids[] = {m, i, 7};
    size_t len = (size_t)snprintf(text, sizeof text, "abc %d bc %d", m, i);
    if (i % 7 == 6)
        memset(text + len, 'x', sizeof text - 1 - len);
    msg_map(w, 2);
    msg_key_int(w, "id", i);
    if (i % 3 > 0) {
        msg_key_str(w, "text", text);
    } else {
        msg_str(w, "ids");
        msg_bin(w, ids, sizeof ids);
    }
}

static struct slice write_message(struct msg_writer *w, int m)
{
    msg_writer_init(w);
    msg_map(w, 6);
    msg_key_int(w, "v", 1);
    msg_key_str(w, "op", "submit");
    msg_key_int(w, "id", m);
    msg_key_str(w, "key", "k");
    msg_str(w, "rows");
    msg_array(w, ROWS);
    for (int i = 0; i < ROWS; i++)
        write_row(w, m, i);
    msg_key_int(w, "chunk", m % 10 == 9 ? -1 : m); /* each tenth message is refused */
    return (struct slice){(const uint8_t *)w->buffer.data, w->buffer.size};
}

static int open_scene(void **state)
{
    struct scene *s = calloc(1, sizeof *s);
    struct err err;
    make_dir(s->store.dir);
    open_mode(&s->store, MODE);
    s->text.tokenizer = tiny_tokenizer();
    must(preparers_new(&s->threads, &model, &s->text, &limits, &err));
    for (int m = 0; m < MESSAGES; m++)
        s->tasks[m].message = write_message(&s->messages[m], m);
    *state = s;
    return 0;
}

static int close_scene(void **state)
{
    struct scene *s = *state;
    preparers_free(&s->threads);
    for (int m = 0; m < MESSAGES; m++) {
        prepared_release(&s->tasks[m].prepared);
        msg_writer_release(&s->messages[m]);
    }
    store_close(&s->store.s);
    remove_dir(s->store.dir);
    free(s);
    return 0;
}

static int is_readable(const struct preparers *p, int wait_ms)
{
    struct pollfd item = {.fd = preparers_fd(p), .events = POLLIN};
    return poll(&item, 1, wait_ms);
}

static int64_t place(struct store *s, const char *key, const struct store_rows *rows)
{
    struct err err;
    int64_t job = new_job(s, key, 0);
    must(store_begin(s, &err));
    must(store_add_rows(s, job, rows, &err));
    must(store_commit(s, &err));
    return job;
}

/* The rows of both are the same. */
static void compare_rows(struct store *s, const struct store_rows *a, const struct store_rows *b)
{
    static int n;
    char key[2][32];
    snprintf(key[0], sizeof key[0], "a%d", n);
    snprintf(key[1], sizeof key[1], "b%d", n++);
    int64_t job[] = {place(s, key[0], a), place(s, key[1], b)};
    struct row_list rows[] = {queued(s, job[0], 0, 4096), queued(s, job[1], 0, 4096)};
    assert_in_range(rows[0].n, ROWS / 2, ROWS - 1);
    assert_int_equal(rows[0].n, rows[1].n);
    for (uint32_t i = 0; i < rows[0].n; i++) {
        const struct sequence *x = rows[0].at[i], *y = rows[1].at[i];
        assert_int_equal(row_index(x->row_id), row_index(y->row_id));
        assert_int_equal(x->n_tokens, y->n_tokens);
        assert_memory_equal(x->ids, y->ids, x->n_tokens * sizeof *x->ids);
    }
    assert_int_equal(job_now(s, job[0]).failed, job_now(s, job[1]).failed);
    free_rows(&rows[0]);
    free_rows(&rows[1]);
}

static void compare(struct scene *s, const struct task *t, struct admit *admit)
{
    struct prepared here = {0};
    const struct preparing with = {.admit = admit, .limits = &limits};
    assert_int_equal(prepare(&here, &with, t->message), 1);
    assert_int_equal(here.rc, t->prepared.rc);
    assert_int_equal(here.request.id.len, t->prepared.request.id.len);
    if (here.rc != 0) {
        assert_string_equal(here.err.field, "chunk");
        assert_string_equal(here.err.msg, t->prepared.err.msg);
        assert_null(t->prepared.rows);
    } else {
        assert_memory_equal(here.digest, t->prepared.digest, sizeof here.digest);
        compare_rows(s->store.s, here.rows, t->prepared.rows);
    }
    prepared_release(&here);
}

static void test_threads_give_the_same(void **state)
{
    struct scene *s = *state;
    struct admit admit = {.model = &model, .composer = composer_new(&s->text)};
    int taken[MESSAGES] = {0};
    for (int m = 0; m < MESSAGES; m++)
        preparers_give(s->threads, &s->tasks[m]);
    for (int n = 0; n < MESSAGES;) {
        assert_int_equal(is_readable(s->threads, 60000), 1);
        struct task *t = preparers_take(s->threads);
        n += t != NULL;
        if (t)
            taken[t - s->tasks]++;
    }
    assert_int_equal(is_readable(s->threads, 0), 0);
    assert_null(preparers_take(s->threads));
    for (int m = 0; m < MESSAGES; m++) {
        assert_int_equal(taken[m], 1);
        compare(s, &s->tasks[m], &admit);
    }
    admit_release(&admit);
}

/* A chunk that was kept: its bytes, and the rows that a thread makes of them. */
struct kept {
    struct task task;
    struct store_pending chunk;
    const uint8_t *bytes;
    struct store_rows *rows;
};

static void prepare_kept(struct task *t, const struct preparing *with)
{
    struct kept *k = (struct kept *)t;
    struct err err;
    must(prepare_pending(&k->rows, with, &k->chunk, k->bytes, &err));
}

static void by_thread(struct scene *s, struct task *t)
{
    preparers_give(s->threads, t);
    assert_int_equal(is_readable(s->threads, 60000), 1);
    assert_ptr_equal(preparers_take(s->threads), t);
}

static void test_kept_chunks(void **state)
{
    struct scene *s = *state;
    struct kept k = {.task.work = prepare_kept};
    struct request q;
    struct err err;
    must(request_decode(&q, s->tasks[1].message.at, s->tasks[1].message.len, &limits, &err));
    by_thread(s, &s->tasks[1]);
    k.bytes = q.rows.at;
    k.chunk = (struct store_pending){.n_rows = ROWS, .n_left = ROWS, .bytes = q.rows.len};
    k.chunk.n_read = q.rows.len;
    k.chunk.digest_len = STORE_DIGEST_BYTES;
    store_digest_rows(q.rows, k.chunk.digest);
    by_thread(s, &k.task);
    compare_rows(s->store.s, k.rows, s->tasks[1].prepared.rows);
    store_rows_free(&k.rows);
    k.chunk.n_placed = 200; /* before the broker ended */
    by_thread(s, &k.task);
    int64_t job = place(s->store.s, "rest", k.rows);
    assert_int_equal(job_now(s->store.s, job).placed, ROWS - 200);
    store_rows_free(&k.rows);
    k.chunk.digest[0] ^= 1;
    k.chunk.n_left = ROWS - 200;
    by_thread(s, &k.task);
    job = place(s->store.s, "damaged", k.rows);
    assert_int_equal(job_now(s->store.s, job).failed, ROWS - 200);
    store_rows_free(&k.rows);
}

/* What a message says of its rows is kept in front of them, wherever it stood. */
static void test_kept_truncation(void **state)
{
    struct scene *s = *state;
    struct admit admit = {.model = &model, .composer = composer_new(&s->text)};
    const struct preparing with = {.admit = &admit, .limits = &limits};
    struct store_rows *rows;
    struct err err;
    for (int behind = 0; behind < 2; behind++) {
        struct msg_writer w;
        struct prepared p = {0};
        msg_writer_init(&w);
        msg_map(&w, 6);
        msg_key_int(&w, "v", 1);
        msg_key_str(&w, "op", "submit");
        msg_key_str(&w, "key", "k");
        msg_key_int(&w, "chunk", 0);
        if (!behind)
            msg_key_bool(&w, "truncate", 1);
        msg_str(&w, "rows");
        msg_array(&w, 14);
        for (int i = 0; i < 14; i++)
            write_row(&w, 1, i);
        if (behind)
            msg_key_bool(&w, "truncate", 1);
        assert_int_equal(
            prepare(&p, &with, (struct slice){(uint8_t *)w.buffer.data, w.buffer.size}), 1);
        must(p.rc);
        assert_int_equal(store_rows_failed(p.rows), 0); /* the last is too long */
        assert_int_equal(p.encoded.len, p.request.rows.len + 3);
        must(prepare_rows(&rows, &with, p.encoded, 0, &err));
        assert_int_equal(store_rows_failed(rows), 0);
        assert_int_equal(store_rows_bytes(rows), store_rows_bytes(p.rows));
        store_rows_free(&rows);
        must(prepare_rows(&rows, &with, p.request.rows, 0, &err));
        assert_int_equal(store_rows_failed(rows), 1);
        store_rows_free(&rows);
        prepared_release(&p);
        msg_writer_release(&w);
    }
    admit_release(&admit);
}

static void test_stop(void **state)
{
    struct scene *s = *state;
    for (int m = 0; m < MESSAGES; m++)
        preparers_give(s->threads, &s->tasks[m]);
    preparers_stop(s->threads);
    preparers_stop(s->threads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_threads_give_the_same, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_kept_chunks, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_kept_truncation, open_scene, close_scene),
        cmocka_unit_test_setup_teardown(test_stop, open_scene, close_scene),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
