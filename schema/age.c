/* age.c - see age.h. */
#include "schema/age.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

int age_read(const char *text, char unit, int64_t *seconds)
{
    static const char units[] = "dhms";
    static const int64_t lengths[] = {86400, 3600, 60, 1};
    char *end;
    if (!isdigit((unsigned char)*text))
        return -1;
    long long n = strtoll(text, &end, 10);
    char found = *end ? *end : unit;
    const char *at = found ? strchr(units, found) : NULL;
    if (!at || (*end && end[1]) || n > INT32_MAX / lengths[at - units])
        return -1;
    *seconds = n * lengths[at - units];
    return 0;
}
