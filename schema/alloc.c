/* alloc.c - calloc, and the end of the process where it fails (alloc.h). */
#include "schema/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "schema/log.h"

void *xcalloc(unsigned long n, unsigned long bytes)
{
    void *p = calloc(n ? n : 1, bytes ? bytes : 1);
    if (!p)
        die(71, "event=out_of_memory wanted=%lu x %lu bytes", n, bytes);
    return p;
}

void *xgrow(void *old, unsigned long n, unsigned long room, unsigned long bytes)
{
    void *more = xcalloc(room, bytes);
    if (n > 0)
        memcpy(more, old, n * bytes);
    free(old);
    return more;
}
