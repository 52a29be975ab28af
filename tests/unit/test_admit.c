/* test_admit.c - one row judged: what is stored for it, and with which error. Rows come through the
 * decoder, as they do in the broker, so every row here is one that a client can send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "broker/api/admit.h"

#define VOCAB 100
#define MAX_LEN 8
#define PAD 0
#define STEP 42
#define UNSAID (-1)

/* A reward model's facts: one label, LAST. */
static const struct model_info reward = {.architecture = "Qwen2ForRewardModel",
    .vocab_size = VOCAB,
    .max_len = MAX_LEN,
    .n_labels = 1,
    .pool = {POOL_LAST, ACTIVATION_NONE, POOL_NO_STEP_TOKEN},
    .pad_token = PAD};

static const struct model_info process = {.architecture = "Qwen2ForProcessRewardModel",
    .vocab_size = VOCAB,
    .max_len = MAX_LEN,
    .n_labels = 2,
    .pool = {POOL_STEP, ACTIVATION_CLASS1, STEP},
    .pad_token = POOL_NO_STEP_TOKEN};

/* A request's row while it is being made. */
struct draft {
    const int64_t *ids;
    uint32_t n_ids;
    const char *pool, *activation, *adapter;
    int64_t step_token; /* 0: not given */
    const int64_t *positions;
    uint32_t n_positions;
    int truncate, hf_pad_rule; /* UNSAID: not written, as a client that does not know it */
};

struct fixture {
    struct admit admit;
    struct msg_writer bytes;
    struct row_request request;
    struct store_row row;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    msg_writer_init(&f->bytes);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    admit_release(&f->admit);
    msg_writer_release(&f->bytes);
    free(f);
    return 0;
}

static void write_numbers(struct msg_writer *w, const char *key, const int64_t *v, uint32_t n)
{
    msg_str(w, key);
    msg_array(w, n);
    for (uint32_t i = 0; i < n; i++)
        msg_int(w, v[i]);
}

static void write_pool(struct msg_writer *w, const struct draft *d)
{
    msg_str(w, "pool");
    msg_map(w,
        (d->pool != NULL) + (d->activation != NULL) + (d->step_token > 0) + (d->positions != NULL));
    if (d->pool)
        msg_key_str(w, "type", d->pool);
    if (d->activation)
        msg_key_str(w, "activation", d->activation);
    if (d->step_token > 0)
        msg_key_int(w, "step_token", d->step_token);
    if (d->positions)
        write_numbers(w, "positions", d->positions, d->n_positions);
}

static void decode(struct fixture *f, const struct draft *d)
{
    struct msg_reader r;
    struct err e = {0};
    struct msg_writer *w = &f->bytes;
    msg_writer_clear(w);
    msg_map(w, 3 + (d->hf_pad_rule != UNSAID) + (d->adapter != NULL));
    write_numbers(w, "ids", d->ids, d->n_ids);
    write_pool(w, d);
    msg_key_bool(w, "truncate", d->truncate);
    if (d->hf_pad_rule != UNSAID)
        msg_key_bool(w, "hf_pad_rule", d->hf_pad_rule);
    if (d->adapter)
        msg_key_str(w, "adapter", d->adapter);
    msg_reader_init(&r, (const uint8_t *)w->buffer.data, w->buffer.size);
    if (request_next_row(&r, 0, &f->request, &e) != 0)
        fail_msg("the decoder refused the draft: %s", e.msg);
}

static const struct store_row *judge(
    struct fixture *f, const struct model_info *m, const struct draft *d)
{
    decode(f, d);
    f->admit.model = m;
    admit_row(&f->admit, &f->request, &f->row);
    return &f->row;
}

/* A row that failed has its reason, and asks for no work. */
static void assert_refused(const struct store_row *row, int code, const char *words)
{
    assert_int_equal(row->error_code, code);
    assert_non_null(strstr(row->error_message, words));
    assert_int_equal(row->n_values, 0);
    assert_int_equal(row->n_positions, 0);
}

#define IDS(...)                                                                                   \
    .ids = (const int64_t[]){__VA_ARGS__},                                                         \
    .n_ids = sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)
#define POSITIONS(...)                                                                             \
    .pool = "POSITIONS", .positions = (const int64_t[]){__VA_ARGS__},                              \
    .n_positions = sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)

