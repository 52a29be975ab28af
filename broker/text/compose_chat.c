/* compose_chat.c - a conversation's ids: by the writer of a known template or by the template
 * itself (compose.h, chat.h). */
#include <stdio.h>
#include <string.h>

#include "broker/text/compose_private.h"
#include "broker/text/parts.h"
#include "schema/utf8.h"

/* Collects the parts of the template's text that the client wrote. The step tokens in the last
 * message are not the client's. */
static void close_contents(struct composer *c)
{
    c->n_closed = 0;
    for (size_t k = 0; k < c->chat.n_copies; k++) {
        const struct chat_copy *copy = &c->chat.copies[k];
        size_t from = copy->to, n_marks = copy->message == c->turns.n - 1 ? c->n_marks : 0;
        for (size_t i = 0; i < n_marks; i++) {
            const struct span *mark = &c->marks[i];
            if (mark->begin < copy->from || mark->end > copy->from + copy->len)
                continue;
            compose_close(c, from, copy->to + (mark->begin - copy->from));
            from = copy->to + (mark->end - copy->from);
        }
        compose_close(c, from, copy->to + copy->len);
    }
}

static int check_utf8(struct slice s, uint32_t i, const char *name, struct err *e)
{
    size_t valid = utf8_valid(s.at, s.len);
    char field[48];
    if (valid == s.len)
        return 0;
    snprintf(field, sizeof field, "messages[%u].%s", i, name);
    return err_field(
        e, ASSAY_EBADTEXT, field, "byte %zu: expected UTF-8, found 0x%02x", valid, s.at[valid]);
}

static int check_contents(const struct composer *c, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < c->turns.n; i++) {
        const struct chat_message *m = &c->turns.at[i];
        rc = check_utf8(m->content, i, "content", e);
        if (rc == 0 && m->reasoning.at)
            rc = check_utf8(m->reasoning, i, "reasoning_content", e);
        if (rc == 0)
            rc = check_utf8(m->role, i, "role", e);
    }
    return rc;
}

/* Checks the messages whose content is no text. */
static int check_others(const struct composer *c, struct err *e)
{
    char field[48];
    struct err why = {0};
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < c->turns.n; i++) {
        const struct chat_message *m = &c->turns.at[i];
        snprintf(field, sizeof field, "messages[%u].content", i);
        if (m->has_no_content && !m->has_tool_calls)
            rc = err_field(e, ASSAY_EBADTEXT, field, "expected a string, found nil");
        else if (m->parts.at && (rc = parts_check(m->parts, &why)) != 0)
            rc = err_field(e, rc, field, "%s: %s", why.field, why.msg);
    }
    return rc;
}

/* Returns the number of a message whose content is no text, CHAT_NO_MESSAGE: none. */
static uint32_t find_other(const struct composer *c)
{
    uint32_t i = 0;
    while (i < c->turns.n && !c->turns.at[i].parts.at && !c->turns.at[i].has_no_content)
        i++;
    return i < c->turns.n ? i : CHAT_NO_MESSAGE;
}

/* Has the row arguments beside those that no known template reads, where there is no generation
 * prompt (Qwen3's has enable_thinking there), and those that say nothing? */
static int has_other_arguments(const struct row_request *q)
{
    static const char *const unread[] = {"enable_thinking", "thinking", "documents"};
    struct msg_reader r;
    struct slice key;
    uint32_t n = 0;
    int something, others = 0;
    msg_reader_init(&r, q->arguments.at, q->arguments.len);
    if (q->arguments.at)
        msg_read_map(&r, "", &n, NULL);
    for (uint32_t i = 0; i < n && !others; i++) {
        int k = 0, rc = msg_peek(&r) == MSG_STR ? msg_read_str(&r, "", &key, NULL) : -1;
        while (rc == 0 && k < 3 && !slice_is(key, unread[k]))
            k++;
        others = rc != 0 || (k == 3 && !chat_argument_is_default(key, &r)) ||
                 request_skip_value(&r, "", &something, NULL) != 0;
    }
    return others;
}

/* Returns the number of a message whose tool calls the template reads, CHAT_NO_MESSAGE: none. */
static uint32_t find_calls(const struct composer *c)
{
    unsigned reads = chat_reads(c->model->chat.template);
    for (uint32_t i = 0; i < c->turns.n; i++)
        if ((c->turns.at[i].has_tool_calls && (reads & CHAT_READS_TOOL_CALLS)) ||
            (c->turns.at[i].names_tool_calls && (reads & CHAT_READS_EMPTY_CALLS)))
            return i;
    return CHAT_NO_MESSAGE;
}

/* Does the row have what the checkpoint's template writes, and the writer by hand does not: tools,
 * tool calls, content that is no text, arguments, a generation prompt? `field` names it. */
static int leaves_out(const struct composer *c, const struct row_request *q, char field[48])
{
    enum chat_template t = c->model->chat.template;
    uint32_t calls = find_calls(c);
    int others = has_other_arguments(q);
    snprintf(field, 48, "%s",
        q->add_generation_prompt ? "add_generation_prompt"
        : others                 ? "chat_template_kwargs"
                                 : "tools");
    if (calls != CHAT_NO_MESSAGE)
        snprintf(field, 48, "messages[%u].tool_calls", calls);
    if (find_other(c) != CHAT_NO_MESSAGE)
        snprintf(field, 48, "messages[%u].content", find_other(c));
    return calls != CHAT_NO_MESSAGE || (q->has_tools && (chat_reads(t) & CHAT_READS_TOOLS)) ||
           find_other(c) != CHAT_NO_MESSAGE || q->add_generation_prompt || others;
}

