/* reply.h - reads members of a broker's reply (JSON). */
#ifndef ASSAY_REPLY_H
#define ASSAY_REPLY_H

#include <jansson.h>
#include <stdint.h>
#include <string.h>

/* 0 if the member is absent or not an integer. */
static inline int64_t reply_int(const json_t *reply, const char *key)
{
    return json_integer_value(json_object_get(reply, key));
}

/* "" if the member is absent or not a string. Borrowed from the reply. */
static inline const char *reply_text(const json_t *reply, const char *key)
{
    const char *s = json_string_value(json_object_get(reply, key));
    return s ? s : "";
}

/* Is this job done or cancelled? */
static inline int reply_is_over(const json_t *job)
{
    const char *state = reply_text(job, "state");
    return strcmp(state, "done") == 0 || strcmp(state, "cancelled") == 0;
}

#endif
