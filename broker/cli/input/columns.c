/* columns.c - takes a line's columns one after the other, and names the first that it may not
 * pass over (columns.h). */
#include "broker/cli/input/columns.h"

#include <stdio.h>
#include <string.h>

#include "broker/cli/input/column_options.h"
#include "broker/cli/input/held.h"

/* The keys that say what is scored, each with its partner. The first key that a line has counts. */
static const char *const bodies[][2] = {
    {"chosen", "rejected"},
    {"rejected", "chosen"},
    {"steps"},
    {"responses"},
    {"response"},
    {"completion"},
    {"messages"},
    {"text"},
};
#define N_BODIES (sizeof bodies / sizeof bodies[0])

/* What a query is scored with; only where there is none of the above. */
static const char *const documents[] = {"document", "documents", NULL};

static const char *const prompts[] = {"prompt", "question", "problem", NULL};
/* Names that some data sets have for the prompt; they are read as hints. */
static const char *const other_prompts[] = {"query", "instruction", "input", NULL};
static const char *const systems[] = {"system", "system_prompt", NULL};
/* Texts, or lists of texts, that people may mean to be part of the row. */
static const char *const hints[] = {"instruction", "input", "context", "contexts", "document",
    "documents", "text_pair", "history", "chat_history", "previous_messages", "system_message",
    "conversation", "conversations", "thinking", "reasoning_content", NULL};

int columns_is_id(const char *key, size_t len)
{
    if (len == 2 && memcmp(key, "id", 2) == 0)
        return COLUMNS_ID;
    return len == 9 && memcmp(key, "custom_id", 9) == 0 ? COLUMNS_CUSTOM_ID : 0;
}

int columns_is_read(const char *key, size_t len)
{
    static const char *const others[] = {
        "input_ids", "ids", "attention_mask", "position_ids", "completions", "labels", NULL};
    for (size_t i = 0; i < N_BODIES; i++)
        if (strlen(bodies[i][0]) == len && memcmp(bodies[i][0], key, len) == 0)
            return 1;
    return columns_is_id(key, len) || column_is_one_of(documents, key, len) ||
           column_is_one_of(others, key, len) || column_is_one_of(prompts, key, len) ||
           column_is_one_of(other_prompts, key, len) || column_is_one_of(systems, key, len) ||
           column_is_one_of(hints, key, len) || column_options_has(key, len);
}

/* ---- columns that are part of what is scored ---- */

static int not_held(const char *key, struct err *e)
{
    return err_field(e, ASSAY_EBADREQ, key,
        "expected nothing that is not in what is scored, in front of the answers; write it into "
        "the prompt, or leave it out");
}

/* Where the text of such a column must stand. */
static enum held_where place_of(const char *key)
{
    static const char *const thoughts[] = {"thinking", "reasoning_content", NULL};
    static const char *const talks[] = {"conversation", "conversations", "messages", "text", NULL};
    return column_is_one_of(thoughts, key, strlen(key)) ? HELD_ANYWHERE
           : column_is_one_of(talks, key, strlen(key))  ? HELD_TALK
                                                        : HELD_PROMPT;
}

static int check_held(const json_t *row, const json_t *line, const char *key, struct err *e)
{
    const json_t *v = column_find(line, key);
    return !v || v == json_object_get(row, key) || held_in_row(row, v, place_of(key))
               ? 0
               : not_held(key, e);
}

/* ---- what is scored ---- */

static void put(json_t *row, const char *key, const json_t *v)
{
    json_object_set(row, key, (json_t *)v);
}

/* Returns the first of several names that the line has. */
static const char *first_of(const json_t *line, const char *const *keys)
{
    while (*keys && !column_find(line, *keys))
        keys++;
    return *keys;
}

/* Tokenizers write what a model's forward takes beside the ids. Every id is scored at its place, so
 * anything but a mask of ones and positions 0, 1, 2 .. is an error. */
static int check_beside_ids(const json_t *line, const char *key, int is_range, struct err *e)
{
    const json_t *v = column_find(line, key), *item;
    const json_t *ids =
        column_find(line, "input_ids") ? column_find(line, "input_ids") : column_find(line, "ids");
    size_t i = 0;
    if (!v)
        return 0;
    int fits = json_is_array(v) && json_array_size(v) == json_array_size(ids);
    for (; fits && i < json_array_size(v); i++) {
        item = json_array_get(v, i);
        fits = json_is_integer(item) && json_integer_value(item) == (is_range ? (json_int_t)i : 1);
    }
    return fits ? 0
                : err_field(e, ASSAY_EBADREQ, key,
                      "expected %s for each of input_ids, found another; leave ids that are not to "
                      "be scored (padding) out, and this column too",
                      is_range ? "0, 1, 2 .." : "1");
}

