/* json.h - reading fields of untrusted JSON files: presence, type and range in one call, with
 * errors that name file and field. */
#ifndef ASSAY_JSON_H
#define ASSAY_JSON_H

#include <jansson.h>

#include "schema/err.h"

/* A JSON object being read. `file` names it in errors. */
struct json_file {
    const char *file;
    const char *where; /* "" or "rope_scaling." .. */
    const json_t *object;
};

/* Parse a file (at most max_bytes). NULL with *e. */
json_t *json_read_file(const char *dir, const char *name, size_t max_bytes, struct err *e);

/* Absent or null: 0 returned and *value untouched. Present and good: 1. Else negative. */
int json_get_int(const struct json_file *f, const char *key, int64_t min, int64_t max,
    int64_t *value, struct err *e);
int json_get_real(const struct json_file *f, const char *key, double min, double max, double *value,
    struct err *e);
int json_get_bool(const struct json_file *f, const char *key, int *value, struct err *e);
int json_get_string(const struct json_file *f, const char *key, const char **value, struct err *e);
/* The same, absence being an error. 0 or negative. */
int json_need_int(const struct json_file *f, const char *key, int64_t min, int64_t max,
    int64_t *value, struct err *e);

#endif
