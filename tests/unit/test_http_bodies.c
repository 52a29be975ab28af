/* test_http_bodies.c - bodies of HTTP requests as rows, and what of them is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "broker/ask/body.h"
#include "broker/ask/fields.h"
#include "schema/msg_json.h"
#include "tests/unit/http_fixture.h"

/* Decodes a body for one endpoint. Returns its rows as JSON, or NULL with *e. Values that JSON has
 * no place for (ids) make msg_read_json fail, so tests here send texts. */
static json_t *rows_of(ask_decoder *decode, const char *text, const char *pool, struct err *e)
{
    struct card *card = http_card(pool, "none");
    struct ask ask;
    json_t *body = NULL, *all = NULL;
    ask_init(&ask, card);
    *e = (struct err){0};
    int rc = body_parse(text, strlen(text), &body, e);
    if (rc == 0)
        rc = ask_decode(&ask, decode, body, e);
    assert_int_equal(rc, e->code);
    if (rc == 0)
        all = json_array();
    for (uint32_t i = 0; rc == 0 && i < ask.rows.n; i++) {
        struct msg_reader r;
        json_t *row = NULL;
        const struct row_place *place = &ask.rows.all[i];
        msg_reader_init(&r, (const uint8_t *)ask.rows.bytes.buffer.data + place->at, place->len);
        assert_int_equal(msg_read_json(&r, &row, e), 0);
        json_array_append_new(all, row);
    }
    json_decref(body);
    ask_release(&ask);
    card_release(&card);
    return all;
}

static void expect(ask_decoder *decode, const char *body, const char *rows)
{
    struct err e;
    json_t *found = rows_of(decode, body, "LAST", &e), *wanted = json_loads(rows, 0, NULL);
    if (!found)
        fail_msg("%s: %s", body, e.msg);
    if (!json_equal(found, wanted))
        fail_msg("%s: expected %s, found %s", body, rows, json_dumps(found, 0));
    json_decref(found);
    json_decref(wanted);
}

static void refuse(ask_decoder *decode, const char *body, int code, const char *field)
{
    struct err e;
    json_t *found = rows_of(decode, body, "LAST", &e);
    if (found)
        fail_msg("%s: taken", body);
    assert_int_equal(e.code, code);
    assert_string_equal(e.field, field);
}

static void texts_and_messages(void **state)
{
    (void)state;
    expect(ask_classify, "{\"input\":\"a\"}", "[{\"text\":\"a\"}]");
    expect(ask_classify, "{\"input\":[\"a\",\"b\"],\"model\":\"reward\"}",
        "[{\"text\":\"a\"},{\"text\":\"b\"}]");
    expect(ask_classify, "{\"input\":\"a\",\"add_special_tokens\":false}",
        "[{\"add_special_tokens\":false,\"text\":\"a\"}]");
    expect(ask_classify,
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"add_generation_prompt\":true}",
        "[{\"add_generation_prompt\":true,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}]");
    expect(ask_classify, "{\"text\":\"a\",\"lora_path\":\"math\"}",
        "[{\"adapter\":\"math\",\"text\":\"a\"}]");
    expect(ask_embeddings, "{\"input\":\"a\",\"model\":\"math\"}",
        "[{\"adapter\":\"math\",\"text\":\"a\"}]");
}

static void options_of_all_rows(void **state)
{
    (void)state;
    expect(ask_classify, "{\"input\":\"a\",\"use_activation\":false}",
        "[{\"pool\":{\"activation\":\"none\"},\"text\":\"a\"}]");
    expect(ask_classify, "{\"input\":\"a\",\"use_activation\":true}",
        "[{\"pool\":{\"activation\":\"config\"},\"text\":\"a\"}]");
    expect(ask_classify, "{\"input\":\"a\",\"softmax\":false,\"use_activation\":false}",
        "[{\"pool\":{\"activation\":\"none\"},\"text\":\"a\"}]");
    refuse(ask_classify, "{\"input\":\"a\",\"softmax\":true,\"use_activation\":false}",
        ASSAY_EBADREQ, "use_activation");
    expect(ask_classify,
        "{\"input\":\"a\",\"truncate_prompt_tokens\":9,\"truncation_side\":\"left\"}",
        "[{\"truncate\":true,\"max_length\":9,\"truncation_side\":\"left\",\"text\":\"a\"}]");
    expect(ask_classify, "{\"input\":\"a\",\"truncate_prompt_tokens\":-1}",
        "[{\"truncate\":true,\"text\":\"a\"}]");
    expect(ask_classify, "{\"input\":\"a\",\"truncation_side\":\"left\"}", "[{\"text\":\"a\"}]");
    expect(ask_pooling, "{\"input\":\"a\"}", "[{\"pool\":{\"type\":\"ALL\"},\"text\":\"a\"}]");
    expect(ask_pooling, "{\"input\":\"a\",\"task\":\"classify\"}", "[{\"text\":\"a\"}]");
}

