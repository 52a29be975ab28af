/* chat_jinja.c - writes a conversation with a template that is interpreted (chat.h). What the
 * template sees is what transformers' apply_chat_template gives it: the messages as they came, with
 * reasoning under both of its names; tools, documents and add_generation_prompt; the tokenizer's
 * special tokens; the row's own arguments. */
#include "broker/text/chat.h"

#include <stdio.h>
#include <string.h>

#include "broker/text/jinja.h"
#include "schema/request.h"

static int in_message(uint32_t i, struct err *e)
{
    char field[40];
    struct err why = *e;
    snprintf(field, sizeof field, "messages[%u]", i);
    return err_field(e, ASSAY_EBADTEXT, field, "%s", why.msg);
}

/* transformers fills reasoning_content from older names for it, and `thinking` from that. */
static void name_reasoning(struct jinja_run *run, struct jinja_value *map)
{
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    const struct jinja_value *found = NULL;
    for (int i = 0; !found && i < 3; i++)
        found = jinja_get(map, names[i]);
    if (!found)
        return;
    jinja_put_same(run, map, "reasoning_content", found);
    jinja_put_first(run, map, "thinking", jinja_get(map, "reasoning_content"));
}

static int add_message(struct jinja_run *run, struct jinja_value *list,
    const struct chat_message *m, uint32_t i, struct err *e)
{
    struct jinja_value *map;
    if (!m->raw.at) {
        map = jinja_add_map(run, list, 2);
        jinja_put_text(run, map, "role", m->role, JINJA_NO_SOURCE);
        jinja_put_text(run, map, "content", m->content, i);
        return 0;
    }
    map = jinja_add_msgpack(run, list, m->raw, 2, e);
    if (!map)
        return in_message(i, e);
    if (m->content.at)
        jinja_put_text(run, map, "content", m->content, i); /* the text, now with its number */
    name_reasoning(run, map);
    return 0;
}

/* transformers takes a list of maps alone for tools and documents. */
static int check_maps(struct jinja_run *run, const char *name, struct err *e)
{
    return jinja_is_maps(run, name)
               ? 0
               : err_field(e, ASSAY_EBADTEXT, name, "expected an array of maps, found another");
}

static int set_tools(struct jinja_run *run, const struct chat_talk *talk, struct err *e)
{
    struct err why = {0};
    if (!talk->tools.at)
        return 0;
    int rc = jinja_set_msgpack(run, "tools", talk->tools, &why);
    return rc == 0 ? check_maps(run, "tools", e)
                   : err_field(e, ASSAY_EBADTEXT, "tools", "%s", why.msg);
}

int chat_argument_is_default(struct slice name, const struct msg_reader *value)
{
    static const char *const names[] = {
        "add_generation_prompt", "continue_final_message", "tools", "chat_template"};
    struct msg_reader r = *value;
    int k = 0, is_true = 0;
    while (k < 4 && !slice_is(name, names[k]))
        k++;
    if (k == 4 || msg_peek(&r) == MSG_NIL)
        return k < 4;
    return k < 2 && msg_read_bool(&r, "", &is_true, NULL) == 0 && !is_true;
}

/* Reads one of the row's arguments as a variable of the template. */
static int set_argument(struct jinja_run *run, struct msg_reader *r, struct err *e)
{
    static const char *const own[] = {
        "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"};
    char name[64];
    struct slice key;
    int something, rc = msg_read_str(r, "", &key, e);
    if (rc == 0 && chat_argument_is_default(key, r))
        return request_skip_value(r, "", &something, e);
    snprintf(name, sizeof name, "%.*s", (int)(key.len < 60 ? key.len : 60), (const char *)key.at);
    for (int k = 0; rc == 0 && k < 5; k++)
        if (strcmp(name, own[k]) == 0)
            rc = err_set(e, ASSAY_EBADTEXT,
                k == 1 || k == 2 ? "expected %s beside it, as a field of the row"
                                 : "rows are written without the argument %s",
                name);
    return rc == 0 ? jinja_read_variable(run, name, r, e) : rc;
}

/* The row's chat_template_kwargs, but for what the row says otherwise. */
static int set_arguments(struct jinja_run *run, const struct chat_talk *talk, struct err *e)
{
    struct err why = {0};
    struct msg_reader r;
    uint32_t n = 0;
    if (!talk->arguments.at)
        return 0;
    msg_reader_init(&r, talk->arguments.at, talk->arguments.len);
    int rc = msg_read_map(&r, "", &n, &why);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        rc = set_argument(run, &r, &why);
    return rc == 0 ? check_maps(run, "documents", e)
                   : err_field(e, ASSAY_EBADTEXT, "chat_template_kwargs", "%s", why.msg);
}

static void set_tokens(struct jinja_run *run, const json_t *tokens)
{
    const char *name;
    json_t *text;
    json_object_foreach((json_t *)tokens, name, text)
    {
        struct slice s = {(const uint8_t *)json_string_value(text), json_string_length(text)};
        jinja_set_text(run, name, s);
    }
}

static void take_text(struct chat_text *out, const struct jinja_text *text)
{
    size_t at = out->text.len;
    buffer_append(&out->text, text->at, text->len);
    for (size_t i = 0; i < text->n_marks; i++) {
        const struct jinja_mark *m = &text->marks[i];
        out->copies = list_grow(out->copies, out->n_copies, &out->copies_room, sizeof *out->copies);
        out->copies[out->n_copies++] = (struct chat_copy){m->source, m->from, m->len, at + m->at};
    }
}

int chat_interpret(const struct chat *c, struct jinja_run *run, const struct chat_talk *talk,
    struct chat_text *out, struct err *e)
{
    struct jinja_text text;
    int rc = c->date[0] ? jinja_set_date(run, c->date, e) : 0;
    if (talk->n == 0)
        return err_set(e, ASSAY_EBADTEXT, "expected at least one message, found none");
    jinja_begin(run, c->jinja);
    struct jinja_value *list = jinja_set_list(run, "messages", talk->n);
    jinja_set_none(run, "tools");
    jinja_set_none(run, "documents");
    jinja_set_bool(run, "add_generation_prompt", talk->add_generation_prompt);
    set_tokens(run, c->tokens);
    for (uint32_t i = 0; rc == 0 && i < talk->n; i++)
        rc = add_message(run, list, &talk->messages[i], i, e);
    if (rc == 0)
        rc = set_tools(run, talk, e);
    if (rc == 0)
        rc = set_arguments(run, talk, e);
    if (rc == 0)
        rc = jinja_write(run, &text, e);
    if (rc == 0)
        take_text(out, &text);
    return rc;
}
