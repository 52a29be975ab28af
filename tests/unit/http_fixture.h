/* http_fixture.h - a model's card for decoders of HTTP bodies, without a broker. */
#ifndef ASSAY_TESTS_HTTP_FIXTURE_H
#define ASSAY_TESTS_HTTP_FIXTURE_H

#include <jansson.h>
#include <stdlib.h>

#include "broker/http/ask.h"

static inline struct card *http_card(const char *pool_type, const char *activation)
{
    struct card *card = NULL;
    struct err e = {0};
    json_t *info = json_pack(
        "{s:s, s:s, s:i, s:{s:i, s:i}, s:{s:s, s:i, s:i, s:{s:s, s:s}, s:[{s:s}]}}", "mode",
        "device=cpu", "state", "ready", "started_ms", 1, "limits", "max_rows_per_message", 100,
        "max_message_bytes", 1 << 20, "model", "name", "reward", "max_len", 512, "n_labels", 1,
        "pooling", "type", pool_type, "activation", activation, "adapters", "name", "math");
    return card_new(&card, info, NULL, 0, &e) == 0 ? card : NULL;
}

#endif
