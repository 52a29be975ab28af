/* side_truncation.c - reads truncation_side, direction and model_max_length (side_truncation.h). */
#include "broker/text/side_truncation.h"

#include <string.h>

#include "schema/json.h"

static int is_text(const json_t *v, const char *text)
{
    return json_is_string(v) && strcmp(json_string_value(v), text) == 0;
}

static uint32_t read_max_length(const json_t *config)
{
    const json_t *v = json_object_get(config, "model_max_length");
    if (!v)
        v = json_object_get(config, "max_len"); /* its older name */
    double n = json_number_value(v);
    if (!json_is_number(v) || !(n < UINT32_MAX))
        return UINT32_MAX;
    return n < 1 ? 1 : (uint32_t)n;
}

int side_truncation_read(
    const json_t *config, const json_t *tokenizer, struct side_truncation *t, struct err *e)
{
    const json_t *side = json_object_get(config, "truncation_side");
    const json_t *own = json_object_get(json_object_get(tokenizer, "truncation"), "direction");
    t->max_length = read_max_length(config);
    t->is_left = side ? is_text(side, "left") : is_text(own, "Left");
    if (side && !t->is_left && !is_text(side, "right"))
        return err_set(e, ASSAY_EFORMAT,
            "tokenizer_config.json: truncation_side: expected right or left, found %s%s",
            json_is_string(side) ? "" : "another kind of value",
            json_is_string(side) ? json_string_value(side) : "");
    return 0;
}
