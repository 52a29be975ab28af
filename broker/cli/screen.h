/* screen.h - a terminal that is drawn on as a whole, and frames of text that fit it.
 *
 * A frame is built line by line in memory, cut at its width and height, and shown with one write, so
 * that nothing flickers. Text may come from strangers (job keys): control characters are shown as
 * '?', and a character is as wide as Unicode says. Without a terminal a frame is plain text. */
#ifndef ASSAY_SCREEN_H
#define ASSAY_SCREEN_H

#include <stdio.h>
#include <termios.h>

/* The terminal as it was. Begin enters the alternate screen and takes keys as they come; end puts
 * everything back and is safe to call again. */
struct screen {
    int on, has_keys;
    struct termios before;
};
void screen_begin(struct screen *s);
void screen_end(struct screen *s);
/* Of the terminal on fd, 80 x 24 where it does not say. */
void screen_size(int fd, int *width, int *height);
/* A key within timeout_ms, else 0. */
int screen_key(const struct screen *s, int timeout_ms);

enum style { STYLE_PLAIN, STYLE_BOLD, STYLE_DIM, STYLE_GREEN, STYLE_YELLOW, STYLE_RED };

struct frame {
    int width, height; /* columns and lines; height 0: as many as there are */
    int colour;
    int line, column; /* where the next text goes */
    int gap;          /* spaces before it that are not written yet */
    char *bytes;
    size_t size;
    FILE *out; /* into bytes */
};
/* Text from a stranger on any stream, control characters as '?'. */
void print_safely(FILE *f, const char *text);
void print_safely_cut(FILE *f, const char *text, int columns);

void frame_begin(struct frame *f, int width, int height, int colour);
/* Text at the end of the line, cut where the line is full. */
void frame_text(struct frame *f, enum style style, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Text in a column of |width| and a space after it: where width is negative left-aligned, and cut to it;
 * else right-aligned and never cut, so that no number is shown wrong. */
void frame_cell(struct frame *f, enum style style, int width, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void frame_end_line(struct frame *f);
int frame_lines_left(const struct frame *f);
/* Write it to stdout, on_screen from the upper left corner, and release it. */
void frame_show(struct frame *f, int on_screen);

#endif
