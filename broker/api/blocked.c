/* blocked.c - see blocked.h. */
#include "broker/api/blocked.h"

#include <stdio.h>

#include "broker/api/catalog.h"

struct look {
    const struct broker *broker;
    char *why;
};

/* Returns how the last start of one of the model's groups failed. NULL: a group is ready, or nothing
 * failed. */
static const char *failure_of(const struct broker *b, int place)
{
    const char *why = NULL;
    int exit_code;
    for (int g = served_next_group(b, 0); g < b->n_groups; g = served_next_group(b, g + 1)) {
        if (served_of_group(b, g)->number != (uint32_t)place)
            continue;
        if (group_state(b->groups[g]) == GROUP_READY)
            return NULL;
        if (!why && group_failed_starts(b->groups[g]) > 0)
            why = group_last_failure(b->groups[g], &exit_code);
    }
    return why;
}

static void look_at_model(void *arg, int64_t mode)
{
    struct look *look = arg;
    const struct broker *b = look->broker;
    int place = store_place_of(b->store, mode);
    const char *failure = place < 0 || look->why[0] ? NULL : failure_of(b, place);
    if (failure && b->catalog->n > 1)
        snprintf(look->why, BLOCKED_BYTES, "model '%s': %s", b->models[place]->info.name, failure);
    else if (failure)
        snprintf(look->why, BLOCKED_BYTES, "%s", failure);
}

int blocked_why(struct broker *b, int64_t job, char why[BLOCKED_BYTES], struct err *e)
{
    struct look look = {b, why};
    why[0] = '\0';
    int rc = store_job_modes(b->store, job, look_at_model, &look, e);
    return rc < 0 ? rc : 0;
}
