/* chat.c - see chat.h. Holds what all templates share, and the templates themselves; chat_load.c
 * finds a checkpoint's template. */
#include "broker/text/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/text/unicode.h"
#include "schema/log.h"

struct writer {
    const struct chat_message *messages;
    uint32_t n;
    const char *system_prompt;
    struct chat_text *out;
    struct err *e;
};

void chat_text_clear(struct chat_text *t)
{
    t->text.len = 0;
    t->n_copies = 0;
}

void chat_text_release(struct chat_text *t)
{
    buffer_release(&t->text);
    free(t->copies);
    *t = (struct chat_text){0};
}

/* ---- pieces ---- */

static void put(struct writer *w, const char *text)
{
    buffer_text(&w->out->text, text);
}

static void put_slice(struct writer *w, struct slice s)
{
    buffer_append(&w->out->text, s.at, s.len);
}

/* Writes a part of message i's content. */
static void put_content(struct writer *w, uint32_t i, struct slice part)
{
    struct chat_text *out = w->out;
    out->copies = list_grow(out->copies, out->n_copies, &out->copies_room, sizeof *out->copies);
    out->copies[out->n_copies++] = (struct chat_copy){
        i, (size_t)(part.at - w->messages[i].content.at), part.len, out->text.len};
    put_slice(w, part);
}

/* Writes text that is not in a message's content. */
static void put_reasoning(struct writer *w, struct slice part)
{
    struct chat_text *out = w->out;
    out->copies = list_grow(out->copies, out->n_copies, &out->copies_room, sizeof *out->copies);
    out->copies[out->n_copies++] = (struct chat_copy){CHAT_NO_MESSAGE, 0, part.len, out->text.len};
    put_slice(w, part);
}

static int role_is(const struct writer *w, uint32_t i, const char *role)
{
    return i < w->n && slice_is(w->messages[i].role, role);
}

static int bad_role(const struct writer *w, uint32_t i, const char *expected)
{
    char field[40];
    struct slice role = w->messages[i].role;
    snprintf(field, sizeof field, "messages[%u].role", i);
    return err_field(w->e, ASSAY_EBADTEXT, field, "expected %s, found '%.*s'", expected,
        (int)(role.len < 40 ? role.len : 40), (const char *)role.at);
}

static int check_roles(const struct writer *w)
{
    for (uint32_t i = 0; i < w->n; i++)
        if (!role_is(w, i, "system") && !role_is(w, i, "user") && !role_is(w, i, "assistant") &&
            !role_is(w, i, "tool"))
            return bad_role(w, i, "system, user, assistant or tool");
    return 0;
}

/* ---- ChatML ---- */

static void put_turn(struct writer *w, uint32_t i)
{
    put(w, "<|im_start|>");
    put_slice(w, w->messages[i].role);
    put(w, "\n");
    put_content(w, i, w->messages[i].content);
    put(w, "<|im_end|>\n");
}

static void put_system_prompt(struct writer *w)
{
    if (!w->system_prompt || role_is(w, 0, "system"))
        return;
    put(w, "<|im_start|>system\n");
    put(w, w->system_prompt);
    put(w, "<|im_end|>\n");
}

/* Writes consecutive tool messages as one user turn. */
static void put_tool(struct writer *w, uint32_t i)
{
    if (i == 0 || !role_is(w, i - 1, "tool"))
        put(w, "<|im_start|>user");
    put(w, "\n<tool_response>\n");
    put_content(w, i, w->messages[i].content);
    put(w, "\n</tool_response>");
    if (!role_is(w, i + 1, "tool"))
        put(w, "<|im_end|>\n");
}

static int write_chatml(struct writer *w)
{
    put_system_prompt(w);
    for (uint32_t i = 0; i < w->n; i++)
        put_turn(w, i);
    return 0;
}

static int write_qwen25(struct writer *w)
{
    put_system_prompt(w);
    for (uint32_t i = 0; i < w->n; i++)
        if (role_is(w, i, "tool"))
            put_tool(w, i);
        else
            put_turn(w, i);
    return 0;
}

