/* quantization_fields.h - how the fields of quantization_config are read, for the files that read a
 * method's. Every field is in a table: those that are read, those that must have the value under
 * which nothing changes, and those that change nothing. */
#ifndef ASSAY_QUANTIZATION_FIELDS_H
#define ASSAY_QUANTIZATION_FIELDS_H

#include "schema/err.h"
#include "schema/json.h"
#include "worker/quantization.h"

/* A field and the values, as JSON, that are built; no value: it is read elsewhere or changes
 * nothing. Absent and null are always built here: a field that must be there is read by name, and
 * one that may not be null is in a list of its own. */
struct quantization_field {
    const char *key, *values; /* separated by spaces */
};

/* Checks every field of f against the table; `fields` ends with a key of NULL. */
int quantization_check_fields(
    const struct json_file *f, const struct quantization_field *fields, struct err *e);
/* Refuses null at any of the keys, which end with NULL: for fields that have a default, which the
 * format's own library takes where they are absent, while it refuses null. */
int quantization_refuse_nulls(const struct json_file *f, const char *const *keys, struct err *e);
/* The object at `key` of f, named `where` in errors. */
int quantization_open(struct json_file *inner, const struct json_file *f, const char *key,
    const char *where, struct err *e);
int quantization_need_string(
    const struct json_file *f, const char *key, const char **value, struct err *e);
/* Reads 4 or 8. */
int quantization_read_bits(
    struct quantization *q, const struct json_file *f, const char *key, struct err *e);
/* -1 is the whole row. */
int quantization_read_group_size(struct quantization *q, const struct json_file *f, struct err *e);
/* Rows and columns of a block: [128, 128], or "128x128". */
int quantization_read_block(
    struct quantization *q, const struct json_file *f, const char *key, struct err *e);

/* The methods that have files of their own. Each sets c->quantization and c->quantized. */
int quantization_read_compressed(struct model_config *c, const struct json_file *f, struct err *e);

#endif
