/* side_class.h - the class that transformers takes for a tokenizer, and what that makes of the
 * file. */
#ifndef ASSAY_SIDE_CLASS_H
#define ASSAY_SIDE_CLASS_H

#include <jansson.h>

#include "schema/err.h"

/* Classes that build a tokenizer of their own; at most one is set. */
struct side_class {
    int is_qwen2, is_llama;
};

/* root: tokenizer.json, whose parts are replaced by those that the class has of its own. settings:
 * tokenizer_config.json. ASSAY_EFORMAT for a class that is not known, or that contradicts the file,
 * and for settings that are not built. */
int side_class_read(struct side_class *c, json_t *root, const json_t *settings,
    const json_t *config, struct err *e);

#endif
