/* json.h - reads fields of untrusted JSON files: presence, type and range in one call, with errors
 * that name file and field. */
#ifndef ASSAY_JSON_H
#define ASSAY_JSON_H

#include <jansson.h>

#include "schema/err.h"

/* A JSON object being read. `file` names it in errors. */
struct json_file {
    const char *file;
    const char *where; /* "" or a prefix such as "rope_scaling." */
    const json_t *object;
};

/* Parses a file of at most max_bytes. Returns an object that the caller releases, or NULL with
 * *e. */
json_t *json_read_file(const char *dir, const char *name, size_t max_bytes, struct err *e);

/* How to name the reason that jansson gives: "not JSON", or "unsupported JSON" where it is JSON all
 * the same (U+0000 in a key). */
const char *json_fault_kind(const json_error_t *why);

/* Each reads a field. Returns 0 with *value untouched when it is absent or null, 1 when it is
 * valid, else a negative code. */
int json_get_int(const struct json_file *f, const char *key, int64_t min, int64_t max,
    int64_t *value, struct err *e);
int json_get_real(const struct json_file *f, const char *key, double min, double max, double *value,
    struct err *e);
int json_get_bool(const struct json_file *f, const char *key, int *value, struct err *e);
int json_get_string(const struct json_file *f, const char *key, const char **value, struct err *e);
/* The same for a field that must be there. Returns 0 or a negative code. */
int json_need_int(const struct json_file *f, const char *key, int64_t min, int64_t max,
    int64_t *value, struct err *e);

/* `at`: the quote that begins a string in JSON text. Returns where the text behind the string
 * begins, or NULL when it does not end before `end`. The text need not be JSON. */
const char *json_string_end(const char *at, const char *end);

#endif