static int refuse_tools(const struct composer *c, const char *field, struct err *e)
{
    return err_field(e, ASSAY_EBADTEXT, field,
        "how the chat template %s writes this is up to its own text, and it was given by its name: "
        "give its file to --chat-template, or send the conversation as text",
        chat_name(c->model->chat.template));
}

/* Writes the messages so far with the template's own text. */
static int interpret(
    struct composer *c, const struct chat_talk *talk, const char *field, struct err *e)
{
    const struct chat *chat = &c->model->chat;
    int has_parts = 0, rc = chat->jinja ? 0 : refuse_tools(c, field, e);
    for (uint32_t i = 0; i < talk->n; i++)
        has_parts |= talk->messages[i].parts.at != NULL;
    if (rc == 0 && has_parts)
        rc = parts_are_read(chat, c->run, talk, e);
    return rc == 0 ? chat_interpret(chat, c->run, talk, &c->chat, e) : rc;
}

/* Writes them by hand, or where that has no words for them (a role, say) with the template's own
 * text. */
static int write_talk(
    struct composer *c, const struct chat_talk *talk, const char *field, struct err *e)
{
    const struct chat *chat = &c->model->chat;
    int rc = chat_write(chat->template, talk->messages, talk->n, &c->chat, e);
    if (rc == 0 || !chat->jinja)
        return rc;
    chat_text_clear(&c->chat);
    *e = (struct err){0};
    return interpret(c, talk, field, e);
}

static int is_assistant(const struct chat_message *m)
{
    return slice_is(m->role, "assistant");
}

/* Does a known template certainly write the prompt with a generation prompt as the whole begins? */
static int begins_as_known(const struct chat *chat, const struct chat_talk *talk, uint32_t n_prompt)
{
    return chat->template != CHAT_JINJA && is_assistant(&talk->messages[n_prompt]) &&
           !is_assistant(&talk->messages[n_prompt - 1]);
}

/* Of a recipe that writes the prompt by itself: where the whole conversation does not begin with
 * that, the publisher's text is another. */
static int check_prompt(
    struct composer *c, const struct chat_talk *whole, const char *field, struct err *e)
{
    const struct chat *chat = &c->model->chat;
    struct chat_talk talk = *whole;
    const struct buffer *all = &c->chat.text, *first = &c->prompt.text;
    talk.n -= c->turns.n_answer;
    talk.add_generation_prompt = 1;
    if (c->turns.n_answer == 0 || begins_as_known(chat, whole, talk.n))
        return 0;
    chat_text_clear(&c->prompt);
    int rc = chat->jinja ? chat_interpret(chat, c->run, &talk, &c->prompt, e)
                         : refuse_tools(c, field, e);
    if (rc == 0 && (first->len > all->len || memcmp(first->at, all->at, first->len) != 0))
        rc = err_field(e, ASSAY_EBADTEXT, field,
            "the recipe %s writes the prompt by itself, with a generation prompt; expected a chat "
            "template that begins the whole conversation so, found another: send messages with the "
            "prompt in them where it was trained on whole conversations",
            c->model->recipe->name);
    return rc;
}

/* transformers takes the template named tool_use for a conversation with tools, an empty list of
 * them too. */
static int check_tools(const struct composer *c, const struct row_request *q, struct err *e)
{
    struct msg_reader r;
    msg_reader_init(&r, q->tools.at, q->tools.len);
    if (!c->model->chat.has_tool_use || !q->tools.at || msg_peek(&r) != MSG_ARRAY)
        return 0;
    return err_field(e, ASSAY_EBADTEXT, "tools",
        "the checkpoint has another template for rows with tools, tool_use; expected it as a "
        "file (--chat-template FILE)");
}

int compose_chat(struct composer *c, const struct row_request *q, unsigned tail, const char *field,
    struct err *e)
{
    const struct chat *chat = &c->model->chat;
    if (chat->template == CHAT_NONE)
        return err_field(e, ASSAY_EBADTEXT, field, "%s", chat->reason);
    chat_text_clear(&c->chat);
    char more[48];
    int interpreted = chat->template == CHAT_JINJA || leaves_out(c, q, more);
    int rc = check_contents(c, e);
    if (rc == 0)
        rc = check_others(c, e);
    if (rc == 0)
        rc = check_tools(c, q, e);
    struct chat_talk talk = {c->turns.at, c->turns.n, q->has_tools ? q->tools : (struct slice){0},
        q->arguments, q->add_generation_prompt};
    if (rc == 0)
        rc = interpreted ? interpret(c, &talk, more, e) : write_talk(c, &talk, field, e);
    if (rc == 0 && c->model->recipe && c->model->recipe->prompt_first)
        rc = check_prompt(c, &talk, field, e);
    if (rc == 0)
        rc = tail_apply(tail, &c->chat, chat->tokens, e);
    if (rc != 0)
        return compose_bad_text(field, e);
    close_contents(c);
    struct slice text = {c->chat.text.at, c->chat.text.len};
    rc = encoder_text(c->encoder, text, c->closed, q->safe_text ? c->n_closed : 0, e);
    return rc == 0 ? 0 : compose_bad_text(field, e);
}
