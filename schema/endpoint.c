/* endpoint.c - takes an address apart, and compares each part with the forms that are allowed
 * (endpoint.h). */
#include "schema/endpoint.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define FORMS_LISTEN "ipc:///PATH, tcp://127.0.0.1:PORT or tcp://[::1]:PORT"
#define FORMS_CONNECT "ipc:///PATH or tcp://HOST:PORT"
#define MAX_HOST_BYTES 253

static int is_path(struct endpoint *out, const char *text, const char *path, struct err *e)
{
    struct sockaddr_un address;
    if (path[0] == '@')
        return err_set(e, ASSAY_EUNSUPPORTED,
            "endpoint '%s': a name that begins with @ is no file: whoever is on this machine may "
            "connect to it; expected ipc:///PATH (a file of that name is ipc://./%s)",
            text, path);
    if (path[0] == '\0' || strcmp(path, "*") == 0 || path[strlen(path) - 1] == '/')
        return err_set(
            e, ASSAY_EBADREQ, "endpoint '%s': expected ipc:///PATH with the socket's path", text);
    if (strlen(path) >= sizeof address.sun_path)
        return err_set(e, ASSAY_EBADREQ,
            "endpoint '%s': expected a path below %zu bytes, found %zu; use a shorter one", text,
            sizeof address.sun_path, strlen(path));
    out->path = path;
    return 0;
}

/* The whole text is a number from 1 to 65535, in its usual form. */
static int is_port(const char *text)
{
    size_t n = strspn(text, "0123456789");
    return n > 0 && n < 6 && text[n] == '\0' && text[0] != '0' && atoi(text) < 65536;
}

/* Its last part is not a number: that would be an address in a form not accepted here. */
static int is_host_name(const char *host)
{
    size_t n = strlen(host);
    const char *dot = strrchr(host, '.'), *last = dot ? dot + 1 : host;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)host[i]) && !strchr("-_.", host[i]))
            return 0;
    return n > 0 && host[0] != '-' && last[strspn(last, "0123456789")] != '\0';
}

static int beyond(const char *text, struct err *e)
{
    return err_set(e, ASSAY_EUNSUPPORTED,
        "endpoint '%s': tcp beyond this machine needs keys, which this version does not have; "
        "expected " FORMS_LISTEN,
        text);
}

static int is_address(
    struct endpoint *out, const char *text, char *host, enum endpoint_use use, struct err *e)
{
    struct in_addr four;
    struct in6_addr six;
    size_t n = strlen(host);
    int listens = use == ENDPOINT_LISTEN;
    if (inet_pton(AF_INET, host, &four) == 1)
        return listens && ntohl(four.s_addr) >> 24 != IN_LOOPBACKNET ? beyond(text, e) : 0;
    if (host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = '\0';
        out->is_ipv6 = inet_pton(AF_INET6, host + 1, &six) == 1;
        if (out->is_ipv6)
            return listens && !IN6_IS_ADDR_LOOPBACK(&six) ? beyond(text, e) : 0;
    } else if (is_host_name(host)) {
        return listens ? err_set(e, ASSAY_EBADREQ,
                             "endpoint '%s': expected an address in digits, as in "
                             "tcp://127.0.0.1:PORT, found the name '%s'",
                             text, host)
                       : 0;
    } else if (strcmp(host, "*") == 0 && listens) {
        return beyond(text, e);
    }
    return err_set(e, ASSAY_EBADREQ, "endpoint '%s': expected %s", text,
        listens ? FORMS_LISTEN : FORMS_CONNECT);
}

static int is_tcp(struct endpoint *out, const char *text, const char *address,
    enum endpoint_use use, struct err *e)
{
    char host[MAX_HOST_BYTES + 1] = "";
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || colon - address > MAX_HOST_BYTES)
        return err_set(e, ASSAY_EBADREQ, "endpoint '%s': expected %s", text,
            use == ENDPOINT_LISTEN ? FORMS_LISTEN : FORMS_CONNECT);
    memcpy(host, address, (size_t)(colon - address));
    int rc = is_address(out, text, host, use, e);
    if (rc == 0 && !is_port(colon + 1))
        rc = err_set(e, ASSAY_EBADREQ,
            "endpoint '%s': expected a port from 1 to 65535 at its end, found '%s'", text,
            colon + 1);
    return rc;
}

static int check_characters(const char *text, struct err *e)
{
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127)
            return err_set(e, ASSAY_EBADREQ, "endpoint '%s': expected no control character", text);
    return 0;
}

int endpoint_parse(struct endpoint *out, const char *text, enum endpoint_use use, struct err *e)
{
    *out = (struct endpoint){0};
    if (check_characters(text, e) != 0)
        return e->code;
    if (strncmp(text, "ipc://", 6) == 0)
        return is_path(out, text, text + 6, e);
    if (strncmp(text, "tcp://", 6) == 0)
        return is_tcp(out, text, text + 6, use, e);
    return err_set(e, ASSAY_EBADREQ, "endpoint '%s': expected %s", text,
        use == ENDPOINT_LISTEN ? FORMS_LISTEN : FORMS_CONNECT);
}

void endpoint_socket(char name[ENDPOINT_SOCKET_BYTES], int owner)
{
    int n = snprintf(name, ENDPOINT_SOCKET_BYTES, "broker.sock");
    if (owner > 0)
        snprintf(name + n, ENDPOINT_SOCKET_BYTES - (size_t)n, ".%d", owner);
}

int endpoint_in_dir(
    char out[ENDPOINT_BYTES], const char *dir, const char *name, int *dir_fd, struct err *e)
{
    struct sockaddr_un address;
    const char *here = dir[0] == '@' ? "./" : ""; /* ZeroMQ takes @d for a name that is no file */
    int n = snprintf(out, ENDPOINT_BYTES, "ipc://%s%s/%s", here, dir, name);
    if (n < (int)(strlen("ipc://") + sizeof address.sun_path))
        return check_characters(out, e) == 0 ? 0 : (e->code = ASSAY_EFORMAT);
    if (*dir_fd < 0)
        *dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dir_fd < 0)
        return err_errno(e, ASSAY_EIO, "directory '%s'", dir);
    n = snprintf(out, ENDPOINT_BYTES, "ipc:///proc/self/fd/%d", *dir_fd);
    if (access(out + strlen("ipc://"), F_OK) != 0)
        return err_errno(e, ASSAY_EIO,
            "directory '%s': a socket's path there has %zu bytes; expected below %zu, or /proc",
            dir, (size_t)n - strlen("ipc://"), sizeof address.sun_path);
    snprintf(out + n, ENDPOINT_BYTES - (size_t)n, "/%s", name);
    return 0;
}
