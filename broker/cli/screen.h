/* screen.h - full-screen drawing on a terminal, and frames of text that fit it.
 *
 * A frame is built line by line in memory, cut to its width and height, and shown with one write,
 * so that nothing flickers. Text may come from strangers (job keys): control characters are shown
 * as '?', and character widths are Unicode's. Without a terminal a frame is plain text. */
#ifndef ASSAY_SCREEN_H
#define ASSAY_SCREEN_H

#include <stdio.h>
#include <termios.h>

/* The terminal's settings before screen_begin, which enters the alternate screen and reads keys
 * unbuffered. screen_end restores everything and is safe to call again. */
struct screen {
    int on, has_keys;
    struct termios before;
};
void screen_begin(struct screen *s);
void screen_end(struct screen *s);
/* Gets the size of the terminal on fd, 80 x 24 if unknown. */
void screen_size(int fd, int *width, int *height);
#define SCREEN_GONE (-1)
/* Returns a key pressed within timeout_ms, 0 if none was, or SCREEN_GONE: the terminal is
 * closed. */
int screen_key(const struct screen *s, int timeout_ms);

enum style { STYLE_PLAIN, STYLE_BOLD, STYLE_DIM, STYLE_GREEN, STYLE_YELLOW, STYLE_RED };

struct frame {
    int width, height; /* in columns and lines; height 0: unlimited */
    int colour;
    int line, column; /* where the next text goes */
    int gap;          /* pending spaces before it */
    char *bytes;
    size_t size;
    FILE *out; /* writes into bytes */
};
/* Prints untrusted text to any stream, with control characters as '?'. */
void print_safely(FILE *f, const char *text);
void print_safely_cut(FILE *f, const char *text, int columns);

void frame_begin(struct frame *f, int width, int height, int colour);
/* Appends text to the line, cut where the line is full. */
void frame_text(struct frame *f, enum style style, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Appends text in a column of |width| and a space. A negative width aligns left and cuts the text;
 * a positive one aligns right and never cuts, so that no number is shown wrong. */
void frame_cell(struct frame *f, enum style style, int width, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void frame_end_line(struct frame *f);
int frame_lines_left(const struct frame *f);
/* Writes the frame to stdout (on_screen: from the upper left corner) and releases it. */
void frame_show(struct frame *f, int on_screen);

#endif
