/* config_keys.h - checks the keys of config.json that config.c does not read: keys that would make
 * the reference compute something else, and keys that contradict each other, are refused by name.
 * Keys that the reference's classes never read are ignored. */
#ifndef ASSAY_CONFIG_KEYS_H
#define ASSAY_CONFIG_KEYS_H

#include "schema/err.h"
#include "schema/json.h"
#include "worker/config.h"

/* Returns 0, ASSAY_EUNSUPPORTED naming a key whose value is not built, or ASSAY_EFORMAT naming two
 * keys that contradict each other. c->architecture must be set. */
int config_check_keys(const struct model_config *c, const struct json_file *f, struct err *e);

/* Returns 0, or ASSAY_EFORMAT if the key is present and null: the reference has a default for an
 * absent key but fails on null. */
int config_check_null(const struct json_file *f, const char *key, struct err *e);

/* Finds the object that describes rope scaling: rope_parameters or rope_scaling. Returns 1 and
 * *inner, which borrows from f; 0 if neither says anything; negative if both do and differ, if
 * there are parameters for each layer type, if there are two types, or if the reference ignores the
 * scale. */
int config_rope_object(const struct json_file *f, struct json_file *inner, struct err *e);

#endif