static void test_defaults_are_the_models(void **state)
{
    const struct store_row *row = judge(*state, &reward, &(struct draft){IDS(5, 6, 7)});
    assert_int_equal(row->error_code, 0);
    assert_int_equal(row->n_tokens, 3);
    assert_int_equal(row->ids[2], 7);
    assert_int_equal(row->pool.type, POOL_LAST);
    assert_int_equal(row->pool.activation, ACTIVATION_NONE);
    assert_int_equal(row->n_values, 1);
    assert_int_equal(row->n_positions, 0);
    row = judge(*state, &process, &(struct draft){IDS(5, STEP, 7, STEP)});
    assert_int_equal(row->pool.type, POOL_STEP);
    assert_int_equal(row->pool.activation, ACTIVATION_CLASS1);
    assert_int_equal(row->pool.step_token, STEP);
    assert_int_equal(row->n_values, 2);
}

static void test_what_the_row_asks_for_wins(void **state)
{
    struct draft d = {IDS(9, STEP, 9), .pool = "STEP", .step_token = 9, .activation = "softmax"};
    const struct store_row *row = judge(*state, &process, &d);
    assert_int_equal(row->error_code, 0);
    assert_int_equal(row->pool.step_token, 9);
    assert_int_equal(row->pool.activation, ACTIVATION_SOFTMAX);
    assert_int_equal(row->n_values, 4); /* two steps, two labels */
}

