/* spawn.h - child processes that are known by a descriptor (pidfd), never by a number that may be
 * reused. */
#ifndef ASSAY_SPAWN_H
#define ASSAY_SPAWN_H

#include <sys/types.h>

#include "schema/err.h"

struct child {
    pid_t pid;
    int pidfd; /* readable when the child has ended; -1: none */
};

/* Start argv[0] with exactly the descriptors 0, 1, 2 and keep[0..n_keep-1] (same numbers) open;
 * stdin is /dev/null, stdout and stderr are this process's (or stdout_fd, stderr_fd where not -1).
 * Of the environment it gets PATH, HOME, LANG, LC_*, TMPDIR, TZ, LD_LIBRARY_PATH, CUDA_*, NCCL_*, NVIDIA_*, the
 * sanitizers' options and ASSAY_*, nothing else. The child is killed when this process ends, can be killed before it when memory is short (oom_score_adj), and leaves no
 * core file. */
int child_start(struct child *c, char *const argv[], const int *keep, int n_keep, int stdout_fd,
    int stderr_fd, struct err *e);
void child_kill(const struct child *c); /* SIGKILL */
/* Reap: 1 and the wait status' parts when it has ended, or ends within wait_ms (pidfd closed); 0 when
 * it still runs. */
int child_reap(struct child *c, int wait_ms, int *exit_code, int *signal);
/* What a child that lives was made to do by a signal since this was last asked: 1 it was stopped (and is
 * still, or again), -1 it goes on, 0 neither. What a debugger does to it does not count. */
int child_was_stopped(const struct child *c);
/* Kill and reap. One that even SIGKILL does not end by then, as it waits inside the kernel for a device,
 * is let go, with a line in the log. */
#define CHILD_END_MS 10000
void child_end(struct child *c, long long until_mono_ms, int *exit_code, int *signal);
struct child_text {
    char *text;
    size_t size;
};

/* Run argv to its end and take what it says: stdout into `out`, stderr into `words`, each with a NUL;
 * of more than has room, the end. Returns the exit code, or negative; ASSAY_EFORMAT when a signal
 * ended it, or it was killed after it had said nothing for limit_ms. */
int child_output(char *const argv[], int limit_ms, struct child_text out, struct child_text words,
    struct err *e);
/* The last line of such words, cut out in place: what a program says before it gives up. `otherwise`
 * when there is none. */
const char *child_last_line(char *words, const char *otherwise);

#endif
