/* side_tokens.c - adds tokens to the list, and finds them by their text (side_tokens.h). */
#include "broker/text/side_tokens.h"

#include <string.h>

static const char *const flags[] = {"lstrip", "rstrip", "single_word", "normalized", "special"};
#define N_FLAGS (sizeof flags / sizeof flags[0])

void side_tokens_init(struct side_tokens *t, const json_t *vocab)
{
    *t = (struct side_tokens){vocab, json_array(), json_object(), -1, 0};
}

void side_tokens_release(struct side_tokens *t)
{
    json_decref(t->list);
    json_decref(t->by_content);
}

const char *side_content(const json_t *token)
{
    return json_string_value(json_object_get(token, "content"));
}

int side_flag(const json_t *token, const char *name)
{
    const json_t *v = json_object_get(token, name);
    if (strcmp(name, "normalized") == 0 && !json_is_boolean(v))
        return !json_is_true(json_object_get(token, "special"));
    return json_is_true(v);
}

int side_same(const json_t *a, const json_t *b)
{
    for (size_t i = 0; i < N_FLAGS; i++)
        if (side_flag(a, flags[i]) != side_flag(b, flags[i]))
            return 0;
    return 1;
}

json_t *side_tokens_find(const struct side_tokens *t, const char *content)
{
    return json_object_get(t->by_content, content);
}

/* The next id is the vocabulary's size even if the vocabulary has holes, as in the reference. */
void side_tokens_begin(struct side_tokens *t)
{
    json_int_t size = (json_int_t)json_object_size(t->vocab);
    t->next = t->highest >= size ? t->highest + 1 : size;
}

void side_tokens_add(struct side_tokens *t, const json_t *token)
{
    const char *content = side_content(token);
    if (!content || !*content)
        return;
    json_t *own = side_tokens_find(t, content);
    if (!own) {
        const json_t *known = json_object_get(t->vocab, content);
        json_int_t id = json_is_integer(known) ? json_integer_value(known) : t->next++;
        own = json_pack("{s:I, s:s}", "id", id, "content", content);
        json_array_append_new(t->list, own);
        json_object_set(t->by_content, content, own);
        t->highest = id > t->highest ? id : t->highest;
    }
    for (size_t i = 0; i < N_FLAGS; i++)
        json_object_set_new(own, flags[i], json_boolean(side_flag(token, flags[i])));
}
