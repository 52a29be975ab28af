/* connections.c - see connections.h. */
#include "broker/connections.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int connections_end(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT_MAX)
        return INT_MAX;
    return limit.rlim_cur > 2 * CONNECTIONS_SPARE ? (int)limit.rlim_cur - CONNECTIONS_SPARE
                                                  : (int)limit.rlim_cur / 2;
}

int connections_are_full(void)
{
    int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    if (fd >= 0)
        close(fd);
    return fd < 0 ? errno == EMFILE : fd >= connections_end();
}

/* In place of the C library's, for libzmq too. */
int accept4(int listener, struct sockaddr *address, socklen_t *len, int flags)
{
    int fd = (int)syscall(SYS_accept4, listener, address, len, flags);
    if (fd < connections_end())
        return fd;
    close(fd);
    errno = ECONNABORTED; /* as of a client that has gone again */
    return -1;
}

int accept(int listener, struct sockaddr *address, socklen_t *len)
{
    return accept4(listener, address, len, 0);
}
