/* alloc.c - calloc, and the end of the process where it fails (alloc.h). */
#include "schema/alloc.h"

#include <stdlib.h>

#include "schema/log.h"

void *xcalloc(unsigned long n, unsigned long bytes)
{
    void *p = calloc(n ? n : 1, bytes ? bytes : 1);
    if (!p)
        die(71, "event=out_of_memory wanted=%lu x %lu bytes", n, bytes);
    return p;
}
