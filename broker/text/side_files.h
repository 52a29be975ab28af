/* side_files.h - the files beside a tokenizer.json that change what its tokenizer does: tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json, and config.json, which together choose the class.
 *
 * AutoTokenizer of transformers 5 completes a tokenizer.json from them, and side_files_apply does as it
 * does. Which tokens are added, in this order, each with the next free id unless its text is a token
 * already:
 *     the tokens of tokenizer.json (not where the class is Qwen2Tokenizer: it makes a tokenizer of its own
 *     from vocabulary and merges); added_tokens_decoder by id, or without it added_tokens.json and
 *     tokenizer.json by id; bos, eos, unk, sep, pad, cls and mask token; other *_token keys and
 *     extra_special_tokens where it is an object; extra_special_tokens (additional_special_tokens) where
 *     it is a list.
 * special_tokens_map.json counts where there is no added_tokens_decoder. A later token of the same text
 * changes the flags of the former.
 *
 * Where that gives a token of tokenizer.json another id, or loses it, the files contradict each other and are
 * refused by the token's name; so is what they ask for that is not built. */
#ifndef ASSAY_SIDE_FILES_H
#define ASSAY_SIDE_FILES_H

#include <jansson.h>

#include "schema/err.h"

/* root: what DIR/tokenizer.json holds; its added_tokens become those that transformers has. 0, or ASSAY_EFORMAT
 * naming file, field, expected and found. */
int side_files_apply(json_t *root, const char *dir, struct err *e);

#endif