/* ---- Qwen3: <think> ---- */

static const uint8_t *find(struct slice s, const char *text)
{
    return s.len > 0 ? memmem(s.at, s.len, text, strlen(text)) : NULL;
}

static const uint8_t *find_last(struct slice s, const char *text)
{
    const uint8_t *last = NULL, *at;
    while ((at = find(s, text)) != NULL) {
        last = at;
        s.len -= (size_t)(at + 1 - s.at);
        s.at = at + 1;
    }
    return last;
}

static struct slice between(const uint8_t *begin, const uint8_t *end)
{
    return (struct slice){begin, (size_t)(end - begin)};
}

static struct slice skip_newlines(struct slice s)
{
    while (s.len > 0 && s.at[0] == '\n')
        s = (struct slice){s.at + 1, s.len - 1};
    return s;
}

static struct slice drop_newlines(struct slice s)
{
    while (s.len > 0 && s.at[s.len - 1] == '\n')
        s.len--;
    return s;
}

/* Splits an answer at its last </think>: the thoughts are what precedes the first </think>, from
 * the last <think> in there on; the body follows the last </think>. */
static void split_thoughts(struct slice content, struct slice *thoughts, struct slice *body)
{
    static const char begin[] = "<think>", end[] = "</think>";
    const uint8_t *first = find(content, end);
    *thoughts = (struct slice){content.at, 0};
    *body = content;
    if (!first)
        return;
    *thoughts = drop_newlines(between(content.at, first));
    const uint8_t *open = find_last(*thoughts, begin);
    if (open)
        *thoughts = between(open + strlen(begin), thoughts->at + thoughts->len);
    *thoughts = skip_newlines(*thoughts);
    *body = skip_newlines(between(find_last(content, end) + strlen(end), content.at + content.len));
}

/* If a message has reasoning_content, its content is written whole. */
static void put_answer(struct writer *w, uint32_t i, int after_question)
{
    const struct chat_message *m = &w->messages[i];
    struct slice thoughts = m->reasoning, body = m->content;
    if (!m->reasoning.at)
        split_thoughts(m->content, &thoughts, &body);
    put(w, "<|im_start|>assistant\n");
    if (after_question && (i == w->n - 1 || thoughts.len > 0)) {
        put(w, "<think>\n");
        if (m->reasoning.at)
            put_reasoning(w, drop_newlines(skip_newlines(thoughts)));
        else
            put_content(w, i, drop_newlines(thoughts));
        put(w, "\n</think>\n\n");
        body = skip_newlines(body);
    }
    put_content(w, i, body);
    put(w, "<|im_end|>\n");
}

static int is_tool_response(struct slice s)
{
    static const char begin[] = "<tool_response>", end[] = "</tool_response>";
    return s.len >= strlen(end) && memcmp(s.at, begin, strlen(begin)) == 0 &&
           memcmp(s.at + s.len - strlen(end), end, strlen(end)) == 0;
}

static int write_qwen3(struct writer *w)
{
    uint32_t question = w->n - 1;
    for (uint32_t i = w->n; i-- > 0;)
        if (role_is(w, i, "user") && !is_tool_response(w->messages[i].content)) {
            question = i;
            break;
        }
    for (uint32_t i = 0; i < w->n; i++)
        if (role_is(w, i, "tool"))
            put_tool(w, i);
        else if (role_is(w, i, "assistant"))
            put_answer(w, i, i > question);
        else
            put_turn(w, i);
    return 0;
}

/* ---- Llama 3 ---- */

static struct slice trim(struct slice s)
{
    unsigned bytes;
    while (s.len > 0 && unicode_is_python_space(unicode_decode(s.at, &bytes)))
        s = (struct slice){s.at + bytes, s.len - bytes};
    while (s.len > 0) {
        size_t last = s.len - 1;
        while (last > 0 && s.at[last] >> 6 == 2)
            last--;
        if (!unicode_is_python_space(unicode_decode(s.at + last, &bytes)))
            break;
        s.len = last;
    }
    return s;
}

