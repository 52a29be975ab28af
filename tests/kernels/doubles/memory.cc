/* memory.cc - see memory.h. */
#include "tests/kernels/doubles/memory.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/kernels/doubles/doubles.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, bytes) ((void)(at), (void)(bytes))
#endif

namespace
{

const size_t PAGE = 4096, ROOM = size_t{1} << 36; /* addresses, not memory */
/* Of the ends of work these are followed by shut memory: the first, until so many bytes were shut in
 * all, and every so many after them. */
const size_t FIRST_BYTES = size_t{1} << 30;
const int EVERY = 100;

struct arena {
    char *begin;
    size_t used;   /* with a page between any two */
    int depth;     /* of device_open */
    int n_ends;    /* of work */
    size_t n_shut; /* bytes, in all */
    bool is_open;
};

arena all;

size_t pages(size_t bytes)
{
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

void protect(char *at, size_t bytes, bool is_open)
{
    if (bytes > 0 && mprotect(at, bytes, is_open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
        double_misuse("mprotect", strerror(errno));
}

void set_open(bool is_open)
{
    if (all.is_open != is_open)
        protect(all.begin, all.used, is_open);
    all.is_open = is_open;
}

/* At an end of work: is it one of those? */
bool shuts()
{
    bool is_first = all.n_shut < FIRST_BYTES;
    all.n_shut += is_first ? all.used : 0;
    return ++all.n_ends % EVERY == 0 || is_first;
}

#ifndef __SANITIZE_ADDRESS__ /* which says where it was */
void on_fault(int number, siginfo_t *info, void *)
{
    static const char text[] = "host code touches memory of the device\n";
    const char *at = static_cast<const char *>(info->si_addr);
    if (at >= all.begin && at < all.begin + all.used && write(2, text, sizeof text - 1) < 0)
        _exit(1);
    signal(number, SIG_DFL);
}
#endif

void reserve()
{
    void *at = mmap(nullptr, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        double_misuse("mmap", strerror(errno));
    all.begin = static_cast<char *>(at);
#ifndef __SANITIZE_ADDRESS__
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, nullptr);
#endif
}

} // namespace

void *device_take(size_t bytes)
{
    if (!all.begin)
        reserve();
    if (bytes > ROOM || all.used + pages(bytes) + PAGE > ROOM)
        return nullptr;
    char *at = all.begin + all.used;
    all.used += pages(bytes) + PAGE;
    protect(at, pages(bytes), all.is_open);
    ASAN_POISON_MEMORY_REGION(at + bytes, pages(bytes) + PAGE - bytes);
    return at;
}

void device_give(void *at, size_t bytes)
{
    madvise(at, pages(bytes), MADV_DONTNEED);
    ASAN_POISON_MEMORY_REGION(at, bytes);
}

device_open::device_open()
{
    all.depth++;
    set_open(true);
}

device_open::~device_open()
{
    if (--all.depth == 0 && shuts())
        set_open(false);
}

device_shut::device_shut()
{
    if (shuts())
        set_open(false);
}

device_shut::~device_shut()
{
    set_open(true);
}
