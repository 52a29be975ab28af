/* spawn.c - forks, prepares and runs a child, reads what it says, and reaps it (spawn.h). */
#include "broker/workers/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef SYS_close_range
#define SYS_close_range 436 /* the same on every architecture */
#endif

/* 1: a child needs this variable ("NAME=value"). A broker's environment may hold secrets: tokens,
 * keys, a proxy's password. */
static int is_passed_on(const char *variable)
{
    static const char *const names[] = {"PATH=", "HOME=", "LANG=", "LC_",
        "TMPDIR=", "TZ=", "LD_LIBRARY_PATH=", "CUDA_", "NCCL_", "NVIDIA_",
        "ASAN_OPTIONS=", "UBSAN_OPTIONS=", "LSAN_OPTIONS=", "TSAN_OPTIONS=", "ASSAY_"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return 1;
    return 0;
}

/* Returns the variables that a child needs. The caller frees the list, not the strings. */
static char **short_environment(void)
{
    size_t n = 0, kept = 0;
    while (environ[n])
        n++;
    char **list = xcalloc(n + 1, sizeof *list);
    for (size_t i = 0; i < n; i++)
        if (is_passed_on(environ[i]))
            list[kept++] = environ[i];
    return list;
}

/* Runs in the child. Every descriptor above 2 becomes close-on-exec, then the kept ones are cleared
 * of it. */
static void enter(const struct child_options *o, char *const environment[], pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(126); /* nothing would end this child */
    struct rlimit no_core = {0, 0};
    sigset_t none;
    int null = open("/dev/null", O_RDONLY), adj = open("/proc/self/oom_score_adj", O_WRONLY);
    if (adj >= 0 && write(adj, "500", 3) < 0)
        _exit(126);
    setrlimit(RLIMIT_CORE, &no_core);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(null, STDIN_FILENO);
    if (o->stdout_fd >= 0)
        dup2(o->stdout_fd, STDOUT_FILENO);
    if (o->stderr_fd >= 0)
        dup2(o->stderr_fd, STDERR_FILENO);
    syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */);
    for (int i = 0; i < o->n_keep; i++)
        fcntl(o->keep[i], F_SETFD, 0);
    execve(o->argv[0], o->argv, environment);
    const char *why = strerror(errno);
    struct pollfd words = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&words, 1, 0) > 0) /* a pipe that nobody reads must not keep the child */
        dprintf(STDERR_FILENO, "cannot run %s: %s\n", o->argv[0], why);
    _exit(127);
}

int program_beside(char *path, size_t size, const char *name, struct err *e)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 1);
    path[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(path, '/');
    size_t used = slash ? (size_t)(slash - path) + 1 : 0;
    if (snprintf(path + used, size - used, "%s", name) >= (int)(size - used))
        return err_set(e, ASSAY_EIO, "the path of %s is too long", name);
    return 0;
}

