/* json.c - reads a file with jansson, and its fields with their type and range (json.h). */
#include "schema/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/regular.h"
#include "schema/utf8.h"

static const char *kind(const json_t *v)
{
    static const char *const names[] = {"an object", "an array", "a string", "an integer",
        "a real number", "true", "false", "null"};
    return names[json_typeof(v)];
}

const char *json_fault_kind(const json_error_t *why)
{
    enum json_error_code code = json_error_code(why);
    return code == json_error_null_byte_in_key || code == json_error_null_character
               ? "unsupported JSON"
               : "not JSON";
}

/* Returns the value with whole numbers below 2^53 as integers; takes the reference to v. */
static json_t *with_integers(json_t *v)
{
    double d = json_real_value(v);
    if (json_is_real(v) && fabs(d) < 0x1p53 && d == (double)(json_int_t)d) {
        json_decref(v);
        return json_integer((json_int_t)d);
    }
    for (void *at = json_object_iter(v); at; at = json_object_iter_next(v, at))
        json_object_iter_set_new(v, at, with_integers(json_incref(json_object_iter_value(at))));
    for (size_t i = 0; i < json_array_size(v); i++)
        json_array_set_new(v, i, with_integers(json_incref(json_array_get(v, i))));
    return v;
}

/* When an integer exceeds 64 bits (a tokenizer's model_max_length of 1e30), jansson can only read
 * all integers of the file as reals; those that are small are made integers again. */
static json_t *parse(FILE *f, const char *path, struct err *e)
{
    json_error_t why;
    char first[REGULAR_POINTER_BYTES] = "";
    json_t *root = json_loadf(f, JSON_REJECT_DUPLICATES, &why);
    if (!root && json_error_code(&why) == json_error_numeric_overflow) {
        rewind(f);
        root = json_loadf(f, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &why);
        root = root ? with_integers(root) : NULL;
    }
    if (root)
        return root;
    rewind(f);
    if (regular_is_pointer(first, fread(first, 1, sizeof first, f)))
        regular_refuse_pointer(path, e);
    else if (memcmp(first, UTF8_BOM, 3) == 0)
        err_set(e, ASSAY_EFORMAT,
            "%s: expected JSON without a byte order mark, found one at its beginning", path);
    else
        err_set(e, ASSAY_EFORMAT, "%s: %s: line %d: %s", path, json_fault_kind(&why), why.line,
            why.text);
    return NULL;
}

json_t *json_read_file(const char *dir, const char *name, size_t max_bytes, struct err *e)
{
    char path[4096];
    struct stat st;
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path) {
        err_set(e, ASSAY_EFORMAT, "%s: path too long", name);
        return NULL;
    }
    int fd = regular_open(path, &st, e);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "r");
    json_t *root = NULL;
    if (!f) {
        if (fd >= 0) {
            err_errno(e, ASSAY_EFORMAT, "%s: cannot read it", path);
            close(fd);
        }
        return NULL;
    }
    if ((uint64_t)st.st_size > max_bytes)
        err_set(e, ASSAY_EFORMAT, "%s: expected at most %zu bytes, found %lld", path, max_bytes,
            (long long)st.st_size);
    else if ((root = parse(f, path, e)) && !json_is_object(root)) {
        err_set(e, ASSAY_EFORMAT, "%s: expected an object, found %s", path, kind(root));
        json_decref(root);
        root = NULL;
    }
    fclose(f);
    return root;
}

static const json_t *find(const struct json_file *f, const char *key)
{
    const json_t *v = json_object_get(f->object, key);
    return json_is_null(v) ? NULL : v;
}

static int wrong(const struct json_file *f, const char *key, const char *expected, const json_t *v,
    struct err *e)
{
    return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected %s, found %s", f->file, f->where, key,
        expected, kind(v));
}

int json_get_int(const struct json_file *f, const char *key, int64_t min, int64_t max,
    int64_t *value, struct err *e)
{
    const json_t *v = find(f, key);
    if (!v)
        return 0;
    if (!json_is_integer(v))
        return wrong(f, key, "an integer", v, e);
    if (json_integer_value(v) < min || json_integer_value(v) > max)
        return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected %lld to %lld, found %lld", f->file,
            f->where, key, (long long)min, (long long)max, (long long)json_integer_value(v));
    *value = json_integer_value(v);
    return 1;
}

int json_get_real(const struct json_file *f, const char *key, double min, double max, double *value,
    struct err *e)
{
    const json_t *v = find(f, key);
    if (!v)
        return 0;
    if (!json_is_number(v))
        return wrong(f, key, "a number", v, e);
    double found = json_number_value(v);
    if (!(found >= min && found <= max))
        return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected %g to %g, found %g", f->file, f->where,
            key, min, max, found);
    *value = found;
    return 1;
}

int json_get_bool(const struct json_file *f, const char *key, int *value, struct err *e)
{
    const json_t *v = find(f, key);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return wrong(f, key, "true or false", v, e);
    *value = json_is_true(v);
    return 1;
}

int json_get_string(const struct json_file *f, const char *key, const char **value, struct err *e)
{
    const json_t *v = find(f, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return wrong(f, key, "a string", v, e);
    *value = json_string_value(v);
    return 1;
}

int json_need_int(const struct json_file *f, const char *key, int64_t min, int64_t max,
    int64_t *value, struct err *e)
{
    int found = json_get_int(f, key, min, max, value, e);
    if (found == 0)
        return err_set(e, ASSAY_EFORMAT, "%s: %s%s: expected an integer, found nothing", f->file,
            f->where, key);
    return found < 0 ? found : 0;
}

const char *json_string_end(const char *at, const char *end)
{
    for (const char *p = at + 1; p < end; p += *p == '\\' ? 2 : 1)
        if (*p == '"')
            return p + 1;
    return NULL;
}