static void test_values_by_pooling(void **state)
{
    static const struct {
        const char *pool, *activation;
        uint32_t n_values;
    } cases[] = {{"LAST", "none", 2}, {"CLS", "none", 2}, {"MEAN", "none", 2}, {"ALL", "none", 8},
        {"ALL", "class1", 4}, {"MEAN", "class1", 1}, {"STEP", "sigmoid", 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct draft d = {
            IDS(1, 2, STEP, 4), .pool = cases[i].pool, .activation = cases[i].activation};
        const struct store_row *row = judge(*state, &process, &d);
        assert_int_equal(row->error_code, 0);
        assert_int_equal(row->n_values, cases[i].n_values);
    }
}

static void test_ids_lie_in_the_vocabulary(void **state)
{
    assert_int_equal(judge(*state, &reward, &(struct draft){IDS(0, VOCAB - 1)})->error_code, 0);
    assert_refused(judge(*state, &reward, &(struct draft){IDS(1, VOCAB)}), ASSAY_EBADTOKEN,
        "token 1: expected an id from 0 to 99, found 100");
    assert_refused(judge(*state, &reward, &(struct draft){IDS(-1)}), ASSAY_EBADTOKEN, "token 0");
    assert_refused(judge(*state, &reward, &(struct draft){IDS(1ll << 40)}), ASSAY_EBADTOKEN,
        "token 0"); /* 2^40 must not come out as 0 */
    assert_refused(
        judge(*state, &reward, &(struct draft){IDS(INT64_MIN)}), ASSAY_EBADTOKEN, "token 0");
}

static void test_no_tokens(void **state)
{
    const struct store_row *row = judge(*state, &reward, &(struct draft){.ids = NULL, .n_ids = 0});
    assert_refused(row, ASSAY_ENOTOKENS, "found none");
    assert_int_equal(row->n_tokens, 0);
    struct draft d = {.ids = NULL, .n_ids = 0, .truncate = 1, .hf_pad_rule = 1, .pool = "ALL"};
    assert_refused(judge(*state, &reward, &d), ASSAY_ENOTOKENS, "found none");
}

static void test_long_rows_are_cut_only_on_request(void **state)
{
    struct draft d = {IDS(1, 2, 3, 4, 5, 6, 7, 8)};
    assert_int_equal(judge(*state, &reward, &d)->error_code, 0);
    struct draft longer = {IDS(1, 2, 3, 4, 5, 6, 7, 8, 9)};
    const struct store_row *row = judge(*state, &reward, &longer);
    assert_refused(row, ASSAY_ETOOLONG, "at most 8 tokens, found 9");
    assert_int_equal(row->n_tokens, 9);
    longer.truncate = 1;
    row = judge(*state, &reward, &longer);
    assert_int_equal(row->error_code, 0);
    assert_int_equal(row->n_tokens, MAX_LEN);
    assert_int_equal(row->ids[0], 1);
    assert_int_equal(row->ids[MAX_LEN - 1], 8);
}

static void test_what_is_cut_off_is_not_judged(void **state)
{
    struct draft d = {IDS(1, 2, 3, 4, 5, 6, 7, 8, VOCAB), .truncate = 1};
    assert_int_equal(judge(*state, &reward, &d)->error_code, 0);
    struct draft step = {IDS(1, 2, 3, 4, 5, 6, 7, 8, STEP), .truncate = 1};
    assert_refused(judge(*state, &process, &step), ASSAY_ENOSTEP, "found none");
    struct draft at = {IDS(1, 2, 3, 4, 5, 6, 7, 8, 9), .truncate = 1, POSITIONS(8)};
    assert_refused(judge(*state, &reward, &at), ASSAY_EPOSITION, "expected 0 to 7, found 8");
}

static void test_steps_are_needed(void **state)
{
    struct draft unknown = {IDS(1, 2), .pool = "STEP"};
    assert_refused(judge(*state, &reward, &unknown), ASSAY_ENOSTEP, "names no step token");
    assert_refused(
        judge(*state, &process, &(struct draft){IDS(1, 2)}), ASSAY_ENOSTEP, "step token 42");
}

static void test_positions_lie_in_the_row(void **state)
{
    const struct store_row *row =
        judge(*state, &reward, &(struct draft){IDS(1, 2, 3), POSITIONS(2, 0)});
    assert_int_equal(row->error_code, 0);
    assert_int_equal(row->n_positions, 2);
    assert_int_equal(row->positions[0], 2);
    assert_int_equal(row->n_values, 2);
    assert_refused(judge(*state, &reward, &(struct draft){IDS(1, 2, 3), POSITIONS(3, 0, 9)}),
        ASSAY_EPOSITION, "positions[0]: expected 0 to 2, found 3"); /* the first wrong one */
    assert_refused(judge(*state, &reward, &(struct draft){IDS(1), POSITIONS(0, 0)}),
        ASSAY_EPOSITION, "at most as many positions as tokens, 1, found 2");
}

static void test_adapters_are_unknown(void **state)
{
    assert_refused(judge(*state, &reward, &(struct draft){IDS(1), .adapter = "mine"}),
        ASSAY_EADAPTER, "'mine'");
    /* A message is a C string of limited length: a long name must be cut, not run over. */
    char name[3000];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    assert_refused(
        judge(*state, &reward, &(struct draft){IDS(1), .adapter = name}), ASSAY_EADAPTER, "xxx");
}

static void test_pad_rule_passes_over_padding(void **state)
{
    struct fixture *f = *state;
    struct draft d = {IDS(5, PAD, 7, PAD, PAD), .hf_pad_rule = 1};
    const struct store_row *row = judge(f, &reward, &d);
    assert_int_equal(row->error_code, 0);
    assert_int_equal(row->pool.type, POOL_LAST); /* so that one `score` comes back */
    assert_int_equal(row->n_positions, 1);
    assert_int_equal(row->positions[0], 2);
    assert_int_equal(row->n_values, 1);
    struct draft all = {IDS(PAD, PAD), .hf_pad_rule = 1};
    assert_int_equal(judge(f, &reward, &all)->positions[0], 0);
    struct draft none = {IDS(5, 6), .hf_pad_rule = 1}; /* the same row as without the rule */
    assert_int_equal(judge(f, &reward, &none)->n_positions, 0);
}

static void test_pad_rule_is_for_last_with_a_pad_token(void **state)
{
    struct draft cls = {IDS(5, PAD), .hf_pad_rule = 1, .pool = "CLS"};
    assert_int_equal(judge(*state, &reward, &cls)->n_positions, 0);
    struct draft no_pad_token = {IDS(5, PAD), .hf_pad_rule = 1, .pool = "LAST"};
    assert_int_equal(judge(*state, &process, &no_pad_token)->n_positions, 0);
    struct draft not_asked = {IDS(5, PAD), .hf_pad_rule = UNSAID};
    assert_int_equal(judge(*state, &reward, &not_asked)->n_positions, 0);
}

/* Sequence classification in transformers: what is not said is the class's way, and what is said
 * wins. */
static void test_the_models_own_pad_rule(void **state)
{
    struct fixture *f = *state;
    struct model_info classes = reward;
    snprintf(classes.rank_mode, sizeof classes.rank_mode, "device=cpu");
    classes.pad_rule = 1;
    model_info_set_pad_rule(&classes, "auto");
    assert_string_equal(classes.mode, "device=cpu pad_rule=on");
    struct draft unsaid = {IDS(5, 7, PAD), .hf_pad_rule = UNSAID};
    assert_int_equal(judge(f, &classes, &unsaid)->n_positions, 1);
    assert_int_equal(f->row.positions[0], 1);
    struct draft refused = {IDS(5, 7, PAD), .hf_pad_rule = 0};
    assert_int_equal(judge(f, &classes, &refused)->n_positions, 0);
    model_info_set_pad_rule(&classes, "off");
    assert_string_equal(classes.mode, "device=cpu");
    assert_int_equal(judge(f, &classes, &unsaid)->n_positions, 0);
    model_info_set_pad_rule(&classes, "on");
    assert_int_equal(judge(f, &classes, &unsaid)->n_positions, 1);
    classes.pad_token = -1;
    model_info_set_pad_rule(&classes, "on");
    assert_string_equal(classes.mode, "device=cpu");
    assert_int_equal(judge(f, &classes, &unsaid)->n_positions, 0);
}

static void test_rows_with_too_many_values_fail_by_themselves(void **state)
{
    /* 2^20 tokens of 4096 labels are 2^32 numbers: a 32-bit product would be 0. */
    struct model_info wide = reward;
    uint32_t n = 1u << 20;
    int64_t *ids = calloc(n, sizeof *ids);
    wide.max_len = n;
    wide.n_labels = 4096;
    struct draft d = {.ids = ids, .n_ids = n, .pool = "ALL"};
    assert_refused(judge(*state, &wide, &d), ASSAY_ETOOLONG, "found 4294967296");
    d.n_ids = ADMIT_MAX_VALUES / 4096;
    assert_int_equal(judge(*state, &wide, &d)->n_values, ADMIT_MAX_VALUES);
    free(ids);
}

static void test_rows_do_not_leak_into_each_other(void **state)
{
    struct draft bad = {IDS(1, 2, VOCAB)}, good = {IDS(3)};
    judge(*state, &reward, &(struct draft){IDS(1, 2, 3, 4), POSITIONS(3, 2, 1)});
    judge(*state, &reward, &bad);
    const struct store_row *row = judge(*state, &reward, &good);
    assert_int_equal(row->error_code, 0);
    assert_null(row->error_message);
    assert_int_equal(row->n_tokens, 1);
    assert_int_equal(row->ids[0], 3);
    assert_null(row->positions);
}

static void test_activations_that_need_labels(void **state)
{
    static const char *const names[] = {"softmax", "class1"};
    for (int i = 0; i < 2; i++) {
        struct draft draft = {IDS(1), .pool = "LAST", .activation = names[i]};
        assert_int_equal(judge(*state, &process, &draft)->error_code, 0);
        assert_refused(judge(*state, &reward, &draft), ASSAY_EBADREQ, names[i]);
    }
    assert_int_equal(
        judge(*state, &reward, &(struct draft){IDS(1), .activation = "sigmoid"})->error_code, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults_are_the_models, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_the_row_asks_for_wins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_values_by_pooling, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ids_lie_in_the_vocabulary, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_tokens, setup, teardown),
        cmocka_unit_test_setup_teardown(test_long_rows_are_cut_only_on_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_cut_off_is_not_judged, setup, teardown),
        cmocka_unit_test_setup_teardown(test_steps_are_needed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_positions_lie_in_the_row, setup, teardown),
        cmocka_unit_test_setup_teardown(test_adapters_are_unknown, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pad_rule_passes_over_padding, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_pad_rule_is_for_last_with_a_pad_token, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_models_own_pad_rule, setup, teardown),
        cmocka_unit_test_setup_teardown(
            test_rows_with_too_many_values_fail_by_themselves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rows_do_not_leak_into_each_other, setup, teardown),
        cmocka_unit_test_setup_teardown(test_activations_that_need_labels, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
