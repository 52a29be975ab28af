/* verify_report.c - see verify_report.h. */
#include "broker/cli/verify_report.h"

#include <stdio.h>
#include <string.h>

#include "broker/cli/json_print.h"

static int is_equal(const struct verify_check *c)
{
    return !c->error && c->n_now == c->n_values &&
           memcmp(c->stored, c->now, c->n_values * sizeof *c->now) == 0;
}

static json_t *float_list(const float *values, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t k = 0; k < n; k++)
        json_array_append_new(list, json_real((double)values[k]));
    return list;
}

static json_t *difference(const struct verify_check *c)
{
    json_t *now = c->error ? json_null()
                           : float_list(c->now, c->n_now < c->n_values ? c->n_now : c->n_values);
    return json_pack("{s:I, s:O, s:o, s:o, s:O?}", "i", (json_int_t)c->i, "id", c->id, "stored",
        float_list(c->stored, c->n_values), "now", now, "error", c->error);
}

static void print_difference(const struct verify_check *c)
{
    printf("row %u, id ", c->i);
    json_print(stdout, c->id, 0);
    printf(": ");
    if (c->error) {
        printf("stored a score, now %s\n", json_string_value(json_object_get(c->error, "code")));
        return;
    }
    if (c->n_now != c->n_values) {
        printf("stored %u values, now %u\n", c->n_values, c->n_now);
        return;
    }
    uint32_t k = 0;
    while (memcmp(&c->stored[k], &c->now[k], sizeof c->now[k]) == 0)
        k++;
    if (c->n_values > 1)
        printf("value %u of %u: ", k, c->n_values);
    printf("stored %.9g, now %.9g\n", (double)c->stored[k], (double)c->now[k]);
}

int verify_report(const struct cli *c, const struct verify_result *v)
{
    json_t *differ = json_array();
    struct err e = {0};
    int as_json = c->value[CLI_JSON] != NULL, rc = EX_OK;
    size_t n = v->n_compared, n_equal = 0, n_other_mode = 0;
    for (size_t k = 0; k < n; k++) {
        n_other_mode += v->checks[k].is_other_mode != 0;
        if (is_equal(&v->checks[k]))
            n_equal++;
        else if (as_json)
            json_array_append_new(differ, difference(&v->checks[k]));
        else
            print_difference(&v->checks[k]);
    }
    if (as_json) {
        json_t *all = json_pack("{s:I, s:s, s:I, s:I, s:I, s:O}", "job", (json_int_t)v->job, "key",
            v->key, "compared", (json_int_t)n, "equal", (json_int_t)n_equal, "other_mode",
            (json_int_t)n_other_mode, "differ", differ);
        rc = json_print_line(stdout, all, &e) == 0 ? EX_OK : cli_fail(&e);
        json_decref(all);
    } else {
        printf("job %lld: %zu row%s scored again, %zu equal in every bit, %zu not\n",
            (long long)v->job, n, cli_s((int64_t)n), n_equal, n - n_equal);
        if (n_other_mode > 0)
            printf("scored under another checkpoint or mode than the broker has now: %zu of them\n",
                n_other_mode);
    }
    json_decref(differ);
    return rc == EX_OK && n_equal < n ? EX_ROWS_FAILED : rc;
}
