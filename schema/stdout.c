/* stdout.c - flushes stdout, and reports what could not be written (stdout.h). */
#include "schema/stdout.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sysexits.h>

int stdout_end(const char *program)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    fprintf(stderr, "%s: cannot write the output%s%s\n", program, errno ? ": " : "",
        errno ? strerror(errno) : "");
    return EX_IOERR;
}
