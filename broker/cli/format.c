/* format.c - `--format openai-batch`: what goes with it, and the models as its lines call them
 * (cli.h, connect.h). */
#include <string.h>

#include "broker/cli/connect.h"

int cli_is_batch(const struct cli *c)
{
    const char *format = c->value[CLI_FORMAT];
    return format && strcmp(format, "openai-batch") == 0;
}

int cli_check_format(const struct cli *c)
{
    static const enum cli_option of_rows[] = {CLI_KEEP_INPUT, CLI_POOL, CLI_ACTIVATION,
        CLI_STEP_TOKEN, CLI_TRUNCATE, CLI_MAX_LENGTH, CLI_TRUNCATION_SIDE, CLI_KEEP_LAST,
        CLI_SAFE_TEXT, CLI_JOIN_CONTENT, CLI_GENERATION_PROMPT, CLI_PAD_RULE, CLI_MODELS,
        CLI_FIELD};
    if (c->value[CLI_SERVED_NAME] && !cli_is_batch(c))
        return cli_usage("--served-model-name: expected with --format openai-batch, found without");
    for (size_t i = 0; cli_is_batch(c) && i < sizeof of_rows / sizeof of_rows[0]; i++)
        if (c->value[of_rows[i]])
            return cli_usage("--%s: expected without --format openai-batch, whose lines say in "
                             "their bodies how they are scored",
                cli_option_info(of_rows[i])->name);
    return 0;
}

/* The names that lines may call the first model by, in `list`, an array. */
static void take_names(const struct cli *c, const json_t *info, json_t *list)
{
    const char *given = c->value[CLI_SERVED_NAME];
    for (size_t n; given; given = given[n] ? given + n + 1 : NULL) {
        n = strcspn(given, ",");
        json_array_append_new(list, json_stringn(given, n));
    }
    if (json_array_size(list) == 0 && c->value[CLI_MODEL])
        json_array_append_new(list, json_string(c->value[CLI_MODEL]));
    json_t *own = json_object_get(json_array_get(json_object_get(info, "models"), 0), "name"),
           *name;
    size_t k;
    int is_there = 0;
    json_array_foreach(list, k, name) is_there |= json_equal(name, own);
    if (!is_there)
        json_array_append(list, own);
}

int cli_card(const struct cli *c, struct client *client, struct card **card, struct err *e)
{
    const char *names[CARD_MAX_NAMES];
    json_t *info = NULL, *list = json_array(), *name;
    size_t k, n = 0;
    client_begin(client, "info", 0);
    int rc = client_call_patiently(client, 0, &info, e);
    if (rc == 0)
        take_names(c, info, list);
    if (rc == 0 && json_array_size(list) > CARD_MAX_NAMES)
        rc = err_set(
            e, ASSAY_EBADREQ, "--served-model-name: expected at most %d names", CARD_MAX_NAMES - 1);
    json_array_foreach(list, k, name)
    {
        if (rc == 0)
            names[n++] = json_string_value(name);
    }
    json_object_set_new(info, "names", list); /* the card borrows them from itself */
    if (rc == 0)
        return card_new(card, info, names, (int)n, e);
    json_decref(info);
    return rc;
}
