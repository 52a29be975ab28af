/* side_names.h - the tokens that tokenizer_config.json and special_tokens_map.json name: which of two places
 * counts where both name some.
 *
 * transformers hands the settings from one step to the next and each of them moves some to another name, so
 * that what counts depends on the order of the steps. They are followed here one by one, on the settings
 * themselves:
 *     begin   additional_special_tokens is extra_special_tokens where that is absent or empty; texts under other
 *             *_token keys, and extra_special_tokens where it is an object, become model_specific_special_tokens
 *             and replace what stands there
 *     merge   special_tokens_map.json over them: a key of it replaces the settings', but its
 *             extra_special_tokens are added to theirs; its additional_special_tokens count where the
 *             settings have neither list, not even an empty one
 *     end     what is left makes the lists
 * An object is a token where the key "__type" says AddedToken, or special_tokens_map.json has it; any other is
 * refused where the reference fails at it, and passed over where it does. */
#ifndef ASSAY_SIDE_NAMES_H
#define ASSAY_SIDE_NAMES_H

#include <jansson.h>

#include "schema/err.h"

void side_names_begin(json_t *settings);
/* 0, or ASSAY_EFORMAT naming the key. */
int side_names_merge(json_t *settings, const json_t *map, struct err *e);

/* Is the text a standard or an extra token so far? Objects of the settings do not count yet. */
int side_names_is_special(const json_t *settings, const char *content);

struct side_names {
    json_t *
        named; /* object: from name to token, a string or an object with content, or null; in order */
    json_t *extra; /* array of such tokens */
};

/* known: object, texts of tokens to tokens that stand for the standard ones. defaults: object, tokens
 * for standard names that are absent. Appends to both lists; 0, or ASSAY_EFORMAT naming the key. */
int side_names_end(json_t *settings, const json_t *known, const json_t *defaults,
    struct side_names *names, struct err *e);

const char *side_text(const json_t *token); /* of a string or an object; NULL: neither */

#endif
