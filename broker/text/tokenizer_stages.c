/* tokenizer_stages.c - see tokenizer_reader.h. What cannot be honoured is refused by name. */
#include "broker/text/tokenizer_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/text/split.h"
#include "broker/text/unicode.h"

/* ---- json ---- */

int reader_wrong(const struct reader *r, const char *fmt, ...)
{
    char text[ERR_MESSAGE_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return err_set(r->e, ASSAY_EFORMAT, "tokenizer.json: %s", text);
}

const char *reader_text(const json_t *v)
{
    const char *s = json_string_value(v);
    return s ? s : json_is_null(v) || !v ? "null" : "something else";
}

const char *reader_type(const json_t *object)
{
    return reader_text(json_object_get(object, "type"));
}

int reader_is_type(const json_t *object, const char *type)
{
    return strcmp(reader_type(object), type) == 0;
}

int reader_is_off(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return !v || json_is_null(v) || json_is_false(v);
}

int reader_is_empty(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return !v || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0);
}

int reader_id(const struct reader *r, const char *what, const json_t *id)
{
    if (json_is_integer(id) && json_integer_value(id) >= 0 &&
        json_integer_value(id) < (json_int_t)BPE_MAX_IDS)
        return 0;
    return reader_wrong(r, "%.80s: expected an id from 0 to %u", what, BPE_MAX_IDS - 1);
}

/* ---- normalizer ---- */

int reader_normalizer(struct reader *r, const json_t *v)
{
    const json_t *list = json_object_get(v, "normalizers");
    if (!v || json_is_null(v))
        return 0;
    if (reader_is_type(v, "Sequence") && json_array_size(list) <= 1)
        return reader_normalizer(r, json_array_get(list, 0));
    if (!reader_is_type(v, "NFC"))
        return reader_wrong(r, "normalizer: expected NFC or none, found %.80s", reader_type(v));
    r->t->nfc = 1;
    return 0;
}

/* ---- pre-tokenizer ---- */

/* The pattern of GPT-2, which ByteLevel cuts by if use_regex is true. */
static const char byte_level_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

static struct pre_step *add_step(struct reader *r, enum pre_kind kind)
{
    struct pre_tokenizer *t = &r->t->pre;
    if (t->n == PRE_MAX_STEPS) {
        reader_wrong(r, "pre_tokenizer: expected at most %d steps", PRE_MAX_STEPS);
        return NULL;
    }
    struct pre_step *s = &t->steps[t->n++];
    *s = (struct pre_step){.kind = kind};
    return s;
}

/* A boolean that the reference demands. */
static int read_flag(const struct reader *r, const json_t *v, const char *key, int *flag)
{
    const json_t *value = json_object_get(v, key);
    *flag = json_is_true(value);
    if (json_is_boolean(value))
        return 0;
    return reader_wrong(
        r, "pre_tokenizer: %s.%s: expected true or false, found another", reader_type(v), key);
}

static int read_behavior(const struct reader *r, const json_t *v, enum pre_behavior *behavior)
{
    static const char *const names[] = {
        "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = reader_text(json_object_get(v, "behavior"));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) {
            *behavior = (enum pre_behavior)i;
            return 0;
        }
    return reader_wrong(r,
        "pre_tokenizer: %s.behavior: expected Isolated, Removed, MergedWithPrevious, "
        "MergedWithNext or Contiguous, found %.80s",
        reader_type(v), name);
}

/* Compiles {"Regex": ..} or {"String": ..}; stage names the part of the file. */
static int compile_pattern(
    const struct reader *r, const char *stage, const json_t *pattern, struct pattern **out)
{
    const json_t *regex = json_object_get(pattern, "Regex");
    const json_t *text = json_object_get(pattern, "String");
    const char *value = json_string_value(regex ? regex : text);
    struct err why = {0};
    if (!value || !*value || strlen(value) != json_string_length(regex ? regex : text))
        return reader_wrong(
            r, "%s: expected a pattern, {\"Regex\": ..} or {\"String\": ..}", stage);
    int rc = regex ? pattern_new(out, value, &why) : pattern_new_text(out, value, &why);
    return rc == 0 ? 0 : reader_wrong(r, "%s: %s", stage, why.msg);
}

