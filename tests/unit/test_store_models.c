/* test_store_models.c - which models are served, and which jobs go on by that: what comes, goes, and
 * takes another's name. */
#include "tests/unit/store_fixture.h"

#define NEW "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static struct store_model model(uint32_t id, uint32_t rank, const char *name, const char *digest)
{
    return (struct store_model){
        .id = id, .rank = rank, .is_current = 1, .name = name, .digest = digest, .mode = MODE};
}

/* The first model is named. */
static struct store *named(struct fixture *f)
{
    struct err err;
    struct store_options options = {
        .reserve_bytes = 1 << 18, .mode = MODE, .digest = DIGEST, .name = "x"};
    store_close(&f->s);
    must(store_open(&f->s, f->dir, &options, &err));
    return f->s;
}

static void serve(struct store *s, int place, const struct store_model *m)
{
    struct err err;
    must(store_serve(s, place, m, &err));
}

static int64_t mode_of(struct store *s, const char *digest)
{
    struct err err;
    int64_t mode;
    must(store_integer(s, 0, &mode, &err, "select mode from mode where digest = ?", "s", digest));
    return mode;
}

/* The view says what the broker says. */
static void is_held(const struct fixture *f, int64_t job, const char *words)
{
    char sql[100], out[2 * STORE_REASON_BYTES];
    struct store_job j = job_now(f->s, job);
    snprintf(sql, sizeof sql, "select ifnull(reason, '') from jobs where job = %d", (int)job);
    shell(f, sql, out, sizeof out);
    out[strcspn(out, "\n")] = '\0';
    assert_string_equal(out, j.reason);
    assert_int_equal(j.held, words != NULL);
    assert_non_null(strstr(j.reason, words ? words : ""));
}

static void a_model_takes_the_name_of_another(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store *s = named(f);
    struct store_model now = model(7, 0, "x", NEW);
    int64_t old_job = put_job(s, "old", 0, 3, 4);
    must(store_exchange(s, 3, &now, 0, &err));
    int64_t new_job_ = put_job(s, "new", 0, 3, 4);
    assert_int_equal(store_first_place(s), 3);
    assert_int_equal(job_now(s, old_job).mode, mode_of(s, DIGEST));
    assert_int_equal(job_now(s, new_job_).mode, mode_of(s, NEW));
    assert_int_equal(store_place_of(s, mode_of(s, DIGEST)), 0);
    assert_int_equal(store_place_of(s, mode_of(s, NEW)), 3);
    assert_int_equal(store_mode_of_model(s, 7), mode_of(s, NEW));
    is_held(f, old_job, NULL);
    is_held(f, new_job_, NULL);
    serve(s, 0, NULL); /* the old one goes, and its job waits */
    is_held(f, old_job, "made with checkpoint 0123456789ab");
    is_held(f, old_job, "the broker runs aaaaaaaaaaaa");
    is_held(f, new_job_, NULL);
    must(store_begin(s, &err));
    must(store_accept_mode(s, old_job, &err));
    must(store_commit(s, &err));
    is_held(f, old_job, NULL);
    assert_int_equal(job_now(s, old_job).mode, mode_of(s, NEW));
}

static void back_to_the_one_before(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store *s = named(f);
    struct store_model now = model(1, 0, "x", NEW), again = model(0, 0, "x", DIGEST);
    must(store_exchange(s, 1, &now, 0, &err));
    must(store_exchange(s, 0, &again, 1, &err));
    assert_int_equal(store_first_place(s), 0);
    assert_int_equal(job_now(s, put_job(s, "j", 0, 1, 4)).mode, mode_of(s, DIGEST));
    assert_int_equal(store_place_of(s, mode_of(s, NEW)), 1);
}

