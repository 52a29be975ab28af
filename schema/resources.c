/* resources.c - see resources.h. It takes the resources and gives them back. */
#include "schema/resources.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_FILES 64
#define USUAL_STACK (2u << 20)   /* assumed when the stack has no limit */
#define LEAST_STACK (512u << 10) /* 160 KiB are too little for the broker's */
#define BESIDE_STACKS (8u << 20) /* what the threads need besides stacks */

/* Returns how many files can be opened, up to n. */
static int try_files(int n)
{
    int fds[MAX_FILES], got = 0;
    while (got < n && got < MAX_FILES && (fds[got] = open("/", O_PATH | O_CLOEXEC)) >= 0)
        got++;
    for (int i = 0; i < got; i++)
        close(fds[i]);
    return got;
}

static size_t stack_bytes(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY
               ? (size_t)limit.rlim_cur
               : USUAL_STACK;
}

int resources_check(const char *whose, int n_files, int n_threads, struct err *e)
{
    int files = try_files(n_files);
    size_t bytes = (size_t)n_threads * stack_bytes() + BESIDE_STACKS;
    if (files < n_files)
        return err_set(e, ASSAY_EIO,
            "%s: expected room for %d more open files, found %d; raise `ulimit -n`", whose, n_files,
            files);
    void *room = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED)
        return err_set(e, ASSAY_EIO,
            "%s: expected room for %zu MiB more of addresses, %d threads' stacks; raise `ulimit "
            "-v`, or lower `ulimit -s`",
            whose, bytes >> 20, n_threads);
    munmap(room, bytes);
    return 0;
}

int resources_check_stack(struct err *e)
{
    size_t bytes = stack_bytes();
    if (bytes >= LEAST_STACK)
        return 0;
    return err_set(e, ASSAY_EFORMAT,
        "expected stacks of at least %u KiB for threads, found %zu; raise `ulimit -s`",
        LEAST_STACK >> 10, bytes >> 10);
}
