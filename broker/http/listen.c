/* listen.c - see listen.h. */
#include "broker/http/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "broker/http/acceptor.h"
#include "broker/http/exchange.h"
#include "schema/alloc.h"
#include "schema/log.h"
#include "schema/regular.h"

#define THREADS 2
#define HEAD_BYTES 32768 /* of a connection: its head and a piece of its body or reply */
#define PEM_BYTES (1 << 20)
#define BACKLOG 1024

struct listener {
    struct MHD_Daemon *daemon;
    struct acceptor *acceptor; /* of a socket that outlives us; NULL: the daemon accepts */
    int fd, daemon_has_fd;     /* which closes it when it stops */
    atomic_int takes_none;
    char *cert, *key;
};

/* ---- address ---- */

/* "HOST:PORT" or "[ADDRESS]:PORT". */
static int split(const char *text, char host[256], char port[16], struct err *e)
{
    const char *colon = strrchr(text, ':');
    size_t len = colon ? (size_t)(colon - text) : 0;
    int is_bracketed = len > 1 && text[0] == '[' && text[len - 1] == ']';
    if (!colon || len == 0 || len >= 256 || strlen(colon + 1) == 0 || strlen(colon + 1) > 5 ||
        strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > 65535 ||
        (!is_bracketed && memchr(text, ':', len)))
        return err_set(e, ASSAY_EBADREQ,
            "--listen: expected HOST:PORT, as 127.0.0.1:8000 or [::1]:8000, found '%.200s'", text);
    snprintf(host, 256, "%.*s", (int)(is_bracketed ? len - 2 : len), text + is_bracketed);
    snprintf(port, 16, "%s", colon + 1);
    return 0;
}

static int is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)a)->sin6_addr);
}

static const char *listens(const struct server *s)
{
    return s->inherited_fd ? "LISTEN_FDS" : "--listen";
}

static int check_address(const struct server *s, const struct sockaddr *a, struct err *e)
{
    if (is_loopback(a) || s->keys) {
        if (!is_loopback(a) && !s->options->tls_cert)
            log_warn("event=no_tls reason=\"API keys and texts go over the network in the clear; "
                     "--tls-cert and --tls-key encrypt them\"");
        return 0;
    }
    return err_set(e, ASSAY_EUNAUTHORIZED,
        "%s %s: expected an address of this machine alone, as 127.0.0.1:8000, or --api-keys",
        listens(s), s->inherited_fd ? "(the socket of systemd)" : s->options->listen);
}

static int bind_to(const struct server *s, const struct addrinfo *a, struct err *e)
{
    int one = 1, rc = check_address(s, a->ai_addr, e);
    if (rc != 0)
        return rc;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(e, ASSAY_EIO, "--listen %s", s->options->listen);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    rc = err_errno(e, ASSAY_EIO, "--listen %s", s->options->listen);
    close(fd);
    return rc;
}

/* Takes the socket that was given, if its address may be answered. */
static int take_inherited(struct server *s, struct err *e)
{
    struct sockaddr_storage a = {0};
    socklen_t size = sizeof a;
    if (getsockname(s->inherited_fd, (struct sockaddr *)&a, &size) != 0)
        return err_errno(e, ASSAY_EIO, "LISTEN_FDS");
    int rc = check_address(s, (struct sockaddr *)&a, e);
    return rc == 0 ? s->inherited_fd : rc;
}

/* Returns a socket that listens, or a code. */
static int open_socket(struct server *s, struct err *e)
{
    if (s->inherited_fd)
        return take_inherited(s, e);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    char host[256], port[16];
    int rc = split(s->options->listen, host, port, e);
    if (rc != 0)
        return rc;
    int why = getaddrinfo(host, port, &hints, &found);
    if (why != 0)
        return err_set(e, ASSAY_EBADREQ, "--listen %s: %s", s->options->listen, gai_strerror(why));
    rc = bind_to(s, found, e);
    freeaddrinfo(found);
    return rc;
}

static void tell_address(const struct listener *l, const struct server *s)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    char host[INET6_ADDRSTRLEN] = "", port[8] = "";
    if (getsockname(l->fd, (struct sockaddr *)&a, &len) == 0)
        getnameinfo((struct sockaddr *)&a, len, host, sizeof host, port, sizeof port,
            NI_NUMERICHOST | NI_NUMERICSERV);
    int is_ipv6 = a.ss_family == AF_INET6;
    log_info("event=listening url=%s://%s%s%s:%s keys=%s%s",
        s->options->tls_cert ? "https" : "http", is_ipv6 ? "[" : "", host, is_ipv6 ? "]" : "", port,
        s->keys ? "yes" : "no", s->inherited_fd ? " socket=inherited" : "");
}