static int read_split(struct reader *r, const json_t *v)
{
    const json_t *pattern = json_object_get(v, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    struct pre_step *s = add_step(r, PRE_PATTERN);
    int rc = s ? read_behavior(r, v, &s->behavior) : r->e->code;
    if (rc == 0)
        rc = read_flag(r, v, "invert", &s->invert);
    if (rc == 0 && regex && !s->invert && s->behavior == PRE_ISOLATED)
        s->digits = split_pattern_digits(regex);
    if (rc == 0 && s->digits > 0)
        s->kind = PRE_SCAN;
    else if (rc == 0)
        rc = compile_pattern(r, "pre_tokenizer: Split.pattern", pattern, &s->pattern);
    return rc;
}

static int read_digits(struct reader *r, const json_t *v)
{
    struct pre_step *s = add_step(r, PRE_CLASS);
    int each, rc = s ? read_flag(r, v, "individual_digits", &each) : r->e->code;
    if (rc != 0)
        return rc;
    s->class = UNICODE_DIGIT;
    s->behavior = each ? PRE_ISOLATED : PRE_CONTIGUOUS;
    return 0;
}

static int read_punctuation(struct reader *r, const json_t *v)
{
    struct pre_step *s = add_step(r, PRE_CLASS);
    if (!s)
        return r->e->code;
    s->class = UNICODE_PUNCTUATION;
    return json_object_get(v, "behavior") ? read_behavior(r, v, &s->behavior) : 0;
}

static int read_byte_level(struct reader *r, const json_t *v)
{
    const json_t *pattern = json_object_get(v, "use_regex");
    int prefix, rc = read_flag(r, v, "add_prefix_space", &prefix);
    struct pre_step *s;
    struct err why;
    if (rc == 0 && pattern)
        rc = read_flag(r, v, "use_regex", &(int){0});
    if (rc == 0 && prefix) {
        if (!(s = add_step(r, PRE_SPACE)))
            return r->e->code;
        s->prefix = PRE_ALWAYS;
        strcpy(s->space, " ");
    }
    if (rc == 0 && !json_is_false(pattern)) {
        if (!(s = add_step(r, PRE_PATTERN)))
            return r->e->code;
        rc = pattern_new(&s->pattern, byte_level_pattern, &why);
    }
    r->is_byte_level = 1;
    return rc;
}

static int read_step(struct reader *r, const json_t *v, int depth)
{
    json_t *item;
    size_t k;
    int rc = 0;
    if (r->is_byte_level)
        return reader_wrong(
            r, "pre_tokenizer: expected nothing behind ByteLevel, found %.80s", reader_type(v));
    if (reader_is_type(v, "Split"))
        return read_split(r, v);
    if (reader_is_type(v, "Digits"))
        return read_digits(r, v);
    if (reader_is_type(v, "Punctuation"))
        return read_punctuation(r, v);
    if (reader_is_type(v, "ByteLevel"))
        return read_byte_level(r, v);
    if (!reader_is_type(v, "Sequence") || depth > 2)
        return reader_wrong(r,
            "pre_tokenizer: expected Split, Digits, Punctuation, ByteLevel or a Sequence of them, "
            "found %.80s",
            reader_type(v));
    json_array_foreach(json_object_get(v, "pretokenizers"), k, item)
    {
        if ((rc = read_step(r, item, depth + 1)) != 0)
            return rc;
    }
    return 0;
}

int reader_pre_tokenizer(struct reader *r, const json_t *v)
{
    int rc = read_step(r, v, 0);
    if (rc == 0 && !r->is_byte_level)
        rc = reader_wrong(r, "pre_tokenizer: expected ByteLevel at its end, found none");
    return rc;
}

/* ---- post-processor ---- */

static int read_special(struct reader *r, const json_t *processor, const json_t *item, int behind)
{
    const char *name = reader_text(json_object_get(json_object_get(item, "SpecialToken"), "id"));
    const json_t *known = json_object_get(json_object_get(processor, "special_tokens"), name);
    json_t *id;
    size_t k;
    if (json_array_size(json_object_get(known, "ids")) == 0)
        return reader_wrong(r, "post_processor: special_tokens: expected the ids of '%.80s'", name);
    json_array_foreach(json_object_get(known, "ids"), k, id)
    {
        int rc = reader_id(r, "post_processor: special_tokens", id);
        if (rc != 0)
            return rc;
        id_list_add(behind ? &r->t->behind : &r->t->before, (int32_t)json_integer_value(id));
    }
    return 0;
}

static int read_template(struct reader *r, const json_t *processor)
{
    json_t *item;
    size_t k;
    int behind = 0, rc = 0;
    json_array_foreach(json_object_get(processor, "single"), k, item)
    {
        if (json_object_get(item, "Sequence")) {
            if (behind++)
                return reader_wrong(
                    r, "post_processor: expected one Sequence in single, found two");
        } else if ((rc = read_special(r, processor, item, behind)) != 0) {
            return rc;
        }
    }
    return behind ? 0
                  : reader_wrong(r, "post_processor: expected a Sequence in single, found none");
}

static int read_processor(struct reader *r, const json_t *v, int depth)
{
    json_t *item;
    size_t k;
    int rc = 0;
    if (!v || json_is_null(v) || reader_is_type(v, "ByteLevel"))
        return 0;
    if (reader_is_type(v, "TemplateProcessing"))
        return read_template(r, v);
    if (!reader_is_type(v, "Sequence") || depth > 2)
        return reader_wrong(r,
            "post_processor: expected ByteLevel, TemplateProcessing or none, found %.80s",
            reader_type(v));
    json_array_foreach(json_object_get(v, "processors"), k, item)
    {
        if ((rc = read_processor(r, item, depth + 1)) != 0)
            return rc;
    }
    return 0;
}

int reader_post_processor(struct reader *r, const json_t *v)
{
    return read_processor(r, v, 0);
}
