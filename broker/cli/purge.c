/* purge.c - `assay purge`: deletes finished and cancelled jobs. The broker deletes a limited number
 * for each request, so this asks until none is left. */
#include <inttypes.h>
#include <stdio.h>

#include "broker/cli/connect.h"
#include "schema/age.h"

static int read_age(const char *text, int64_t *seconds)
{
    if (age_read(text, 0, seconds) == 0)
        return 0;
    return cli_usage(
        "purge: --older-than: expected an age such as 7d, 12h, 30m or 0s, found '%s'", text);
}

/* Sends one request. age_s -1: of any age. */
static int ask(
    const struct cli *c, struct client *client, int64_t age_s, json_t **reply, struct err *e)
{
    struct msg_writer *w =
        client_begin(client, "purge", (uint32_t)(c->operand != NULL) + (uint32_t)(age_s >= 0));
    if (c->operand)
        cli_write_job(w, c->operand);
    if (age_s >= 0)
        msg_key_int(w, "older_than_s", age_s);
    return client_call_patiently(client, 0, reply, e);
}

static int purge_all(const struct cli *c, struct client *client, int64_t age_s)
{
    struct err e = {0};
    int64_t jobs = 0, rows = 0;
    int more = 1;
    while (more && !cli_interrupted()) {
        json_t *reply = NULL;
        if (ask(c, client, age_s, &reply, &e) != 0)
            return cli_fail(&e);
        jobs += json_integer_value(json_object_get(reply, "jobs"));
        rows += json_integer_value(json_object_get(reply, "rows"));
        more = json_is_true(json_object_get(reply, "more"));
        json_decref(reply);
    }
    if (c->value[CLI_JSON])
        printf("{\"jobs\":%" PRId64 ",\"rows\":%" PRId64 "}\n", jobs, rows);
    else
        printf(
            "%" PRId64 " job%s purged, %" PRId64 " row%s\n", jobs, cli_s(jobs), rows, cli_s(rows));
    return more ? EX_TEMPFAIL : EX_OK;
}

int verb_purge(const struct cli *c)
{
    struct client *client = NULL;
    int64_t age_s = -1;
    const char *age = c->value[CLI_OLDER_THAN];
    if (!age && !c->operand)
        return cli_usage("purge: expected --older-than AGE, a JOB, or both; found neither");
    int rc = age ? read_age(age, &age_s) : 0;
    if (rc == 0)
        rc = cli_connect(c, &client);
    if (rc == 0)
        rc = purge_all(c, client, age_s);
    client_free(&client);
    return rc;
}
