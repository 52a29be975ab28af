/* turns.c - gathers a row's messages, and finds out whether they hold its prompt (turns.h). */
#include "broker/text/turns.h"

#include <stdlib.h>
#include <string.h>

#include "broker/text/parts.h"

void turns_clear(struct turns *t)
{
    t->n = t->n_answer = 0;
    while (t->n_joined > 0)
        buffer_release(&t->joined[--t->n_joined]);
}

void turns_release(struct turns *t)
{
    turns_clear(t);
    free(t->joined);
    free(t->at);
    *t = (struct turns){0};
}

static void add_message(struct turns *t, struct chat_message message)
{
    t->at = list_grow(t->at, t->n, &t->room, sizeof *t->at);
    t->at[t->n++] = message;
}

struct slice turns_text(struct slice raw)
{
    struct slice text = {0};
    struct msg_reader r;
    msg_reader_init(&r, raw.at, raw.len);
    msg_read_text(&r, "", &text, NULL);
    return text;
}

/* Puts one text in place of the message's parts. Parts that are no texts stay, and are refused. */
static void join_parts(struct turns *t, struct chat_message *m)
{
    struct buffer text = {0};
    if (!m->parts.at || !t->joins_parts || parts_check(m->parts, NULL) != 0)
        return;
    parts_join(m->parts, &text);
    t->joined = list_grow(t->joined, t->n_joined, &t->joined_room, sizeof *t->joined);
    t->joined[t->n_joined++] = text;
    m->content = (struct slice){text.at, text.len};
    m->parts = (struct slice){0};
}

static void add_messages(struct turns *t, struct slice raw)
{
    struct msg_reader r;
    struct row_message m;
    uint32_t n = 0;
    msg_reader_init(&r, raw.at, raw.len);
    msg_read_array(&r, "", &n, NULL);
    for (uint32_t i = 0; i < n && request_read_message(&r, &m, NULL) == 0; i++) {
        add_message(t, (struct chat_message){m.role, m.content, m.reasoning, m.has_tool_calls,
                           m.names_tool_calls, m.raw, m.parts, m.has_no_content});
        join_parts(t, &t->at[t->n - 1]);
    }
}

void turns_add_text(struct turns *t, const char *role, struct slice text)
{
    add_message(t, (struct chat_message){.role = slice_of(role), .content = text});
}

void turns_add(struct turns *t, struct slice raw, const char *role)
{
    if (request_is_messages(raw))
        add_messages(t, raw);
    else
        turns_add_text(t, role, turns_text(raw));
}

static int is_same_content(const struct chat_message *a, const struct chat_message *b)
{
    return slice_is_same(a->content, b->content) && slice_is_same(a->parts, b->parts) &&
           a->has_no_content == b->has_no_content;
}

static int is_role(const struct chat_message *m, const char *role)
{
    return slice_is_same(m->role, slice_of(role));
}

/* Does the body (what follows the n_prompt messages of the prompt) begin with the prompt and go on?
 * The body may have a system message in front that the prompt lacks. A prompt that is a text may be
 * any user turn of the body. */
static int holds_prompt(const struct turns *t, uint32_t n_prompt, int is_text)
{
    const struct chat_message *prompt = t->at, *body = t->at + n_prompt;
    uint32_t n = t->n - n_prompt, from = 0, i = 0;
    if (is_text) {
        int whole = is_role(&body[0], "system") || is_role(&body[0], "user");
        while (
            whole && i + 1 < n && !(is_role(&body[i], "user") && is_same_content(&body[i], prompt)))
            i++;
        return whole && i + 1 < n;
    }
    if (n > 0 && n_prompt > 0 && is_role(&body[0], "system") && !is_role(&prompt[0], "system"))
        from = 1;
    if (n <= from + n_prompt)
        return 0;
    while (i < n_prompt && slice_is_same(prompt[i].role, body[from + i].role) &&
           is_same_content(&prompt[i], &body[from + i]) &&
           slice_is_same(prompt[i].reasoning, body[from + i].reasoning))
        i++;
    return i == n_prompt;
}

/* Drops the prompt if the messages contain it, and keeps it if they clearly follow it. If neither
 * is clear, the row is an error. */
static int join_prompt(
    struct turns *t, uint32_t n_prompt, int is_text, const char *field, struct err *e)
{
    const struct chat_message *first = t->at + n_prompt;
    if (n_prompt == 0 || n_prompt == t->n)
        return 0;
    if (holds_prompt(t, n_prompt, is_text)) {
        t->n -= n_prompt;
        t->n_answer = 0;
        memmove(t->at, first, t->n * sizeof *first);
        return 0;
    }
    if (!is_role(first, "system") && !(is_role(first, "user") && is_role(first - 1, "user")))
        return 0;
    return err_field(e, ASSAY_EBADTEXT, field,
        "expected the whole conversation, with the prompt in it, or what follows the prompt; found "
        "a %.*s message first and the prompt nowhere: leave out the prompt, or what does not "
        "follow it",
        (int)first->role.len, (const char *)first->role.at);
}

int turns_put_system(struct turns *t, const struct row_request *q, struct err *e)
{
    struct slice text = {0};
    if (q->system.at)
        text = turns_text(q->system);
    if (text.len == 0)
        return 0;
    if (t->n > 0 && is_role(&t->at[0], "system"))
        return t->at[0].content.at && slice_is_same(t->at[0].content, text)
                   ? 0
                   : err_field(e, ASSAY_EBADTEXT, "system",
                         "expected one system message, found another one in the conversation");
    add_message(t, (struct chat_message){0});
    memmove(t->at + 1, t->at, (t->n - 1) * sizeof *t->at);
    t->at[0] = (struct chat_message){.role = slice_of("system"), .content = text};
    return 0;
}

int turns_of_answer(struct turns *t, const struct row_request *q, struct slice raw,
    const char *field, struct err *e)
{
    uint32_t n_prompt;
    int rc = 0;
    turns_clear(t);
    if (q->prompt.at)
        turns_add(t, q->prompt, "user");
    n_prompt = t->n;
    turns_add(t, raw, "assistant");
    if (t->n == n_prompt)
        return err_field(e, ASSAY_EBADTEXT, field, "expected at least one message, found none");
    t->n_answer = n_prompt > 0 ? t->n - n_prompt : 0;
    if (request_is_messages(raw))
        rc = join_prompt(t, n_prompt, q->prompt.at && !request_is_messages(q->prompt), field, e);
    return rc == 0 ? turns_put_system(t, q, e) : rc;
}