static int take_ids(json_t *row, const json_t *line, struct err *e)
{
    int rc = check_beside_ids(line, "attention_mask", 0, e);
    if (rc == 0)
        rc = check_beside_ids(line, "position_ids", 1, e);
    if (rc != 0)
        return rc;
    const json_t *a = column_find(line, "input_ids"), *b = column_find(line, "ids");
    if (a && b && !json_equal(a, b))
        return err_field(e, ASSAY_EBADREQ, "ids", "expected one of input_ids and ids, found both");
    put(row, "input_ids", a ? a : b);
    return 0;
}

/* Lists are messages, except under names for several answers or steps. */
static int check_list(const char *key, const json_t *v, struct err *e)
{
    const json_t *item;
    size_t k;
    json_array_foreach((json_t *)v, k, item)
    {
        if (json_is_string(item))
            return err_field(e, ASSAY_EBADREQ, key,
                "expected a text, or messages, found a list of texts; several answers to one "
                "prompt "
                "are read under the name responses, and one text without the brackets");
    }
    return 0;
}

static int check_lists(const json_t *row, struct err *e)
{
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)row, key, v)
    {
        if (strcmp(key, "steps") != 0 && strcmp(key, "responses") != 0 &&
            strcmp(key, "documents") != 0 && check_list(key, v, e) != 0)
            return e->code;
    }
    return 0;
}

/* TRL has steps as `completions`, with a label for each: true or false. Others use that name for
 * answers. */
static const json_t *labelled_steps(const json_t *line)
{
    const json_t *steps = column_find(line, "completions"), *labels = column_find(line, "labels");
    size_t n = json_array_size(steps), k = 0;
    while (k < n && json_is_string(json_array_get(steps, k)) &&
           json_is_boolean(json_array_get(labels, k)))
        k++;
    return n > 0 && k == n && json_array_size(labels) == n ? steps : NULL;
}

/* Nothing is guessed. */
static int has_no_body(const json_t *line, struct err *e)
{
    if (column_find(line, "completions"))
        return err_field(e, ASSAY_EBADREQ, "completions",
            "expected the name steps, for the steps of one solution, or responses, for several "
            "answers; this one is used for both, and taken for steps where `labels` has true or "
            "false for each");
    int answer = column_find(line, "answer") || column_find(line, "output");
    int prompt = !first_of(line, prompts) && first_of(line, other_prompts);
    int talk = column_find(line, "conversation") || column_find(line, "conversations");
    return err_set(e, ASSAY_EBADREQ,
        "expected input_ids, chosen and rejected, prompt and steps, prompt and responses, "
        "prompt and response (or completion), messages, text, or query and document (or "
        "documents); found none of them%s%s%s",
        answer ? "; an answer is read under the name response" : "",
        prompt ? "; a prompt is read under the name prompt, question or problem" : "",
        talk ? "; a conversation is read under the name messages, with role and content" : "");
}

static int is_query(const json_t *row)
{
    return json_object_get(row, "query") != NULL;
}

static int take_query(json_t *row, const json_t *line, struct err *e)
{
    const char *key = first_of(line, documents);
    if (column_find(line, "document") && column_find(line, "documents"))
        return err_field(
            e, ASSAY_EBADREQ, "documents", "expected one of document and documents, found both");
    put(row, "query", column_find(line, "query"));
    put(row, key, column_find(line, key));
    if (column_find(line, "instruction"))
        put(row, "instruction", column_find(line, "instruction"));
    return 0;
}

static int take_body(json_t *row, const json_t *line, struct err *e)
{
    size_t i = 0;
    while (i < N_BODIES && !column_find(line, bodies[i][0]))
        i++;
    if (i == N_BODIES && labelled_steps(line)) {
        put(row, "steps", labelled_steps(line));
        return 0;
    }
    if (i == N_BODIES)
        return column_find(line, "query") && first_of(line, documents) ? take_query(row, line, e)
                                                                       : has_no_body(line, e);
    for (int k = 0; k < 2 && bodies[i][k]; k++)
        if (column_find(line, bodies[i][k]))
            put(row, bodies[i][k], column_find(line, bodies[i][k]));
    const json_t *other = json_object_get(row, "response") ? column_find(line, "completion") : NULL;
    if (other && !json_equal(other, json_object_get(row, "response")))
        return err_field(e, ASSAY_EBADREQ, "completion",
            "expected one of response and completion, found two that differ");
    return 0;
}

/* Are the texts scored as they are, without a chat template? */
static int is_plain(const json_t *row)
{
    return json_object_get(row, "text") || is_query(row) ||
           (!first_of(row, prompts) && json_is_string(json_object_get(row, "chosen")) &&
               json_is_string(json_object_get(row, "rejected")));
}

static int take_prompt(json_t *row, const json_t *line, struct err *e)
{
    const char *key = first_of(line, prompts);
    int rc = 0;
    if (key && !json_object_get(row, "text") && !is_query(row))
        put(row, key, column_find(line, key));
    for (int i = 0; rc == 0 && prompts[i]; i++)
        rc = check_held(row, line, prompts[i], e);
    return rc;
}

