/* test_http_models.c - which model and adapter a request means, of a broker that serves several. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "tests/unit/http_fixture.h"

static const char *const served[] = {"rm", "/models/rm"};

/* alpha with math, beta with math too, gamma with code, steps that scores steps. */
static struct card *four(const char *const *names, int n_names)
{
    return http_card_of(
        json_pack("[o, o, o, o]", http_model("alpha", "LAST", "none", "math"),
            http_model("beta", "LAST", "none", "math"), http_model("gamma", "LAST", "none", "code"),
            http_model("steps", "STEP", "class1", "other")),
        names, n_names);
}

static void expect(
    const struct card *card, const char *name, const char *model, const char *adapter)
{
    struct card_choice choice;
    struct err e = {0};
    if (card_find(card, name, &choice, &e) != 0)
        fail_msg("%s: %s", name, e.msg);
    assert_string_equal(choice.model->name, model);
    if (adapter)
        assert_string_equal(choice.adapter, adapter);
    else
        assert_null(choice.adapter);
}

static void refuse(const struct card *card, const char *name, int code, const char *says)
{
    struct card_choice choice;
    struct err e = {0};
    assert_int_equal(card_find(card, name, &choice, &e), code);
    assert_string_equal(e.field, "model");
    if (!strstr(e.msg, says))
        fail_msg("%s: expected '%s' in: %s", name, says, e.msg);
}

static void models_and_adapters_have_names(void **state)
{
    struct card *card = four(NULL, 0);
    (void)state;
    expect(card, NULL, "alpha", NULL);
    expect(card, "", "alpha", NULL);
    expect(card, "beta", "beta", NULL);
    expect(card, "code", "gamma", "code");
    expect(card, "gamma/code", "gamma", "code");
    expect(card, "beta/math", "beta", "math");
    refuse(card, "math", ASSAY_EBADREQ, "alpha/math, beta/math");
    refuse(card, "delta", ASSAY_EADAPTER, "alpha, beta, gamma, steps, alpha/math, beta/math, code");
    refuse(card, "alpha/code", ASSAY_EADAPTER, "does not exist");
    refuse(card, "beta/", ASSAY_EADAPTER, "does not exist");
    card_release(&card);
}

static void names_that_it_is_served_under_are_the_first_models(void **state)
{
    static const char *const taken[] = {"beta"};
    struct card *card = four(served, 2);
    (void)state;
    expect(card, NULL, "alpha", NULL);
    expect(card, "/models/rm", "alpha", NULL);
    expect(card, "gamma", "gamma", NULL);
    refuse(card, "alpha", ASSAY_EADAPTER, "rm, /models/rm, beta, gamma");
    card_release(&card);
    card = four(taken, 1);
    refuse(card, "beta", ASSAY_EBADREQ, "several");
    card_release(&card);
}

/* The code and field of a body's refusal, "" for none; the rows' first bytes name the adapter. */
static const char *decode(const char *text, const char **model, char field[ERR_FIELD_BYTES])
{
    static struct card *card;
    struct ask ask;
    struct err e = {0};
    card_release(&card);
    card = four(NULL, 0);
    json_t *body = json_loads(text, 0, NULL);
    ask_init(&ask, card);
    int rc = ask_decode(&ask, ask_classify, body, &e);
    *model = ask.asks.model->name;
    strcpy(field, e.field);
    const char *adapter = ask.asks.adapter ? ask.asks.adapter : "";
    int named = rc == 0 && memmem(ask.rows.bytes.buffer.data, ask.rows.bytes.buffer.size, "adapter",
                               7) != NULL;
    assert_int_equal(named, rc == 0 && *adapter);
    json_decref(body);
    ask_release(&ask);
    if (rc != 0)
        print_message("%s: %s\n", text, e.msg);
    return rc == 0 ? adapter : err_name(rc);
}

static void sglang_names_an_adapter_beside_its_model(void **state)
{
    const char *model;
    char field[ERR_FIELD_BYTES];
    (void)state;
    assert_string_equal(
        decode("{\"text\":\"a\",\"model\":\"beta\",\"lora_path\":\"math\"}", &model, field),
        "math");
    assert_string_equal(model, "beta");
    assert_string_equal(decode("{\"text\":\"a\",\"lora_path\":\"code\"}", &model, field), "code");
    assert_string_equal(model, "gamma");
    assert_string_equal(
        decode("{\"text\":\"a\",\"model\":\"beta\",\"lora_path\":null}", &model, field), "");
    assert_string_equal(
        decode("{\"text\":\"a\",\"model\":\"alpha\",\"lora_path\":\"code\"}", &model, field),
        "unknown_adapter");
    assert_string_equal(field, "lora_path");
    assert_string_equal(
        decode("{\"text\":\"a\",\"model\":\"code\",\"lora_path\":\"math\"}", &model, field),
        "bad_request");
    assert_string_equal(field, "lora_path");
    assert_string_equal(
        decode("{\"text\":\"a\",\"lora_path\":\"math\"}", &model, field), "bad_request");
}

static void a_model_scores_as_it_does(void **state)
{
    struct card *card = four(NULL, 0);
    struct ask ask;
    struct err e = {0};
    (void)state;
    json_t *body = json_pack("{s:s, s:s}", "input", "a", "model", "steps");
    ask_init(&ask, card);
    assert_int_equal(ask_decode(&ask, ask_embeddings, body, &e), ASSAY_EBADREQ);
    assert_non_null(strstr(e.msg, "/pooling"));
    ask_release(&ask);
    json_object_set_new(body, "model", json_string("gamma"));
    ask_init(&ask, card);
    assert_int_equal(ask_decode(&ask, ask_embeddings, body, &e), 0);
    assert_string_equal(ask.model, "gamma");
    ask_release(&ask);
    json_decref(body);
    card_release(&card);
}

static void many_names_are_cut(void **state)
{
    json_t *models = json_array();
    char name[24];
    (void)state;
    for (int i = 0; i < CARD_MAX_MODELS; i++) {
        snprintf(name, sizeof name, "model-%08d", i);
        json_array_append_new(models, http_model(name, "LAST", "none", "math"));
    }
    struct card *card = http_card_of(models, NULL, 0);
    refuse(card, "m", ASSAY_EADAPTER, "model-00000002, ");
    refuse(card, "m", ASSAY_EADAPTER, ", ...");
    card_release(&card);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_and_adapters_have_names),
        cmocka_unit_test(names_that_it_is_served_under_are_the_first_models),
        cmocka_unit_test(sglang_names_an_adapter_beside_its_model),
        cmocka_unit_test(a_model_scores_as_it_does),
        cmocka_unit_test(many_names_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
