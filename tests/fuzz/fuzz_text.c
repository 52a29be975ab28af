/* fuzz_text.c - any row of text, through the chat writers to token ids.
 *
 * An input is one byte that chooses the template and one whose lowest bit says where steps go, then
 * a row as in a submit message. Whatever can be read as a row gives sequences or an error with
 * words; with safe_text the client's words never become a control token. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/compose.h"
#include "tests/unit/tiny_tokenizer.h"

/* ChatML that is interpreted, with all that a row may hold. */
static const char source[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}"
    "{% for k in m.tool_calls or [] %}{{ k }}{% endfor %}{{ m.thinking | trim }}{% endfor %}"
    "{{ tools | tojson }}{{ enable_thinking }}";

static struct text_model model(uint8_t template, int steps_in_chat)
{
    struct text_model m = {.tokenizer = tiny_tokenizer(),
        .chat = {.template = (enum chat_template)(template % CHAT_COUNT), .reason = "none"},
        .steps_in_chat = steps_in_chat};
    static struct jinja *parsed;
    struct err e;
    if (!parsed &&
        jinja_parse(&parsed, (struct slice){(const uint8_t *)source, sizeof source - 1}, &e) != 0)
        abort();
    m.chat.jinja = parsed;
    return m;
}

static uint32_t count(const int32_t *ids, uint32_t n, int32_t id)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++)
        found += ids[i] == id;
    return found;
}

static int is_chatml(enum chat_template t)
{
    return t >= CHAT_JINJA && t <= CHAT_QWEN3_INSTRUCT_2507;
}

static void check_sequences(
    const struct text_model *m, const struct row_request *q, const struct composed *row)
{
    assert(row->n >= 1);
    for (uint32_t k = 1; k < row->n; k++)
        assert(row->ends[k] >= row->ends[k - 1]);
    uint32_t n = row->ends[row->n - 1];
    for (uint32_t i = 0; i < n; i++)
        assert(tokenizer_piece(m->tokenizer, row->ids[i]).at);
    /* Each turn of ChatML is opened and closed by the template alone. */
    if (q->safe_text && is_chatml(m->chat.template))
        assert(count(row->ids, n, TINY_START) == count(row->ids, n, TINY_END));
    if (q->safe_text && q->shape == ROW_TEXT)
        assert(count(row->ids, row->ends[0], TINY_END) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct row_request q;
    struct msg_reader r;
    struct err e = {0};
    struct composed row;
    if (len < 2)
        return 0;
    struct text_model m = model(bytes[0], bytes[1] & 1);
    msg_reader_init(&r, bytes + 2, len - 2);
    if (request_next_row(&r, 0, &q, &e) != 0 || q.shape == ROW_IDS || q.shape == ROW_REFUSED)
        return 0;
    struct composer *c = composer_new(&m);
    int32_t step = q.pool.step_token >= 0 ? q.pool.step_token : TINY_STEP;
    int rc = compose_row(c, &q, step, &row, &e);
    if (rc == 0)
        check_sequences(&m, &q, &row);
    else
        assert(rc < 0 && e.msg[0]);
    composer_free(&c);
    return 0;
}

static void message(struct msg_writer *w, const char *role, const char *content)
{
    msg_map(w, 2);
    msg_key_str(w, "role", role);
    msg_key_str(w, "content", content);
}

static void conversation(struct msg_writer *w)
{
    msg_array(w, 4);
    message(w, "system", " be brief\n");
    message(w, "user", "1 + 1?<|im_end|>");
    message(w, "tool", "2");
    message(w, "assistant", "<think>\nwell\n</think>\n\n2");
}

static void texts(struct msg_writer *w, const char *key)
{
    msg_str(w, key);
    msg_array(w, 2);
    msg_str(w, "one <extra_0>");
    msg_str(w, "two\xff");
}

/* A pair of whole conversations with their prompt beside them, thoughts and tool calls. */
static void pair(struct msg_writer *w)
{
    static const char *const keys[] = {"chosen", "rejected"};
    msg_map(w, 6);
    msg_key_bool(w, "safe_text", 1);
    msg_key_str(w, "prompt", "1 + 1?");
    msg_key_str(w, "system", "be brief<|im_end|>");
    msg_key_bool(w, "tools", 0);
    for (int i = 0; i < 2; i++) {
        msg_str(w, keys[i]);
        msg_array(w, 2);
        message(w, "user", "1 + 1?");
        msg_map(w, 4);
        msg_key_str(w, "role", "assistant");
        msg_key_str(w, "content", "2");
        msg_key_str(w, "reasoning_content", "\n\nwell <|im_end|>\n");
        msg_str(w, "tool_calls");
        msg_array(w, 0);
    }
}

/* Content in parts, and none beside tool calls. */
static void parts(struct msg_writer *w, int joins)
{
    msg_map(w, 2);
    msg_key_bool(w, "join_content", joins);
    msg_str(w, "messages");
    msg_array(w, 2);
    msg_map(w, 2);
    msg_key_str(w, "role", "user");
    msg_str(w, "content");
    msg_array(w, 2);
    for (int i = 0; i < 2; i++) {
        msg_map(w, 2);
        msg_key_str(w, "type", "text");
        msg_key_str(w, "text", i ? "" : "1 + 1?<|im_end|>");
    }
    msg_map(w, 3);
    msg_key_str(w, "role", "assistant");
    msg_str(w, "content");
    msg_nil(w);
    msg_key_bool(w, "tool_calls", 1);
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    static const char heads[][3] = {"\x04\x01", "\x07\x01", "\x04\x01", "\x07\x02", "\x09\x01",
        "\x0b\x01", "\x04\x02", "\x07\x01", "\x04\x01", "\x01\x02", "\x04\x02"};
    if (n >= sizeof heads / sizeof heads[0])
        return 0;
    msgpack_sbuffer_write(&w->buffer, heads[n], 2);
    if (n == 7) {
        pair(w);
        return 1;
    }
    if (n > 8) {
        parts(w, n == 10);
        return 1;
    }
    if (n == 8) {
        msg_map(w, 3);
        msg_key_str(w, "text", "a<|im_end|>");
        msg_key_bool(w, "safe_text", 1);
        msg_key_bool(w, "add_special_tokens", 0);
        return 1;
    }
    msg_map(w, n == 0 ? 2 : 3);
    if (n < 2) {
        msg_key_bool(w, "safe_text", 1);
        msg_str(w, n ? "prompt" : "messages");
        conversation(w);
        if (n)
            msg_key_str(w, "response", "<|im_start|> 3");
        return 1;
    }
    msg_key_bool(w, "safe_text", (int)n & 1);
    msg_key_str(w, n == 6 ? "question" : "prompt", "1 + 1?");
    if (n == 2 || n == 4)
        texts(w, "responses");
    else if (n == 3 || n == 6)
        texts(w, "steps");
    else
        msg_key_str(w, "completion", "<|eot_id|> 2");
    return 1;
}
