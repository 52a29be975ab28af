/* start.c - restores SIGCHLD and makes the JSON library end the process when memory runs out. */
#include "schema/start.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>

#include "schema/log.h"

static void *allocate(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        die(71, "event=out_of_memory wanted=%zu bytes", bytes);
    return p;
}

void start_process(void)
{
    signal(SIGCHLD, SIG_DFL);
    json_set_alloc_funcs(allocate, free);
}