/* Both, or neither: a write that fails leaves the list as it was, in memory and on disk. */
static void an_exchange_that_cannot_be_written(void **state)
{
    struct fixture *f = *state;
    struct err err;
    char before[2000], after[2000];
    struct store *s = named(f);
    struct store_model now = model(7, 0, "x", NEW);
    const char *list = "select * from meta where name in ('present', 'adapters', 'mode', 'models')";
    shell(f, list, before, sizeof before);
    assert_int_equal(sqlite3_exec(s->db,
                         "create trigger fault before insert on meta begin "
                         "select raise(abort, 'no'); end",
                         NULL, NULL, NULL),
        SQLITE_OK);
    assert_true(store_exchange(s, 3, &now, 0, &err) < 0);
    assert_true(store_serve(s, 3, &now, &err) < 0);
    sqlite3_exec(s->db, "drop trigger fault", NULL, NULL, NULL);
    assert_int_equal(store_first_place(s), 0);
    assert_int_equal(store_mode_of_model(s, 7), 0);
    assert_int_equal(mode_of(s, NEW), 0);
    assert_string_equal(shell(f, list, after, sizeof after), before);
    assert_int_equal(job_now(s, put_job(s, "j", 0, 1, 4)).mode, mode_of(s, DIGEST));
}

static void one_checkpoint_under_two_names(void **state)
{
    struct fixture *f = *state;
    struct store *s = named(f);
    struct store_model same = model(1, 1, "y", DIGEST), other = model(2, 2, "z", OTHER);
    serve(s, 1, &same);
    serve(s, 2, &other);
    assert_int_equal(store_place_of(s, mode_of(s, DIGEST)), 0);
    int64_t job = put_job(s, "j", 0, 1, 4);
    serve(s, 0, NULL); /* its job goes on by the other name */
    assert_int_equal(store_place_of(s, mode_of(s, DIGEST)), 1);
    assert_int_equal(store_first_place(s), 1);
    is_held(f, job, NULL);
    serve(s, 1, NULL);
    is_held(f, job, "the broker runs bbbbbbbbbbbb");
}

/* Gives the job a row of both models. */
static int64_t ensemble(struct store *s, const char *key, uint32_t first, uint32_t second)
{
    struct err err;
    int64_t job = new_job(s, key, 0), mode;
    struct store_route r = {.text = slice_of("x/,y/"), .ids = {first, second}};
    must(store_begin(s, &err));
    must(store_note_route(s, job, &r, &err));
    must(store_wanted_mode(s, job, r.text, &mode, &err));
    assert_int_equal(store_route_is(s, &r, mode, &err), 1);
    must(store_commit(s, &err));
    return job;
}

static void note(void *arg, int64_t mode)
{
    *(int64_t *)arg |= 1ll << mode;
}

static void an_ensemble_needs_each_of_its_models(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store *s = named(f);
    struct store_model y = model(1, 1, "y", OTHER), now = model(2, 1, "y", NEW);
    serve(s, 1, &y);
    int64_t before = ensemble(s, "before", 0, 1), modes = 0;
    must(store_exchange(s, 2, &now, 1, &err));
    int64_t after = ensemble(s, "after", 0, 2);
    is_held(f, before, NULL);
    is_held(f, after, NULL);
    assert_int_equal(store_job_modes(s, before, note, &modes, &err), 1);
    assert_int_equal(modes, 1ll << mode_of(s, DIGEST) | 1ll << mode_of(s, OTHER));
    serve(s, 1, NULL);
    is_held(f, before, "other checkpoints of the models x/,y/");
    is_held(f, after, NULL);
    struct store_route r = {.text = slice_of("x/,y/"), .ids = {0, 2}};
    int64_t wanted;
    must(store_wanted_mode(s, before, r.text, &wanted, &err));
    assert_int_equal(store_route_is(s, &r, wanted, &err), 0); /* the name is another one's now */
}

static void the_checkpoint_of_a_mode(void **state)
{
    struct fixture *f = *state;
    struct err err;
    struct store_mode is;
    struct store *s = named(f);
    must(store_read_mode(s, mode_of(s, DIGEST), &is, &err));
    assert_string_equal(is.digest, DIGEST);
    must(store_read_mode(s, 99, &is, &err));
    assert_string_equal(is.digest, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_model_takes_the_name_of_another, setup, teardown),
        cmocka_unit_test_setup_teardown(back_to_the_one_before, setup, teardown),
        cmocka_unit_test_setup_teardown(an_exchange_that_cannot_be_written, setup, teardown),
        cmocka_unit_test_setup_teardown(one_checkpoint_under_two_names, setup, teardown),
        cmocka_unit_test_setup_teardown(an_ensemble_needs_each_of_its_models, setup, teardown),
        cmocka_unit_test_setup_teardown(the_checkpoint_of_a_mode, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
