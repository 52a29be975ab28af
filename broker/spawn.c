/* spawn.c - see spawn.h. */
#include "broker/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* In the child: whatever is inherited here was made close-on-exec, so only what is kept must be
 * cleared of it. */
static void enter(char *const argv[], const int *keep, int n_keep, int stdout_fd, int stderr_fd)
{
    struct rlimit no_core = {0, 0};
    sigset_t none;
    int null = open("/dev/null", O_RDONLY), adj = open("/proc/self/oom_score_adj", O_WRONLY);
    if (adj >= 0 && write(adj, "500", 3) < 0)
        _exit(126);
    setrlimit(RLIMIT_CORE, &no_core);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(null, STDIN_FILENO);
    if (stdout_fd >= 0)
        dup2(stdout_fd, STDOUT_FILENO);
    if (stderr_fd >= 0)
        dup2(stderr_fd, STDERR_FILENO);
    syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    for (int i = 0; i < n_keep; i++)
        fcntl(keep[i], F_SETFD, 0);
    execv(argv[0], argv);
    dprintf(STDERR_FILENO, "cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int child_start(struct child *c, char *const argv[], const int *keep, int n_keep, int stdout_fd,
    int stderr_fd, struct err *e)
{
    *c = (struct child){.pidfd = -1};
    c->pid = fork();
    if (c->pid < 0)
        return err_errno(e, ASSAY_EIO, "cannot start %s", argv[0]);
    if (c->pid == 0)
        enter(argv, keep, n_keep, stdout_fd, stderr_fd);
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0u);
    if (c->pidfd >= 0)
        return 0;
    int rc = err_errno(e, ASSAY_EIO, "pidfd_open");
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
    return rc;
}

void child_kill(const struct child *c)
{
    if (c->pidfd >= 0)
        syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0u);
}

int child_reap(struct child *c, int block, int *exit_code, int *signal)
{
    siginfo_t info = {0};
    int rc;
    if (c->pidfd < 0)
        return 0;
    do
        rc = waitid((idtype_t)P_PIDFD, (id_t)c->pidfd, &info, WEXITED | (block ? 0 : WNOHANG));
    while (rc != 0 && errno == EINTR);
    if (rc == 0 && info.si_pid == 0)
        return 0;
    *exit_code = rc == 0 && info.si_code == CLD_EXITED ? info.si_status : -1;
    *signal = rc == 0 && info.si_code != CLD_EXITED ? info.si_status : 0;
    close(c->pidfd);
    c->pidfd = -1;
    return 1;
}
