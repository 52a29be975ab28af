/* adapter_text.c - compares the tokenizer and the chat template beside an adapter with the base's
 * (adapter_text.h). */
#include "broker/text/adapter_text.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WAY_OUT                                                                                    \
    "the rows of all adapters are written with the base's; leave the file out of the adapter's "   \
    "directory if that is meant, or merge the adapter"

/* Returns the first id that is another token in the two, -1: none. */
static int64_t find_other_token(const struct tokenizer *a, const struct tokenizer *b)
{
    uint32_t n = tokenizer_n_ids(a) > tokenizer_n_ids(b) ? tokenizer_n_ids(a) : tokenizer_n_ids(b);
    for (uint32_t id = 0; id < n; id++)
        if (!slice_is_same(tokenizer_piece(a, (int32_t)id), tokenizer_piece(b, (int32_t)id)))
            return id;
    return -1;
}

static int are_same_ids(const struct id_list *a, const struct id_list *b)
{
    return a->len == b->len && (a->len == 0 || memcmp(a->at, b->at, a->len * sizeof *a->at) == 0);
}

/* Encodes the token's text between these. Returns the ids, borrowed; NULL: it is no text by
 * itself. */
static const struct id_list *encode_alone(
    struct encoder *n, struct buffer *text, const char *between[2], struct slice piece)
{
    struct err why = {0};
    text->len = 0;
    buffer_append(text, between[0], strlen(between[0]));
    buffer_append(text, piece.at, piece.len);
    buffer_append(text, between[1], strlen(between[1]));
    encoder_clear(n);
    return encoder_text(n, (struct slice){text->at, text->len}, NULL, 0, &why) == 0 ? encoder_ids(n)
                                                                                    : NULL;
}

/* Returns the first id whose text becomes other ids in the two, alone or within a word, -1: none.
 * Merges, flags of added tokens and the like show in it. */
static int64_t find_other_ids(const struct tokenizer *a, const struct tokenizer *b)
{
    const char *between[2][2] = {{" ", " a"}, {"a", "a"}};
    struct encoder *x = encoder_new(a), *y = encoder_new(b);
    struct buffer text = {0};
    int64_t found = -1;
    for (uint32_t k = 0; k < 2 * tokenizer_n_ids(a) && found < 0; k++) {
        uint32_t id = k / 2;
        struct slice piece = tokenizer_piece(a, (int32_t)id);
        const struct id_list *p = piece.len ? encode_alone(x, &text, between[k % 2], piece) : NULL;
        const struct id_list *q = piece.len ? encode_alone(y, &text, between[k % 2], piece) : NULL;
        if (!p != !q || (p && !are_same_ids(p, q)))
            found = id;
    }
    buffer_release(&text);
    encoder_free(&x);
    encoder_free(&y);
    return found;
}

/* Do the two put the same tokens around a text? */
static int frames_alike(const struct tokenizer *a, const struct tokenizer *b)
{
    uint32_t before[2], behind[2];
    struct encoder *both[2] = {encoder_new(a), encoder_new(b)};
    tokenizer_frame(a, &before[0], &behind[0]);
    tokenizer_frame(b, &before[1], &behind[1]);
    for (int i = 0; i < 2; i++) {
        encoder_begin(both[i]);
        encoder_end(both[i]);
    }
    int alike = before[0] == before[1] && are_same_ids(encoder_ids(both[0]), encoder_ids(both[1]));
    encoder_free(&both[0]);
    encoder_free(&both[1]);
    return alike;
}

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
    int64_t id = find_other_token(own, base);
    if (id >= 0)
        return err_set(e, ASSAY_EFORMAT,
            "--lora %s: tokenizer.json: expected the base's tokens, found another under id "
            "%lld: " WAY_OUT,
            name, (long long)id);
    if ((id = find_other_ids(own, base)) >= 0)
        return err_set(e, ASSAY_EFORMAT,
            "--lora %s: tokenizer.json: expected ids as the base's tokenizer gives them, found "
            "others for the text of token %lld: " WAY_OUT,
            name, (long long)id);
    if (!tokenizer_cuts_alike(own, base))
        return err_set(e, ASSAY_EFORMAT,
            "--lora %s: tokenizer.json: expected the base's normalizer and pre_tokenizer, found "
            "others: " WAY_OUT,
            name);
    if (!frames_alike(own, base))
        return err_set(e, ASSAY_EFORMAT,
            "--lora %s: tokenizer.json: expected the base's tokens before and behind a text, found "
            "others: " WAY_OUT,
            name);
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
    char path[4096];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (snprintf(path, sizeof path, "%s/%s", dir, files[i]) < (int)sizeof path &&
            access(path, F_OK) == 0)
            return err_set(e, ASSAY_EFORMAT,
                "--lora %s: %s: expected a tokenizer.json beside it, to compare with the base's, "
                "found none: " WAY_OUT,
                name, files[i]);
    return 0;
}

static int check_tokenizer(
    const struct text_model *base, const char *name, const char *dir, struct err *e)
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
    tokenizer_free(&own);
    return rc;
}

int adapter_text_check(const struct text_model *base, const struct text_options *o,
    const char *name, const char *dir, struct err *e)
{
    struct chat own = {0};
    struct err why = {0};
    int rc = check_tokenizer(base, name, dir, e);
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
