/* config_keys.h - what config.json says beside the fields that config.c reads: keys that would make
 * the reference compute something else, and keys that contradict each other. Each is refused by
 * name; a key that the reference's classes never read is passed over, as they do. */
#ifndef ASSAY_CONFIG_KEYS_H
#define ASSAY_CONFIG_KEYS_H

#include "schema/err.h"
#include "schema/json.h"
#include "worker/config.h"

/* 0, or ASSAY_EUNSUPPORTED naming a key with a value that is not built, or ASSAY_EFORMAT naming two
 * that contradict each other. c->architecture is set. */
int config_check_keys(const struct model_config *c, const struct json_file *f, struct err *e);

/* 0, or ASSAY_EFORMAT where the key is there and null: the reference has a default for the absent key,
 * and fails at the null. */
int config_check_null(const struct json_file *f, const char *key, struct err *e);

/* The object that says how rope is scaled: rope_parameters or rope_scaling, whichever says
 * something. 1 and *inner, which borrows from f; 0 where neither does; else negative: both do, and
 * not the same; parameters for each layer type; two types; a scale that the reference leaves out. */
int config_rope_object(const struct json_file *f, struct json_file *inner, struct err *e);

#endif
