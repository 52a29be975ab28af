/* spawn.h - child processes, each identified by a descriptor (pidfd) instead of a number that may
 * be reused. A child gets a reduced environment and no core file, is the first that the system
 * kills when memory runs out, and dies with this process. */
#ifndef ASSAY_SPAWN_H
#define ASSAY_SPAWN_H

#include <sys/types.h>

#include "schema/err.h"

struct child {
    pid_t pid;
    int pidfd; /* readable once the child has ended; -1: none */
};

struct child_options {
    char *const *argv;
    const int *keep;
    int n_keep;
    int stdout_fd, stderr_fd;
};

/* Starts argv[0] with exactly the descriptors 0, 1, 2 and keep[0..n_keep-1] (same numbers) open.
 * stdin is /dev/null; stdout and stderr are this process's, or stdout_fd and stderr_fd where not
 * -1. Its environment is PATH, HOME, LANG, LC_*, TMPDIR, TZ, LD_LIBRARY_PATH, CUDA_*, NCCL_*,
 * NVIDIA_*, the sanitizers' options and ASSAY_*, nothing else. The child is killed when this
 * process ends, is killed before this process when memory is short (oom_score_adj), and leaves no
 * core file. */
int child_start(struct child *c, const struct child_options *o, struct err *e);
/* Writes the path of a program in this program's directory. */
int program_beside(char *path, size_t size, const char *name, struct err *e);
void child_kill(const struct child *c); /* SIGKILL */
/* Reaps the child: 1, with its exit code or signal, if it has ended or ends within wait_ms (closes
 * pidfd); 0: it still runs. */
int child_reap(struct child *c, int wait_ms, int *exit_code, int *signal);
/* Tells what signals did to a running child since the last call: 1: it was stopped (and is still,
 * or again), -1: it was continued, 0: neither. What a debugger does to it does not count. */
int child_was_stopped(const struct child *c);
/* Kills and reaps the child. One that even SIGKILL has not ended by until_mono_ms, because it waits
 * inside the kernel for a device, is abandoned, with a line in the log. */
#define CHILD_END_MS 10000
void child_end(struct child *c, long long until_mono_ms, int *exit_code, int *signal);
struct child_text {
    char *text;
    size_t size;
};

struct child_limits {
    int silence_ms;
    int stop_fd; /* the child is to be killed once this is readable; -1: nothing stops it */
};

/* Runs argv to its end and captures its stdout in `out` and its stderr in `words`, NUL-terminated;
 * if the output is too long, its end. Returns the exit code, or negative: ASSAY_EFORMAT if a signal
 * ended it, or it was killed after silence_ms without a word; ASSAY_ENOTREADY: it was stopped. */
int child_output(char *const argv[], struct child_limits limits, struct child_text out,
    struct child_text words, struct err *e);
/* Returns the last line of `words`, cutting it in place: what a program prints before it gives up.
 * `otherwise` if there is none. */
const char *child_last_line(char *words, const char *otherwise);

#endif
