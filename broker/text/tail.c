/* tail.c - see tail.h. */
#include "broker/text/tail.h"

#include <string.h>

static const char *const names[] = {"none", "strip", NULL, "strip,eos"};

int tail_from_name(const char *name)
{
    for (int i = 0; i < 4; i++)
        if (names[i] && strcmp(names[i], name) == 0)
            return i;
    return -1;
}

const char *tail_name(unsigned tail)
{
    return names[tail];
}

/* Takes newlines away. A message's content may end with some of them. */
static void strip(struct chat_text *text)
{
    struct buffer *b = &text->text;
    while (b->len > 0 && b->at[b->len - 1] == '\n')
        b->len--;
    for (size_t k = 0; k < text->n_copies; k++) {
        struct chat_copy *copy = &text->copies[k];
        if (copy->to > b->len)
            copy->to = b->len;
        if (copy->len > b->len - copy->to)
            copy->len = b->len - copy->to;
    }
}

int tail_apply(unsigned tail, struct chat_text *text, const json_t *tokens, struct err *e)
{
    const char *eos = json_string_value(json_object_get(tokens, "eos_token"));
    const struct buffer *b = &text->text;
    if (tail & TAIL_STRIP)
        strip(text);
    if (!(tail & TAIL_EOS))
        return 0;
    if (!eos || !*eos)
        return err_field(e, ASSAY_EBADTEXT, "",
            "expected an eos_token in tokenizer_config.json, which ends a text here, found none");
    size_t n = strlen(eos);
    if (b->len >= n && memcmp(b->at + b->len - n, eos, n) == 0)
        return 0;
    buffer_text(&text->text, " ");
    buffer_text(&text->text, eos);
    return 0;
}
