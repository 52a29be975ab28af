/* adapter_text.c - compares the tokenizer and the chat template beside an adapter with the base's
 * (adapter_text.h). */
#include "broker/text/adapter_text.h"

#include <stdio.h>
#include <string.h>

#include "schema/regular.h"

#define WAY_OUT                                                                                    \
    "the rows of all adapters are written with the base's; leave the file out of the adapter's "   \
    "directory if that is meant, or merge the adapter"

/* The name of a token of one that is another in the other, NULL: none. Those that no template of
 * these rows mentions are passed over, but for bos and eos, which rows and recipes use. */
static const char *find_other_text(
    const struct tokenizer *a, const struct tokenizer *b, const struct chat *chat)
{
    const json_t *others = tokenizer_texts(b);
    const char *name;
    json_t *text;
    json_object_foreach((json_t *)tokenizer_texts(a), name, text)
    {
        int counts = strcmp(name, "bos_token") == 0 || strcmp(name, "eos_token") == 0 ||
                     (chat->jinja && jinja_mentions(chat->jinja, name));
        if (counts && !json_equal(text, json_object_get(others, name)))
            return name;
    }
    return NULL;
}

static int compare_tokenizers(const struct tokenizer *own, const struct tokenizer *base,
    const struct chat *chat, const char *name, struct err *e)
{
    char what[80];
    if (tokenizer_differs(base, own, what, sizeof what))
        return err_set(e, ASSAY_EFORMAT,
            "--lora %s: tokenizer.json: expected what the base's has, found a difference in the "
            "%s: " WAY_OUT,
            name, what);
    const char *text = tokenizer_truncation(own)->is_left != tokenizer_truncation(base)->is_left
                           ? "truncation_side"
                           : find_other_text(own, base, chat);
    if (!text)
        text = find_other_text(base, own, chat);
    if (text)
        return err_set(e, ASSAY_EFORMAT,
            "--lora %s: tokenizer_config.json: expected the base's %s, found another: " WAY_OUT,
            name, text);
    return 0;
}

/* Without tokenizer.json what the files beside it say cannot be compared. */
static int check_no_side_files(const char *name, const char *dir, struct err *e)
{
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (regular_is_in(dir, files[i]))
            return err_set(e, ASSAY_EFORMAT,
                "--lora %s: %s: expected a tokenizer.json beside it, to compare with the base's, "
                "found none: " WAY_OUT,
                name, files[i]);
    return 0;
}

static int check_tokenizer(const struct text_model *base, const char *name, const char *dir,
    uint32_t *max_length, struct err *e)
{
    struct tokenizer *own = NULL;
    struct err why = {0};
    if (!base->tokenizer)
        return 0;
    if (tokenizer_is_there(dir, &why) != 0)
        return check_no_side_files(name, dir, e);
    int rc = tokenizer_load_beside(&own, dir, base->tokenizer, &why);
    rc = rc == 0 ? compare_tokenizers(own, base->tokenizer, &base->chat, name, e)
                 : err_set(e, rc, "--lora %s: %s", name, why.msg);
    if (rc == 0 && tokenizer_truncation(own)->max_length < UINT32_MAX)
        *max_length = tokenizer_truncation(own)->max_length;
    tokenizer_free(&own);
    return rc;
}

int adapter_text_check(const struct text_model *base, const struct text_options *o,
    const char *name, const char *dir, uint32_t *max_length, struct err *e)
{
    struct chat own = {0};
    struct err why = {0};
    *max_length = 0;
    int rc = check_tokenizer(base, name, dir, max_length, e);
    if (rc != 0 || o->chat_template || !base->chat.hash[0])
        return rc;
    rc = chat_load(&own, dir, &why);
    if (rc != 0)
        rc = err_set(e, rc, "--lora %s: %s", name, why.msg);
    else if (own.has_tool_use && !base->chat.has_tool_use)
        rc = err_set(e, ASSAY_EFORMAT,
            "--lora %s: a chat template named tool_use, which the base has not: " WAY_OUT, name);
    else if (own.hash[0] && strcmp(own.hash, base->chat.hash) != 0)
        rc = err_set(e, ASSAY_EFORMAT,
            "--lora %s: %s: expected the base's chat template, found another: give the one that "
            "all rows are written with to --chat-template, or leave the file out of the adapter's "
            "directory",
            name, own.origin);
    chat_release(&own);
    return rc;
}