static void pairs(void **state)
{
    (void)state;
    expect(ask_score, "{\"text_1\":\"q\",\"text_2\":[\"a\",\"b\"]}",
        "[{\"query\":\"q\",\"document\":\"a\"},{\"query\":\"q\",\"document\":\"b\"}]");
    expect(ask_score, "{\"queries\":[\"q\",\"r\"],\"documents\":[\"a\",\"b\"]}",
        "[{\"query\":\"q\",\"document\":\"a\"},{\"query\":\"r\",\"document\":\"b\"}]");
    expect(ask_score, "{\"queries\":[\"q\"],\"items\":\"a\",\"instruction\":\"i\"}",
        "[{\"instruction\":\"i\",\"query\":\"q\",\"document\":\"a\"}]");
    expect(ask_rerank,
        "{\"query\":\"q\",\"documents\":[{\"text\":\"a\"}],\"chat_template_kwargs\":{"
        "\"instruction\":\"i\"}}",
        "[{\"instruction\":\"i\",\"query\":\"q\",\"document\":\"a\"}]");
    refuse(ask_score, "{\"text_1\":[\"q\",\"r\"],\"text_2\":[\"a\",\"b\",\"c\"]}", ASSAY_EBADREQ,
        "text_1");
    refuse(ask_score, "{\"text_1\":\"q\",\"text_2\":\"a\",\"items\":\"a\"}", ASSAY_EBADREQ, "");
    refuse(ask_score, "{\"text_1\":\"q\",\"text_2\":[1]}", ASSAY_EBADREQ, "text_2[0]");
    refuse(ask_score, "{\"text_1\":\"q\",\"text_2\":[]}", ASSAY_EBADREQ, "");
    refuse(ask_score, "{\"text_1\":[],\"text_2\":[]}", ASSAY_EBADREQ, "");
    refuse(ask_rerank, "{\"query\":[\"q\"],\"documents\":[\"a\"]}", ASSAY_EBADREQ, "query");
    refuse(ask_rerank, "{\"query\":\"q\",\"documents\":[\"a\"],\"max_tokens_per_doc\":9}",
        ASSAY_EBADREQ, "max_tokens_per_doc");
    refuse(ask_rerank,
        "{\"query\":\"q\",\"documents\":[\"a\"],\"instruction\":\"i\",\"instruct\":\"j\"}",
        ASSAY_EBADREQ, "instruct");
}

static void trainers(void **state)
{
    (void)state;
    expect(ask_get_reward, "{\"query\":[\"a\"],\"prompts\":[\"a\"],\"labels\":[{\"b\":1}]}",
        "[{\"add_special_tokens\":false,\"text\":\"a\"}]");
    expect(ask_rm, "{\"prompt\":\"p\",\"response\":\"r\",\"label\":null}",
        "[{\"prompt\":\"p\",\"response\":\"r\"}]");
    refuse(ask_rm, "{\"prompt\":\"[INST] p\",\"response\":\"r\"}", ASSAY_EBADREQ, "prompt");
    refuse(ask_rm, "{\"prompt\":\"\\u0000[INST] p\",\"response\":\"r\"}", ASSAY_EBADREQ, "prompt");
    refuse(ask_rm, "{\"prompt\":\"p\"}", ASSAY_EBADREQ, "response");
    refuse(ask_rm, "{\"prompt\":[\"p\"],\"response\":\"r\"}", ASSAY_EBADREQ, "prompt");
}

