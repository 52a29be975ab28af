/* acceptor.c - see acceptor.h. */
#include "broker/http/acceptor.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/log.h"

#define PAUSE_MS 10 /* where there are too many connections, or descriptors */

struct acceptor {
    struct MHD_Daemon *daemon;
    int fd, stop_fd;
    unsigned most;
    pthread_t thread;
    int has_thread;
};

static int has_room(const struct acceptor *a)
{
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(a->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    return !info || info->num_connections < a->most;
}

/* Takes one connection. Returns 1 if it did, 0 where none can be taken now. */
static int take_one(const struct acceptor *a)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int fd = accept4(a->fd, (struct sockaddr *)&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return errno == EINTR || errno == ECONNABORTED;
    if (MHD_add_connection(a->daemon, fd, (struct sockaddr *)&address, size) != MHD_YES)
        log_debug(
            "event=connection_refused reason=\"the server takes no more\""); /* it is closed */
    return 1;
}

static void *run(void *arg)
{
    const struct acceptor *a = arg;
    struct pollfd fds[] = {{a->stop_fd, POLLIN, 0}, {a->fd, POLLIN, 0}};
    for (;;) {
        int is_full = !has_room(a);
        if (poll(fds, is_full ? 1 : 2, is_full ? PAUSE_MS : -1) < 0 && errno != EINTR)
            return NULL;
        if (fds[0].revents)
            return NULL;
        if (!is_full && fds[1].revents && !take_one(a))
            poll(fds, 1, PAUSE_MS);
    }
}

int acceptor_new(
    struct acceptor **out, int fd, struct MHD_Daemon *daemon, unsigned most, struct err *e)
{
    struct acceptor *a = xcalloc(1, sizeof *a);
    *a = (struct acceptor){.daemon = daemon, .fd = fd, .most = most};
    a->stop_fd = eventfd(0, EFD_CLOEXEC);
    int failed = a->stop_fd < 0;
    if (!failed)
        failed = (errno = pthread_create(&a->thread, NULL, run, a)) != 0;
    a->has_thread = !failed;
    *out = a;
    if (!failed)
        return 0;
    int rc = err_errno(e, ASSAY_EIO, "a thread for connections");
    acceptor_free(out);
    return rc;
}

void acceptor_free(struct acceptor **out)
{
    struct acceptor *a = *out;
    *out = NULL;
    if (!a)
        return;
    if (a->has_thread && eventfd_write(a->stop_fd, 1) == 0)
        pthread_join(a->thread, NULL);
    if (a->stop_fd >= 0)
        close(a->stop_fd);
    free(a);
}