/* ---- libmicrohttpd ---- */

static void on_connection(void *cls, struct MHD_Connection *connection, void **context,
    enum MHD_ConnectionNotificationCode what)
{
    struct server *s = cls;
    struct peer *peer = *context;
    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *context = info ? peers_add(s->peers, info->connect_fd) : NULL;
    } else if (peer) {
        peers_remove(s->peers, &peer);
        *context = NULL;
    }
}

static void on_log(void *cls, const char *format, va_list arguments)
{
    char line[512];
    (void)cls;
    vsnprintf(line, sizeof line, format, arguments);
    line[strcspn(line, "\r\n")] = '\0';
    log_debug("event=http reason=\"%s\"", line);
}

static int read_pem(const char *path, char **text, struct err *e)
{
    FILE *f = regular_stream(path, NULL, e);
    if (!f)
        return e->code;
    *text = xcalloc(PEM_BYTES, 1);
    size_t n = fread(*text, 1, PEM_BYTES - 1, f);
    int is_whole = feof(f) && !ferror(f) && n > 0;
    fclose(f);
    return is_whole ? 0 : err_set(e, ASSAY_EFORMAT, "%s: expected a file in PEM", path);
}

/* MHD_quiesce_daemon is not for this: where one of its threads is faster to leave the socket, it ends
 * the process. */
static enum MHD_Result accepts(void *cls, const struct sockaddr *address, socklen_t size)
{
    struct listener *l = cls;
    (void)address;
    (void)size;
    return atomic_load(&l->takes_none) ? MHD_NO : MHD_YES;
}

static int start_daemon(struct listener *l, struct server *s, struct err *e)
{
    const struct http_options *o = s->options;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                     (o->tls_cert ? MHD_USE_TLS : 0) |
                     (s->inherited_fd ? MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ITC : 0);
    unsigned n_threads = s->inherited_fd ? 0 : THREADS; /* a pool needs a socket of its own */
    unsigned most = (unsigned)(o->max_connections > THREADS ? o->max_connections : THREADS);
    struct MHD_OptionItem own[] = {
        {MHD_OPTION_LISTEN_SOCKET, l->fd, NULL}, {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, l->cert},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, l->key}, {MHD_OPTION_END, 0, NULL}};
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    l->daemon = MHD_start_daemon(flags, 0, accepts, l, exchange_step, s, MHD_OPTION_EXTERNAL_LOGGER,
        on_log, NULL, MHD_OPTION_ARRAY, s->inherited_fd ? none : own, MHD_OPTION_THREAD_POOL_SIZE,
        n_threads, MHD_OPTION_CONNECTION_LIMIT, most, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)HEAD_BYTES, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(PEERS_IDLE_MS / 1000),
        MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, exchange_end, s,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_ARRAY, o->tls_cert ? tls : none,
        MHD_OPTION_END);
    if (l->daemon && s->inherited_fd)
        return acceptor_new(&l->acceptor, l->fd, l->daemon, most, e);
    if (l->daemon) {
        l->daemon_has_fd = 1;
        return 0;
    }
    l->fd = -1; /* it is closed: by then the number may be another thread's */
    return err_set(e, ASSAY_EIO, "--listen %s: the server does not start%s", o->listen,
        o->tls_cert ? "; do --tls-cert and --tls-key belong together?" : "");
}

int listener_new(struct listener **out, struct server *s, struct err *e)
{
    struct listener *l = xcalloc(1, sizeof *l);
    const struct http_options *o = s->options;
    int rc = 0;
    l->fd = -1;
    if (o->tls_cert && (rc = read_pem(o->tls_cert, &l->cert, e)) == 0)
        rc = read_pem(o->tls_key, &l->key, e);
    if (rc == 0)
        rc = l->fd = open_socket(s, e);
    if (rc >= 0)
        rc = start_daemon(l, s, e);
    *out = l;
    if (rc == 0)
        tell_address(l, s);
    else
        listener_free(out);
    return rc;
}

void listener_quiesce(struct listener *l)
{
    if (l->acceptor)
        acceptor_free(&l->acceptor); /* others wait for the next process */
    else
        atomic_store(&l->takes_none, 1);
}

void listener_free(struct listener **out)
{
    struct listener *l = *out;
    *out = NULL;
    if (!l)
        return;
    acceptor_free(&l->acceptor);
    if (l->daemon)
        MHD_stop_daemon(l->daemon);
    if (l->fd >= 0 && !l->daemon_has_fd)
        close(l->fd);
    free(l->cert);
    free(l->key);
    free(l);
}