/* Without a prompt, a column with one of its other names is likely to be meant as the prompt. */
static int check_other_prompts(const json_t *row, const json_t *line, struct err *e)
{
    if (first_of(line, prompts) || json_object_get(row, "text") || json_object_get(row, "messages"))
        return 0;
    for (int i = 0; other_prompts[i]; i++)
        if (column_find(line, other_prompts[i]) &&
            !held_in_row(row, column_find(line, other_prompts[i]), HELD_PROMPT))
            return err_field(e, ASSAY_EBADREQ, other_prompts[i],
                "expected nothing that is not in what is scored, in front of the answers; the "
                "prompt is read under the name prompt, question or problem: rename this column, "
                "or leave it out");
    return 0;
}

static int take_system(json_t *row, const json_t *line, struct err *e)
{
    const json_t *a = column_find(line, "system"), *b = column_find(line, "system_prompt");
    const json_t *system = column_is_empty(a) ? b : a;
    const char *key = system == a ? "system" : "system_prompt";
    if (!column_is_empty(a) && !column_is_empty(b) && !json_equal(a, b))
        return err_field(e, ASSAY_EBADREQ, "system_prompt",
            "expected one of system and system_prompt, found two that differ");
    if (system && is_plain(row))
        return check_held(row, line, key, e);
    if (system)
        put(row, "system", system);
    return 0;
}

/* Of a message only what a template may write counts. */
static int messages_are_held(const json_t *row, const json_t *messages)
{
    const json_t *message;
    size_t k;
    if (!json_is_array(messages))
        return held_in_row(row, messages, HELD_TALK);
    json_array_foreach((json_t *)messages, k, message)
    {
        enum held_where where = held_where_in(messages, k, HELD_TALK);
        if (!json_is_object(message) && !held_in_row(row, message, where))
            return 0;
        if (!held_in_row(row, json_object_get(message, "content"), where) ||
            !held_in_row(row, json_object_get(message, "reasoning_content"), HELD_ANYWHERE) ||
            !held_in_row(row, json_object_get(message, "tool_calls"), where))
            return 0;
    }
    return 1;
}

/* Messages beside another key of what is scored are likely to be its prompt, and so is a text
 * beside a pair. A text beside an answer or messages is the same written out, as data sets have
 * it. */
static int check_other_bodies(const json_t *row, const json_t *line, struct err *e)
{
    const json_t *messages = column_find(line, "messages");
    int is_pair = json_object_get(row, "chosen") || json_object_get(row, "rejected");
    if (messages && messages != json_object_get(row, "messages") &&
        !messages_are_held(row, messages))
        return not_held("messages", e);
    if (is_pair)
        return check_held(row, line, "text", e);
    return column_find(line, "query") ? check_held(row, line, "document", e) : 0;
}

static int take_text(json_t *row, const json_t *line, struct err *e)
{
    int rc = take_body(row, line, e);
    if (rc == 0)
        rc = take_prompt(row, line, e);
    if (rc == 0)
        rc = check_lists(row, e);
    if (rc == 0)
        rc = take_system(row, line, e);
    if (rc == 0)
        rc = check_other_prompts(row, line, e);
    if (rc == 0)
        rc = check_other_bodies(row, line, e);
    for (int i = 0; rc == 0 && hints[i]; i++)
        rc = check_held(row, line, hints[i], e);
    if (rc == 0 && is_query(row))
        rc = column_options_refuse_arguments(line, e);
    else if (rc == 0 && !is_plain(row))
        rc = column_options_take_arguments(row, line, e);
    return rc == 0 ? column_options_check_media(row, line, e) : rc;
}

static int has_body(const json_t *line)
{
    size_t i = 0;
    while (i < N_BODIES && !column_find(line, bodies[i][0]))
        i++;
    return i < N_BODIES || labelled_steps(line) ||
           (column_find(line, "query") && first_of(line, documents));
}

static int are_token_ids(const json_t *v)
{
    size_t i = 0;
    while (i < json_array_size(v) && json_is_integer(json_array_get(v, i)))
        i++;
    return i > 0 && i == json_array_size(v);
}

/* Is the line token ids? `ids` is a message's name for them, and data sets' name for much else. */
static int is_ids(const json_t *line, struct err *e)
{
    const json_t *ids = column_find(line, "ids");
    if (column_find(line, "input_ids") || !ids || !has_body(line))
        return column_find(line, "input_ids") || ids;
    if (are_token_ids(ids))
        err_field(e, ASSAY_EBADREQ, "ids",
            "expected it alone, as token ids, or not beside what else is scored; name it input_ids "
            "to have it scored, or rename it or leave it out to have the text scored");
    return 0;
}

json_t *columns_take(const json_t *line, struct err *e)
{
    json_t *row = json_object();
    int ids = is_ids(line, e);
    int rc = e->code != 0 ? e->code : ids ? take_ids(row, line, e) : take_text(row, line, e);
    if (rc == 0)
        rc = column_options_take_settings(row, line, e);
    if (rc != 0) {
        json_decref(row);
        return NULL;
    }
    return row;
}
