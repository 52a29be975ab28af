/* data_dir.h - the directory that a broker keeps everything in: found, made, and checked before
 * anything in it is opened.
 *
 * What lies in it is written to and renamed over without another look, perhaps by root. So it must be
 * ours alone: owned by us, closed to everybody else, and with nothing in it that leads somewhere else
 * (a symbolic or a second hard link, another user's file). From then on nobody else can put such a
 * thing there, unless they can replace the directory itself: a directory above it that is
 * another user's and that everybody may write to is refused too, and of one of ours or root's a warning is
 * logged, but for those with the sticky bit, as /tmp. */
#ifndef ASSAY_DATA_DIR_H
#define ASSAY_DATA_DIR_H

#include <stddef.h>

#include "schema/err.h"

/* The path: `given`, else $XDG_STATE_HOME/assay, else $HOME/.local/state/assay. */
int data_dir_find(char *path, size_t size, const char *given, struct err *e);

/* What a start that fails has to undo. */
struct data_dir_start {
    int n_made;    /* directories: the last one of the path, and those above it */
    int was_empty; /* nothing lay in it */
};

/* Make it where it is not there, with its parents, 0700; check it and all that lies in it. One of ours that others may look into is closed to them where it is empty or a data
 * directory already. ASSAY_EUNAUTHORIZED names what is not as expected, and what to do. */
int data_dir_open(const char *path, struct data_dir_start *start, struct err *e);

/* The start failed: what it put into a directory that was empty goes, and the directories that it made. Not so
 * where another broker has begun there meanwhile. */
void data_dir_undo(const char *path, const struct data_dir_start *start);

#endif