int child_start(struct child *c, const struct child_options *o, struct err *e)
{
    *c = (struct child){.pidfd = -1};
    pid_t parent = getpid();
    char **environment = short_environment(); /* no allocation between fork and exec */
    c->pid = fork();
    if (c->pid == 0)
        enter(o, environment, parent);
    int failed = c->pid < 0 ? err_errno(e, ASSAY_EIO, "cannot start %s", o->argv[0]) : 0;
    free(environment);
    if (failed)
        return failed;
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

/* 1: fd is readable within wait_ms. */
static int wait_readable(int fd, int wait_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    long long until_ms = now_mono_ms() + wait_ms;
    int rc;
    do {
        long long left = until_ms - now_mono_ms();
        rc = poll(&p, 1, left > 0 ? (int)left : 0);
    } while (rc < 0 && errno == EINTR);
    return rc > 0;
}

/* Waits for the end of a child whose pidfd is readable. If another process traces the child (a
 * debugger, a leak checker), its end shows before it can be reaped: the tracer reaps first. */
static int take_end(const struct child *c, long long until_ms, siginfo_t *info)
{
    struct timespec nap = {.tv_nsec = 1000000};
    int rc;
    while ((rc = waitid((idtype_t)P_PIDFD, (id_t)c->pidfd, info, WEXITED | WNOHANG)) == 0 &&
           info->si_pid == 0 && now_mono_ms() < until_ms)
        nanosleep(&nap, NULL);
    return rc;
}

int child_reap(struct child *c, int wait_ms, int *exit_code, int *signal)
{
    siginfo_t info = {0};
    long long until_ms = now_mono_ms() + wait_ms;
    if (c->pidfd < 0 || !wait_readable(c->pidfd, wait_ms))
        return 0;
    int rc = take_end(c, until_ms, &info);
    if (rc == 0 && info.si_pid == 0)
        return 0;
    *exit_code = rc == 0 && info.si_code == CLD_EXITED ? info.si_status : -1;
    *signal = rc == 0 && info.si_code != CLD_EXITED ? info.si_status : 0;
    close(c->pidfd);
    c->pidfd = -1;
    return 1;
}

int child_was_stopped(const struct child *c)
{
    siginfo_t info = {0};
    int last = 0;
    while (c->pidfd >= 0 &&
           waitid((idtype_t)P_PIDFD, (id_t)c->pidfd, &info, WSTOPPED | WCONTINUED | WNOHANG) == 0 &&
           info.si_pid != 0) {
        last = info.si_code == CLD_CONTINUED ? -1 : 1;
        info.si_pid = 0;
    }
    return last;
}

void child_end(struct child *c, long long until_mono_ms, int *exit_code, int *signal)
{
    long long left_ms = until_mono_ms - now_mono_ms();
    child_kill(c);
    if (c->pidfd < 0 || child_reap(c, left_ms > 0 ? (int)left_ms : 0, exit_code, signal))
        return;
    log_error("event=child_not_killed pid=%d", (int)c->pid);
    close(c->pidfd);
    c->pidfd = -1;
}

/* ---- what a child says ---- */

struct output {
    int fd; /* -1 at end of file */
    size_t n;
    struct child_text to;
};

/* Reads once. When there is no room, drops the older half. */
static void read_some(struct output *o)
{
    char *text = o->to.text;
    if (o->n + 1 >= o->to.size) {
        memmove(text, text + o->n / 2, o->n - o->n / 2);
        o->n -= o->n / 2;
    }
    ssize_t got = read(o->fd, text + o->n, o->to.size - 1 - o->n);
    if (got > 0)
        o->n += (size_t)got;
    if (got == 0 || (got < 0 && errno != EINTR))
        o->fd = -1;
    text[o->n] = '\0';
}

enum { BOTH_ENDED, SILENT, STOPPED };

/* Reads both pipes at once: a child that fills one must not wait for the other. SILENT: nothing
 * came for silence_ms; STOPPED: stop_fd is readable. */
static int read_both(struct output *a, struct output *b, int silence_ms, int stop_fd)
{
    long long until_ms = now_mono_ms() + silence_ms;
    while (a->fd >= 0 || b->fd >= 0) {
        struct pollfd fds[3] = {{.fd = a->fd, .events = POLLIN}, {.fd = b->fd, .events = POLLIN},
            {.fd = stop_fd, .events = POLLIN}};
        long long left = until_ms - now_mono_ms();
        if (left <= 0 || (poll(fds, 3, (int)left) < 0 && errno != EINTR))
            return SILENT;
        if (fds[2].revents)
            return STOPPED;
        if (fds[0].revents || fds[1].revents)
            until_ms = now_mono_ms() + silence_ms;
        if (fds[0].revents)
            read_some(a);
        if (fds[1].revents)
            read_some(b);
    }
    return BOTH_ENDED;
}

/* Reads both pipes until the child ends, or kills it after too long a silence, or when it is to
 * stop. Returns its exit code, or negative. */
static int take_words(struct child *c, const char *name, struct output *out, struct output *words,
    struct child_limits limits, struct err *e)
{
    int exit_code = -1, signal = 0, limit_ms = limits.silence_ms,
        how = read_both(out, words, limit_ms, limits.stop_fd);
    if (how != BOTH_ENDED || !child_reap(c, limit_ms, &exit_code, &signal))
        child_end(c, now_mono_ms() + CHILD_END_MS, &exit_code, &signal);
    if (how == STOPPED)
        return err_set(e, ASSAY_ENOTREADY, "%s was stopped", name);
    if (how == SILENT)
        return err_set(
            e, ASSAY_EFORMAT, "%s did not end, and said nothing for %d s", name, limit_ms / 1000);
    if (signal)
        return err_set(e, ASSAY_EFORMAT, "%s died of signal %d", name, signal);
    return exit_code;
}

int child_output(char *const argv[], struct child_limits limits, struct child_text out,
    struct child_text words, struct err *e)
{
    int output[2], error[2];
    struct child child;
    char name[256];
    snprintf(name, sizeof name, "%.200s %.40s", argv[0], argv[1] ? argv[1] : "");
    if (pipe2(output, O_CLOEXEC) != 0)
        return err_errno(e, ASSAY_EIO, "pipe");
    if (pipe2(error, O_CLOEXEC) != 0) {
        close(output[0]);
        close(output[1]);
        return err_errno(e, ASSAY_EIO, "pipe");
    }
    int rc = child_start(&child, &(struct child_options){argv, NULL, 0, output[1], error[1]}, e);
    close(output[1]);
    close(error[1]);
    if (rc == 0) {
        struct output result = {output[0], 0, out}, why = {error[0], 0, words};
        rc = take_words(&child, name, &result, &why, limits, e);
    }
    close(output[0]);
    close(error[0]);
    return rc;
}

const char *child_last_line(char *words, const char *otherwise)
{
    size_t n = strlen(words);
    while (n > 0 && words[n - 1] == '\n')
        words[--n] = '\0';
    char *last = strrchr(words, '\n');
    return n == 0 ? otherwise : last ? last + 1 : words;
}
