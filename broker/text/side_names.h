/* side_names.h - merges the tokens that tokenizer_config.json and special_tokens_map.json name, and
 * decides which count where both name some.
 *
 * transformers passes the settings through several steps, and each moves some to another name, so
 * the result depends on the order of the steps. The same steps run here, on the settings
 * themselves:
 *     begin   additional_special_tokens becomes extra_special_tokens where that is absent or empty;
 *             texts under other *_token keys, and extra_special_tokens where it is an object,
 *             become model_specific_special_tokens and replace what is there
 *     merge   special_tokens_map.json is merged: its keys replace the settings', but its
 *             extra_special_tokens are added to theirs; its additional_special_tokens count where
 *             the settings have neither list, not even an empty one
 *     end     what is left makes the lists
 * An object is a token if its key "__type" says AddedToken, or if it is in special_tokens_map.json.
 * Any other object is refused where the reference fails on it, and skipped where the reference
 * skips it. */
#ifndef ASSAY_SIDE_NAMES_H
#define ASSAY_SIDE_NAMES_H

#include <jansson.h>

#include "schema/err.h"

void side_names_begin(json_t *settings);
/* Returns 0, or ASSAY_EFORMAT naming the key. */
int side_names_merge(json_t *settings, const json_t *map, struct err *e);

/* Is the text a standard or an extra token so far? Objects in the settings do not count yet. */
int side_names_is_special(const json_t *settings, const char *content);

struct side_names {
    /* object from name to token, in order; a token is a string, an object with content, or null */
    json_t *named;
    json_t *extra; /* array of such tokens */
};

/* known: object from texts to the tokens that stand for standard ones. defaults: object with tokens
 * for absent standard names. Appends to both lists. Returns 0, or ASSAY_EFORMAT naming the key. */
int side_names_end(json_t *settings, const json_t *known, const json_t *defaults,
    struct side_names *names, struct err *e);

const char *side_text(const json_t *token); /* text of a string or object; NULL: neither */

#endif
