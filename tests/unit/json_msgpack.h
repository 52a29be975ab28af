/* json_msgpack.h - packs JSON, in the order of its keys, as the programs' msgpack. */
#ifndef ASSAY_TESTS_JSON_MSGPACK_H
#define ASSAY_TESTS_JSON_MSGPACK_H

#include <jansson.h>

#include "schema/msg.h"

static inline void pack_json(struct msg_writer *w, const json_t *v)
{
    const char *key;
    json_t *item;
    size_t i;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        msg_map(w, (uint32_t)json_object_size(v));
        json_object_foreach((json_t *)v, key, item)
        {
            msg_str(w, key);
            pack_json(w, item);
        }
        break;
    case JSON_ARRAY:
        msg_array(w, (uint32_t)json_array_size(v));
        json_array_foreach(v, i, item) pack_json(w, item);
        break;
    case JSON_STRING:
        msg_str_len(w, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        msg_int(w, json_integer_value(v));
        break;
    case JSON_REAL:
        msg_double(w, json_real_value(v));
        break;
    case JSON_NULL:
        msg_nil(w);
        break;
    default:
        msg_bool(w, json_is_true(v));
    }
}

#endif
