/* held.c - looks for a column's texts in the two sides of a row (held.h). */
#include "broker/cli/input/held.h"

#include <ctype.h>
#include <string.h>

struct text {
    const char *at;
    size_t len;
};

/* A text to be found, and where. */
struct search {
    struct text text;
    enum held_where where;
};

static struct text text_of(const json_t *string)
{
    return (struct text){json_string_value(string), json_string_length(string)};
}

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static struct text trimmed(struct text t)
{
    while (t.len > 0 && is_space(t.at[t.len - 1]))
        t.len--;
    for (; t.len > 0 && is_space(*t.at); t.at++)
        t.len--;
    return t;
}

/* The speaker of a message, and the kind of a part, are not its text. */
static int is_label(const char *key)
{
    return strcmp(key, "role") == 0 || strcmp(key, "from") == 0 || strcmp(key, "type") == 0;
}

/* ---- one text in another ---- */

static int in_one_word(char a, char b)
{
    return isalnum((unsigned char)a) && isalnum((unsigned char)b);
}

/* Is t.at[at .. at + len) made of whole words? */
static int is_whole(struct text t, size_t at, size_t len)
{
    size_t end = at + len;
    return !(at > 0 && in_one_word(t.at[at - 1], t.at[at])) &&
           !(end < t.len && in_one_word(t.at[end - 1], t.at[end]));
}

/* Does a part begin there, as templates and data sets mark it? */
static int begins_part(struct text t, size_t at, int may_begin_text)
{
    while (at > 0 && (t.at[at - 1] == ' ' || t.at[at - 1] == '\t'))
        at--;
    return at == 0 ? may_begin_text : strchr("\r\n>]:|", t.at[at - 1]) != NULL;
}

enum place { WHOLE_WORDS, PART, PART_WITHIN };

static int is_there(struct text t, struct text part, enum place place)
{
    const char *found;
    for (size_t at = 0; at < t.len; at++) {
        found = memmem(t.at + at, t.len - at, part.at, part.len);
        if (!found)
            return 0;
        at = (size_t)(found - t.at);
        if (is_whole(t, at, part.len) &&
            (place == WHOLE_WORDS || begins_part(t, at, place == PART)))
            return 1;
    }
    return 0;
}

/* ---- one text in a row ---- */

static int in_prompt(const struct search *s, const json_t *v)
{
    const char *key;
    json_t *item;
    size_t k;
    if (json_is_string(v))
        return is_there(text_of(v), s->text, WHOLE_WORDS);
    json_array_foreach((json_t *)v, k, item)
    {
        if (in_prompt(s, item))
            return 1;
    }
    json_object_foreach((json_t *)v, key, item)
    {
        if (!is_label(key) && in_prompt(s, item))
            return 1;
    }
    return 0;
}

static int in_answer(const struct search *s, const json_t *v)
{
    const char *key;
    json_t *item;
    if (json_is_string(v)) {
        struct text t = trimmed(text_of(v));
        if (s->where == HELD_ANYWHERE)
            return memmem(t.at, t.len, s->text.at, s->text.len) != NULL;
        return s->where == HELD_TALK && t.len == s->text.len &&
               memcmp(t.at, s->text.at, t.len) == 0;
    }
    json_object_foreach((json_t *)v, key, item)
    {
        if (!is_label(key) && in_answer(s, item))
            return 1;
    }
    size_t n = json_array_size(v);
    for (size_t k = 0; k < n; k++)
        if (in_answer(s, json_array_get(v, k)))
            return 1;
    return 0;
}

static int is_message(const json_t *v)
{
    return json_object_get(v, "role") != NULL;
}

static int is_users(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const char *from = json_string_value(json_object_get(message, "from"));
    return (role && strcmp(role, "user") == 0) || (from && strcmp(from, "human") == 0);
}

/* An answer, a list of them, or the messages that end in one. */
static int in_answers(const struct search *s, const json_t *v)
{
    size_t n = json_array_size(v);
    if (n == 0 || !is_message(json_array_get(v, 0))) {
        int found = n == 0 && in_answer(s, v);
        for (size_t k = 0; !found && k < n; k++)
            found = in_answers(s, json_array_get(v, k));
        return found;
    }
    const json_t *last = json_array_get(v, n - 1);
    for (size_t k = 0; k + 1 < n; k++)
        if (in_prompt(s, json_array_get(v, k)))
            return 1;
    return is_users(last) ? in_prompt(s, last) : in_answer(s, last);
}

/* chosen and rejected are texts with the prompt in them: does their common beginning hold it? */
static int in_common(const struct search *s, const json_t *row)
{
    struct text a = text_of(json_object_get(row, "chosen"));
    struct text b = text_of(json_object_get(row, "rejected"));
    size_t n = 0;
    while (n < a.len && n < b.len && a.at[n] == b.at[n])
        n++;
    return is_there((struct text){a.at, n}, s->text, PART_WITHIN);
}

static int has_prompt(const json_t *row)
{
    return json_object_get(row, "prompt") || json_object_get(row, "question") ||
           json_object_get(row, "problem");
}

static int is_answer_key(const char *key)
{
    static const char *const keys[] = {
        "chosen", "rejected", "steps", "responses", "response", "completion", "messages"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (strcmp(keys[i], key) == 0)
            return 1;
    return 0;
}

static int in_row(const struct search *s, const json_t *row)
{
    int is_pair = !has_prompt(row) && json_is_string(json_object_get(row, "chosen")) &&
                  json_is_string(json_object_get(row, "rejected"));
    const char *key;
    json_t *v;
    if (is_pair && in_common(s, row))
        return 1;
    json_object_foreach((json_t *)row, key, v)
    {
        int found = is_answer_key(key) ? in_answers(s, v)
                    : strcmp(key, "text") == 0
                        ? json_is_string(v) && is_there(text_of(v), s->text, PART)
                        : in_prompt(s, v);
        if (found)
            return 1;
    }
    return 0;
}

enum held_where held_where_in(const json_t *talk, size_t k, enum held_where where)
{
    int is_answer = k + 1 == json_array_size(talk) && !is_users(json_array_get(talk, k));
    return where == HELD_TALK && !is_answer ? HELD_PROMPT : where;
}

int held_in_row(const json_t *row, const json_t *v, enum held_where where)
{
    const char *key;
    json_t *item;
    size_t k;
    if (json_is_string(v)) {
        struct search s = {trimmed(text_of(v)), where};
        return s.text.len == 0 || in_row(&s, row);
    }
    json_array_foreach((json_t *)v, k, item)
    {
        if (!held_in_row(row, item, held_where_in(v, k, where)))
            return 0;
    }
    json_object_foreach((json_t *)v, key, item)
    {
        if (!is_label(key) && !held_in_row(row, item, where))
            return 0;
    }
    return 1;
}
