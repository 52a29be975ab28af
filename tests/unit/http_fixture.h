/* http_fixture.h - a model's card for decoders of HTTP bodies, without a broker. */
#ifndef ASSAY_TESTS_HTTP_FIXTURE_H
#define ASSAY_TESTS_HTTP_FIXTURE_H

#include <jansson.h>
#include <stdlib.h>

#include "broker/ask/ask.h"

/* A model as `info` has it, with an adapter. */
static inline json_t *http_model(
    const char *name, const char *pool_type, const char *activation, const char *adapter)
{
    return json_pack("{s:s, s:s, s:{s:s, s:s, s:i, s:i, s:{s:s, s:s}, s:[{s:s}]}}", "name", name,
        "mode", "device=cpu", "model", "name", name, "digest", name, "max_len", 512, "n_labels", 1,
        "pooling", "type", pool_type, "activation", activation, "adapters", "name", adapter);
}

/* Takes the models over. */
static inline struct card *http_card_of(json_t *models, const char *const *names, int n_names)
{
    struct card *card = NULL;
    struct err e = {0};
    json_t *info = json_pack("{s:s, s:i, s:{s:i, s:i}, s:o, s:[]}", "state", "ready", "started_ms",
        1, "limits", "max_rows_per_message", 100, "max_message_bytes", 1 << 20, "models", models,
        "workers");
    return card_new(&card, info, names, n_names, &e) == 0 ? card : NULL;
}

static inline struct card *http_card(const char *pool_type, const char *activation)
{
    return http_card_of(
        json_pack("[o]", http_model("reward", pool_type, activation, "math")), NULL, 0);
}

#endif
