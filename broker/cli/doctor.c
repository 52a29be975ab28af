/* doctor.c - `assay doctor`: looks at what a broker needs of this machine, and says what to do where
 * something is wrong. The looks themselves are in doctor_machine.c
 * and doctor_data.c. */
#include "broker/cli/doctor.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>

#include "broker/cli/screen.h"

struct doctor {
    json_t *list; /* with --json; else NULL */
    int n_wrong;
};

static const char *const verdicts[] = {"ok", "warning", "wrong"};

enum doctor_verdict doctor_grade(double found, double least, double enough)
{
    return found < least ? DOCTOR_WRONG : found < enough ? DOCTOR_WARNING : DOCTOR_OK;
}

void doctor_say(struct doctor *d, enum doctor_verdict verdict, const char *name, const char *advice,
    const char *fmt, ...)
{
    char found[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(found, sizeof found, fmt, args);
    va_end(args);
    d->n_wrong += verdict == DOCTOR_WRONG;
    advice = verdict == DOCTOR_OK ? NULL : advice;
    if (d->list) {
        json_array_append_new(d->list, json_pack("{s:s, s:s, s:s, s:s?}", "name", name, "verdict",
                                           verdicts[verdict], "found", found, "advice", advice));
        return;
    }
    printf("%-8s %-15s ", verdicts[verdict], name);
    print_safely(stdout, found);
    if (advice)
        printf("; %s", advice);
    putchar('\n');
}

int verb_doctor(const struct cli *c)
{
    struct doctor d = {.list = c->value[CLI_JSON] ? json_array() : NULL};
    const char *dir;
    int rc = cli_data_dir(c, &dir);
    if (rc != 0)
        return rc;
    doctor_look_at_machine(&d, c);
    doctor_look_at_data(&d, dir);
    if (d.list) {
        json_t *all = json_pack("{s:b, s:o}", "ok", d.n_wrong == 0, "checks", d.list);
        json_dumpf(all, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(all);
    }
    return d.n_wrong > 0 ? EX_CONFIG : EX_OK;
}