static void what_is_not_known_is_refused(void **state)
{
    (void)state;
    refuse(ask_classify, "{\"input\":\"a\",\"model\":\"other\"}", ASSAY_EADAPTER, "model");
    refuse(ask_classify, "{\"input\":\"a\",\"model\":7}", ASSAY_EBADREQ, "model");
    refuse(ask_classify, "{\"input\":\"a\",\"model\":\"re\\u0000ward\"}", ASSAY_EBADREQ, "model");
    refuse(ask_classify, "{\"input\":\"a\",\"tools\":[{}]}", ASSAY_EBADREQ, "tools");
    refuse(ask_classify, "{\"input\":\"a\",\"system\":\"b\"}", ASSAY_EBADREQ, "system");
    refuse(ask_classify, "{\"messages\":[{\"role\":\"user\"}]}", ASSAY_EBADREQ,
        "rows[0].messages[0].content");
    refuse(ask_classify, "{\"messages\":[{\"role\":7,\"content\":\"a\"}]}", ASSAY_EBADREQ,
        "rows[0].messages[0].role");
}

static void models_that_score_positions(void **state)
{
    struct err e;
    (void)state;
    assert_null(rows_of(ask_classify, "{\"input\":\"a\"}", "STEP", &e));
    assert_non_null(strstr(e.msg, "/pooling"));
    json_t *rows = rows_of(ask_pooling, "{\"input\":\"a\"}", "STEP", &e);
    assert_int_equal(json_array_size(rows), 1);
    assert_null(json_object_get(json_array_get(rows, 0), "pool"));
    json_decref(rows);
}

static void too_many_rows(void **state)
{
    char body[1024] = "{\"input\":[";
    (void)state;
    for (int i = 0; i < 101; i++)
        strcat(body, i ? ",\"a\"" : "\"a\"");
    strcat(body, "]}");
    refuse(ask_classify, body, ASSAY_ETOOLARGE, "");
}

/* A query counts in each row: rows end where a bound is passed, not when all are there. */
static void a_small_body_does_not_become_a_large_request(void **state)
{
    struct err e = {0};
    struct budget budget = {.most = 30000};
    struct card *card = http_card("LAST", "none");
    json_t *documents = json_array();
    char query[1001] = "";
    (void)state;
    memset(query, 'q', 1000);
    for (int i = 0; i < 90; i++)
        json_array_append_new(documents, json_string("a"));
    json_t *body = json_pack("{s:s, s:o}", "query", query, "documents", documents);
    for (int has_budget = 0; has_budget < 2; has_budget++) {
        struct ask ask;
        ask_init(&ask, card);
        ask.rows.max_bytes = has_budget ? 50000 : 20000;
        ask.rows.budget = &budget;
        budget.most = has_budget ? 30000 : 1000000;
        assert_int_equal(ask_decode(&ask, ask_rerank, body, &e),
            has_budget ? ASSAY_EQUEUEFULL : ASSAY_ETOOLARGE);
        assert_in_range(ask.rows.bytes.buffer.size, 10000, 22000);
        assert_in_range(atomic_load(&budget.used), 25000, 40000);
        ask_release(&ask);
        assert_int_equal(atomic_load(&budget.used), 0);
    }
    json_decref(body);
    card_release(&card);
}

static void depth_and_number_are_bounded(void **state)
{
    static const char in_text[] = "{\"a\":\"[[[[[[[[[[[[[[[[[[[[[[\"}";
    json_t *body;
    struct err e = {0};
    char *many = malloc(2 * BODY_MAX_VALUES + 16);
    size_t n = (size_t)sprintf(many, "{\"a\":[0");
    (void)state;
    for (unsigned i = 0; i < BODY_MAX_VALUES; i++, n += 2)
        memcpy(many + n, ",0", 2);
    memcpy(many + n, "]}", 2);
    assert_int_equal(body_parse(many, n + 2, &body, &e), ASSAY_ETOOLARGE);
    free(many);
    assert_int_equal(body_parse(in_text, strlen(in_text), &body, &e), 0);
    json_decref(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_and_messages),
        cmocka_unit_test(options_of_all_rows),
        cmocka_unit_test(pairs),
        cmocka_unit_test(trainers),
        cmocka_unit_test(what_is_not_known_is_refused),
        cmocka_unit_test(models_that_score_positions),
        cmocka_unit_test(too_many_rows),
        cmocka_unit_test(a_small_body_does_not_become_a_large_request),
        cmocka_unit_test(depth_and_number_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
