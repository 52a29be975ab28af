/* msg_json.c - see msg_json.h. */
#include "schema/msg_json.h"

#include <stdio.h>
#include <stdlib.h>

static void write_array(struct msg_writer *w, const json_t *v)
{
    json_t *item;
    size_t k;
    msg_array(w, (uint32_t)json_array_size(v));
    json_array_foreach(v, k, item)
    {
        msg_json(w, item);
    }
}

static void write_object(struct msg_writer *w, const json_t *v)
{
    const char *key;
    json_t *item;
    msg_map(w, (uint32_t)json_object_size(v));
    json_object_foreach((json_t *)v, key, item)
    {
        msg_str(w, key);
        msg_json(w, item);
    }
}

void msg_json(struct msg_writer *w, const json_t *v)
{
    if (json_is_string(v))
        msg_str_len(w, json_string_value(v), json_string_length(v));
    else if (json_is_array(v))
        write_array(w, v);
    else if (json_is_object(v))
        write_object(w, v);
    else if (json_is_integer(v))
        msg_int(w, json_integer_value(v));
    else if (json_is_real(v))
        msg_double(w, json_real_value(v));
    else if (json_is_boolean(v))
        msg_bool(w, json_is_true(v));
    else
        msg_nil(w);
}

double msg_shortest(float value)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)value);
        if (strtof(text, NULL) == value)
            break;
    }
    return strtod(text, NULL);
}

/* ---- reading ---- */

static double shortest(double real)
{
    return (double)(float)real == real ? msg_shortest((float)real) : real;
}

static int read_value(struct msg_reader *r, int depth, json_t **out, struct err *e);

static int read_member(struct msg_reader *r, int depth, json_t *all, struct err *e)
{
    struct slice key;
    json_t *value = NULL;
    char name[256];
    int rc = msg_read_str(r, "", &key, e);
    if (rc == 0)
        rc = read_value(r, depth, &value, e);
    if (rc != 0)
        return rc;
    int len = (int)(key.len < sizeof name ? key.len : sizeof name - 1);
    snprintf(name, sizeof name, "%.*s", len, (const char *)key.at);
    json_object_set_new(all, name, value);
    return 0;
}

static int read_container(
    struct msg_reader *r, enum msg_type type, int depth, json_t **out, struct err *e)
{
    uint32_t n = 0;
    if (depth <= 0)
        return err_set(e, ASSAY_EBADMSG, "message: nested deeper than %d levels", MSG_MAX_DEPTH);
    int rc = type == MSG_MAP ? msg_read_map(r, "", &n, e) : msg_read_array(r, "", &n, e);
    json_t *all = type == MSG_MAP ? json_object() : json_array();
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        json_t *value = NULL;
        if (type == MSG_MAP)
            rc = read_member(r, depth - 1, all, e);
        else if ((rc = read_value(r, depth - 1, &value, e)) == 0)
            json_array_append_new(all, value);
    }
    if (rc == 0)
        *out = all;
    else
        json_decref(all);
    return rc;
}

static int read_scalar(struct msg_reader *r, enum msg_type type, json_t **out, struct err *e)
{
    struct slice s;
    int64_t number = 0;
    double real = 0;
    int flag = 0, rc;
    if (type == MSG_BOOL)
        rc = msg_read_bool(r, "", &flag, e);
    else if (type == MSG_INT)
        rc = msg_read_int_saturated(r, "", &number, e);
    else if (type == MSG_FLOAT)
        rc = msg_read_float(r, "", &real, e);
    else if (type == MSG_STR)
        rc = msg_read_str(r, "", &s, e);
    else
        rc = msg_read_raw(r, "", 1, &s, e);
    if (rc != 0)
        return rc;
    *out = type == MSG_BOOL    ? json_boolean(flag)
           : type == MSG_INT   ? json_integer(number)
           : type == MSG_FLOAT ? json_real(shortest(real))
           : type == MSG_STR   ? json_stringn((const char *)s.at, s.len)
                               : json_null();
    return *out ? 0 : err_set(e, ASSAY_EBADMSG, "message: a value that JSON cannot hold");
}

static int read_value(struct msg_reader *r, int depth, json_t **out, struct err *e)
{
    enum msg_type type = msg_peek(r);
    *out = NULL;
    if (type == MSG_MAP || type == MSG_ARRAY)
        return read_container(r, type, depth, out, e);
    if (type == MSG_NIL || type == MSG_BOOL || type == MSG_INT || type == MSG_FLOAT ||
        type == MSG_STR)
        return read_scalar(r, type, out, e);
    return msg_unexpected(r, "", "a value that JSON has", e);
}

int msg_read_json(struct msg_reader *r, json_t **value, struct err *e)
{
    return read_value(r, MSG_MAX_DEPTH, value, e);
}
