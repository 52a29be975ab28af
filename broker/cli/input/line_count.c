/* line_count.c - counts newlines through a descriptor of its own (line_count.h). */
#include "broker/cli/input/line_count.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/cli/input/inflate.h"
#include "broker/cli/signals.h"
#include "schema/clock.h"

#define PIECE_BYTES (1 << 14)

static int is_plain_file(int fd)
{
    struct stat st;
    char first[4];
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        return 0;
    ssize_t n = pread(fd, first, sizeof first, 0);
    return n >= 0 && !inflate_is_compressed(first, (size_t)n);
}

void line_count_init(struct line_count *c, const char *path)
{
    struct stat st; /* opening and closing a pipe would end it for its writer */
    int is_file = path && stat(path, &st) == 0 && S_ISREG(st.st_mode);
    *c = (struct line_count){.fd = -1, .total = -1, .last = '\n'};
    c->fd = is_file ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (c->fd >= 0 && !is_plain_file(c->fd))
        line_count_release(c);
}

void line_count_release(struct line_count *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

/* Returns 1, 0 at the end of the file, negative when reading failed. */
static int count_piece(struct line_count *c)
{
    char bytes[PIECE_BYTES];
    ssize_t got = read(c->fd, bytes, sizeof bytes);
    if (got <= 0)
        return got < 0 && errno == EINTR ? 1 : (int)got;
    for (char *p = bytes; (p = memchr(p, '\n', (size_t)(bytes + got - p))) != NULL; p++)
        c->n++;
    c->last = bytes[got - 1];
    return 1;
}

int64_t line_count_go_on(struct line_count *c, int for_ms)
{
    int64_t until = now_mono_ms() + for_ms;
    int got = 1;
    while (c->fd >= 0 && got == 1 && !cli_interrupted() && now_mono_ms() <= until)
        got = count_piece(c);
    if (c->fd >= 0 && got == 0)
        c->total = c->n + (c->last != '\n');
    if (got != 1)
        line_count_release(c);
    return c->total;
}
