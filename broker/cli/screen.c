/* screen.c - see screen.h. The escape sequences are those that every terminal since the VT100 and
 * xterm understands. */
#include "broker/cli/screen.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <utf8proc.h>

#include "broker/cli/signals.h"
#include "schema/log.h"
#include "schema/utf8.h"

#define ENTER "\033[?1049h\033[?25l"
#define ERASE_LINE "\033[K" /* before the text: after a full line it would erase its end */
#define LEAVE "\033[?25h\033[?1049l"

/* After a signal, a terminal that is stopped (Ctrl-S) is not waited for. */
static void put(const char *bytes, size_t n)
{
    struct pollfd item = {.fd = STDOUT_FILENO, .events = POLLOUT};
    while (n > 0) {
        if (cli_interrupted() && poll(&item, 1, 0) <= 0)
            return;
        ssize_t written = write(STDOUT_FILENO, bytes, n);
        if (written < 0 && errno == EINTR && !cli_interrupted())
            continue;
        if (written <= 0)
            return; /* the terminal is gone; its signals will end the drawing */
        bytes += written;
        n -= (size_t)written;
    }
}

void screen_begin(struct screen *s)
{
    s->on = 1;
    s->has_keys = tcgetattr(STDIN_FILENO, &s->before) == 0;
    if (s->has_keys) {
        struct termios keys = s->before;
        keys.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        keys.c_cc[VSUSP] = _POSIX_VDISABLE; /* stopping would leave the screen as it is */
        tcsetattr(STDIN_FILENO, TCSANOW, &keys);
    }
    put(ENTER, strlen(ENTER));
}

void screen_end(struct screen *s)
{
    if (!s->on)
        return;
    put(LEAVE, strlen(LEAVE));
    if (s->has_keys)
        tcsetattr(STDIN_FILENO, TCSANOW, &s->before);
    s->on = 0;
}

void screen_size(int fd, int *width, int *height)
{
    struct winsize size = {0};
    ioctl(fd, TIOCGWINSZ, &size);
    *width = size.ws_col > 0 ? size.ws_col : 80;
    *height = size.ws_row > 0 ? size.ws_row : 24;
}

int screen_key(const struct screen *s, int timeout_ms)
{
    struct pollfd item = {.fd = s->has_keys ? STDIN_FILENO : -1, .events = POLLIN};
    unsigned char key;
    if (poll(&item, 1, timeout_ms) <= 0)
        return 0;
    ssize_t n = read(STDIN_FILENO, &key, 1);
    if (n == 1)
        return key;
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : SCREEN_GONE;
}

/* ---- frames ---- */

void frame_begin(struct frame *f, int width, int height, int colour)
{
    *f = (struct frame){.width = width, .height = height, .colour = colour};
    f->out = open_memstream(&f->bytes, &f->size);
    if (!f->out)
        die(71, "event=out_of_memory what=frame");
    if (height > 0)
        fputs(ERASE_LINE, f->out);
}

int frame_lines_left(const struct frame *f)
{
    return f->height > 0 ? f->height - f->line : INT_MAX;
}

static void put_style(struct frame *f, enum style style)
{
    static const char *const codes[] = {"0", "1", "2", "32", "33", "31"};
    if (f->colour)
        fprintf(f->out, "\033[%sm", codes[style]);
}

/* Writes text up to `room` columns. Returns the columns written. */
static int put_cut(FILE *out, const char *text, int room)
{
    const utf8proc_uint8_t *at = (const utf8proc_uint8_t *)text;
    int taken = 0;
    utf8proc_int32_t c;
    while (*at) {
        utf8proc_ssize_t n = utf8proc_iterate(at, -1, &c);
        int shown = n > 0 && !utf8_is_control(at, (int)n) &&
                    utf8proc_category(c) != UTF8PROC_CATEGORY_CC &&
                    utf8proc_category(c) != UTF8PROC_CATEGORY_CF;
        int width = shown ? utf8proc_charwidth(c) : 1;
        if (taken + width > room)
            break;
        if (shown)
            fwrite(at, 1, (size_t)n, out);
        else
            fputc('?', out);
        taken += width;
        at += n > 0 ? n : 1;
    }
    return taken;
}

void print_safely(FILE *f, const char *text)
{
    put_cut(f, text, INT_MAX);
}

void print_safely_cut(FILE *f, const char *text, int columns)
{
    put_cut(f, text, columns);
}

static void write_gap(struct frame *f)
{
    fprintf(f->out, "%*s", f->gap, "");
    f->gap = 0;
}

static void add(struct frame *f, enum style style, int width, const char *text)
{
    int room = f->width - f->column, cell = abs(width);
    if (frame_lines_left(f) <= 0 || room <= 0)
        return;
    int len = (int)strlen(text);
    if (width > 0 && len > cell)
        cell = len;
    room = cell > 0 && cell < room ? cell : room;
    int before = width > 0 && len < room ? room - len : 0;
    f->gap += before;
    if (len > 0)
        write_gap(f);
    if (style != STYLE_PLAIN)
        put_style(f, style);
    int taken = before + put_cut(f->out, text, room - before);
    if (style != STYLE_PLAIN)
        put_style(f, STYLE_PLAIN);
    f->gap += cell > 0 ? cell - taken + 1 : 0;
    f->column += cell > 0 ? cell + 1 : taken;
}

void frame_text(struct frame *f, enum style style, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    add(f, style, 0, text);
}

void frame_cell(struct frame *f, enum style style, int width, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    add(f, style, width, text);
}

void frame_end_line(struct frame *f)
{
    if (frame_lines_left(f) <= 0)
        return;
    f->line++;
    f->column = f->gap = 0;
    if (f->height == 0)
        fputc('\n', f->out);
    else if (f->line < f->height) /* after the last line, a newline would scroll the screen */
        fputs("\r\n" ERASE_LINE, f->out);
}

void frame_show(struct frame *f, int on_screen)
{
    fclose(f->out);
    if (on_screen)
        put("\033[H", 3);
    if (on_screen)
        put(f->bytes, f->size);
    else
        fwrite(f->bytes, 1, f->size, stdout);
    if (on_screen && f->line < f->height)
        put("\033[J", 3);
    free(f->bytes);
}
