/* inherited.c - see inherited.h. */
#include "broker/http/inherited.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_FD 3

/* The value of an option of the socket; -1: it is none. */
static int option(int fd, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

static int check(int fd, struct err *e)
{
    int domain = option(fd, SO_DOMAIN);
    if ((domain == AF_INET || domain == AF_INET6) && option(fd, SO_TYPE) == SOCK_STREAM &&
        option(fd, SO_ACCEPTCONN) == 1)
        return 0;
    return err_set(e, ASSAY_EBADREQ,
        "LISTEN_FDS: expected a TCP socket that listens as descriptor %d, found %s", fd,
        domain < 0 ? "no socket" : "another socket");
}

int inherited_socket(const char *fds, const char *pid, struct err *e)
{
    if (!fds || !pid || atoll(pid) != (long long)getpid() || strcmp(fds, "0") == 0)
        return 0;
    if (strcmp(fds, "1") != 0)
        return err_set(e, ASSAY_EBADREQ, "LISTEN_FDS: expected one socket, found '%.20s'", fds);
    int rc = check(FIRST_FD, e);
    if (rc == 0 && (fcntl(FIRST_FD, F_SETFD, FD_CLOEXEC) != 0 ||
                       fcntl(FIRST_FD, F_SETFL, fcntl(FIRST_FD, F_GETFL) | O_NONBLOCK) != 0))
        rc = err_errno(e, ASSAY_EIO, "LISTEN_FDS");
    return rc == 0 ? FIRST_FD : rc;
}
