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
