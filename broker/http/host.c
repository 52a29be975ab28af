/* host.c - see host.h. */
#include "broker/http/host.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define NAME_BYTES 256 /* the longest name that DNS has, and NUL */

/* Copies the host without port, brackets and the dot that ends a full name. Returns 0, or -1 for what
 * is none. *is_ipv6: it was in brackets. */
static int read_name(const char *text, char name[NAME_BYTES], int *is_ipv6)
{
    *is_ipv6 = text[0] == '[';
    const char *begin = text + *is_ipv6, *end = begin + strcspn(begin, *is_ipv6 ? "]" : ":");
    const char *behind = *is_ipv6 && *end ? end + 1 : end;
    size_t len = (size_t)(end - begin);
    if ((*is_ipv6 && !*end) || (*behind && *behind != ':') || len == 0 || len >= NAME_BYTES)
        return -1;
    if (*behind && strspn(behind + 1, "0123456789") != strlen(behind + 1))
        return -1;
    len -= !*is_ipv6 && begin[len - 1] == '.';
    snprintf(name, NAME_BYTES, "%.*s", (int)len, begin);
    return 0;
}

static int is_address(const char *name, int is_ipv6)
{
    struct in6_addr address;
    return inet_pton(is_ipv6 ? AF_INET6 : AF_INET, name, &address) == 1;
}

static int is_localhost(const char *name)
{
    static const char local[] = "localhost";
    size_t len = strlen(name), n = sizeof local - 1;
    return len >= n && strcasecmp(name + len - n, local) == 0 &&
           (len == n || name[len - n - 1] == '.');
}

int host_check(const char *host, const char *listens, struct err *e)
{
    char name[NAME_BYTES], own[NAME_BYTES];
    int is_ipv6, ignored;
    if (!host)
        return 0;
    if (read_name(host, name, &is_ipv6) == 0 &&
        (is_address(name, is_ipv6) ||
            (!is_ipv6 && (is_localhost(name) || (read_name(listens, own, &ignored) == 0 &&
                                                    strcasecmp(name, own) == 0)))))
        return 0;
    return err_field(e, ASSAY_EUNAUTHORIZED, "Host",
        "Host: expected an IP address, localhost or the name of --listen, as no keys are asked "
        "for, "
        "found '%.80s'; start assay-http with --api-keys FILE to serve it under other names",
        host);
}
