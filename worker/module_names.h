/* module_names.h - which of the model's modules a list of names in config.json means. */
#ifndef ASSAY_MODULE_NAMES_H
#define ASSAY_MODULE_NAMES_H

#include <stdint.h>

#include "schema/err.h"
#include "schema/json.h"
#include "worker/config.h"

/* Modules: bit m of matrices[i] is matrix m of layer i. */
struct modules {
    uint8_t matrices[MODEL_MAX_LAYERS];
    int head, embedding;
};

/* Adds the modules that compressed-tensors means by the list at `key`: names ("Linear" is every
 * matrix and the head), or patterns of Python's re.match after "re:". An absent list or null is
 * empty. ASSAY_EFORMAT for what is no list of names, or no pattern. */
int modules_named(struct modules *m, const struct model_config *c, const struct json_file *f,
    const char *key, struct err *e);

/* The same for a list of modules that are left as they are, by transformers' rule: a pattern for
 * the beginning of a name up to a dot or its end, or the end of a name. */
int modules_kept(struct modules *m, const struct model_config *c, const struct json_file *f,
    const char *key, struct err *e);

/* The same; ASSAY_EFORMAT where AutoAWQ, to which it is any part of a name, reads it otherwise. */
int modules_kept_alike(struct modules *m, const struct model_config *c, const struct json_file *f,
    const char *key, struct err *e);

#endif
