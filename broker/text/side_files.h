/* side_files.h - applies the files beside a tokenizer.json that change its tokenizer:
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json, and config.json, which
 * together choose the class.
 *
 * AutoTokenizer of transformers 5 completes a tokenizer.json from them, and side_files_apply does
 * the same. It adds these tokens in this order, each with the next free id unless its text is a
 * token already:
 *     the tokens of tokenizer.json (not for the classes Qwen2Tokenizer and LlamaTokenizer, which
 *     build their own from vocabulary and merges); added_tokens_decoder by id, or without it
 *     added_tokens.json and tokenizer.json by id; bos, eos, unk, sep, pad, cls and mask token;
 *     other *_token keys and extra_special_tokens where it is an object; extra_special_tokens
 *     (additional_special_tokens) where it is a list.
 * special_tokens_map.json counts only without added_tokens_decoder. A later token with the same
 * text changes the flags of the earlier one.
 *
 * LlamaTokenizer has its own normalizer, pre_tokenizer and settings of the model, too, which
 * replace the file's; where the file names ByteLevel, and for Mistral's types, the class counts for
 * nothing.
 *
 * If this loses a token of tokenizer.json or gives it another id, the files contradict each other
 * and are refused with the token's name. What the files ask for and is not implemented is refused
 * too. */
#ifndef ASSAY_SIDE_FILES_H
#define ASSAY_SIDE_FILES_H

#include <jansson.h>
#include <stdint.h>

#include "broker/text/side_truncation.h"
#include "schema/err.h"

/* What transformers has as bos_token_id, eos_token_id and pad_token_id; -1: none. */
struct special_ids {
    int32_t bos, eos, pad;
};

/* What the files say of a tokenizer beside its tokens' flags. */
struct side_facts {
    struct special_ids ids;
    struct side_truncation truncation;
    json_t *texts; /* transformers' special_tokens_map: an object from names (bos_token ..) to the
                      tokens' texts; owned */
    json_t *model; /* model_type and tokenizer_class of config.json, as far as they are there;
                      owned */
};

/* root: the contents of DIR/tokenizer.json; its added_tokens become those of transformers. `model`:
 * what a DIR without a config.json takes for it (facts.model of the base, beside an adapter), or
 * NULL. Fills *facts, whose texts and model the caller frees even after a failure. Returns 0, or
 * ASSAY_EFORMAT naming file, field, expected and found. */
int side_files_apply(
    json_t *root, const char *dir, const json_t *model, struct side_facts *facts, struct err *e);

/* Checks that those of the files that side_files_apply would read are JSON objects or absent.
 * Returns 0, or ASSAY_EFORMAT naming the file. */
int side_files_check(const char *dir, struct err *e);

#endif