static void put_llama_turn(struct writer *w, uint32_t i)
{
    put(w, "<|start_header_id|>");
    put_slice(w, w->messages[i].role);
    put(w, "<|end_header_id|>\n\n");
    put_content(w, i, trim(w->messages[i].content));
    put(w, "<|eot_id|>");
}

static int write_llama3(struct writer *w)
{
    put(w, "<|begin_of_text|>");
    for (uint32_t i = 0; i < w->n; i++)
        put_llama_turn(w, i);
    return 0;
}

static int write_llama31(struct writer *w)
{
    uint32_t first = role_is(w, 0, "system");
    for (uint32_t i = 0; i < w->n; i++)
        if (role_is(w, i, "tool"))
            return bad_role(w, i, "system, user or assistant with this chat template");
    put(w, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
           "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
    if (first)
        put_content(w, 0, trim(w->messages[0].content));
    put(w, "<|eot_id|>");
    for (uint32_t i = first; i < w->n; i++)
        put_llama_turn(w, i);
    return 0;
}

static int write_llama3_first(struct writer *w)
{
    write_llama3(w);
    put(w, "<|start_header_id|>assistant<|end_header_id|>\n\n");
    return 0;
}

static int fail_none(struct writer *w)
{
    return err_set(w->e, ASSAY_EBADTEXT, "no chat template is known");
}

/* ---- which is which ---- */

#define READS_BOTH (CHAT_READS_TOOLS | CHAT_READS_TOOL_CALLS)

static const struct {
    const char *name;
    int (*write)(struct writer *w);
    const char *system_prompt; /* written if a conversation has none; NULL: nothing */
    unsigned reads;            /* CHAT_READS_ flags of the published template */
} templates[CHAT_COUNT] = {
    [CHAT_NONE] = {"none", fail_none, NULL, 0},
    [CHAT_JINJA] = {"of the checkpoint", fail_none, NULL, 0},
    [CHAT_CHATML] = {"chatml", write_chatml, NULL, 0},
    [CHAT_QWEN15] = {"qwen1.5", write_chatml, "You are a helpful assistant", 0},
    [CHAT_QWEN2] = {"qwen2", write_chatml, "You are a helpful assistant.", 0},
    [CHAT_QWEN25] = {"qwen2.5", write_qwen25,
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", READS_BOTH},
    [CHAT_QWEN25_BASE] = {"qwen2.5-base", write_qwen25, "You are a helpful assistant.", READS_BOTH},
    [CHAT_QWEN25_MATH] = {"qwen2.5-math", write_qwen25,
        "Please reason step by step, and put your final answer within \\boxed{}.", READS_BOTH},
    [CHAT_QWEN3] = {"qwen3", write_qwen3, NULL, READS_BOTH},
    [CHAT_QWEN3_INSTRUCT_2507] = {"qwen3-instruct-2507", write_qwen25, NULL, READS_BOTH},
    [CHAT_LLAMA3] = {"llama3", write_llama3, NULL, 0},
    [CHAT_LLAMA3_FIRST] = {"llama3-first", write_llama3_first, NULL, 0},
    [CHAT_LLAMA31] = {"llama3.1", write_llama31, NULL, READS_BOTH | CHAT_READS_EMPTY_CALLS},
};

unsigned chat_reads(enum chat_template t)
{
    return templates[t].reads;
}

enum chat_template chat_from_name(const char *name)
{
    for (int t = CHAT_CHATML; t < CHAT_COUNT; t++)
        if (strcmp(templates[t].name, name) == 0)
            return (enum chat_template)t;
    return CHAT_COUNT;
}

const char *chat_name(enum chat_template t)
{
    return templates[t].name;
}

int chat_write(enum chat_template t, const struct chat_message *messages, uint32_t n,
    struct chat_text *out, struct err *e)
{
    struct writer w = {messages, n, templates[t].system_prompt, out, e};
    if (n == 0)
        return err_set(e, ASSAY_EBADTEXT, "expected at least one message, found none");
    int rc = check_roles(&w);
    return rc == 0 ? templates[t].write(&w) : rc;
}
