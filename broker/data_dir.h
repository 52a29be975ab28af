/* data_dir.h - finds, makes and checks the data directory, before anything in it is opened.
 *
 * The broker, perhaps as root, writes to files in it and renames over them without another check.
 * So the directory must belong to this user, be closed to all others, and contain nothing that
 * leads elsewhere (a symbolic link, a second hard link, another user's file). Then nobody else can
 * add such an entry, except by replacing the directory itself. So a parent directory that everybody
 * may write to is refused if another user owns it, and logged as a warning if this user or root
 * does. Parents with the sticky bit, such as /tmp, are accepted. */
#ifndef ASSAY_DATA_DIR_H
#define ASSAY_DATA_DIR_H

#include <stddef.h>

#include "schema/err.h"

/* The mark of a directory that `assay score` made, and removes when its work is done; and what a
 * run locks in a directory without the mark. */
#define DATA_DIR_RUN_MARK "score.lock"
#define DATA_DIR_RUN_LOCK "client.lock"

/* Writes the path to `path`: `given`, else $XDG_STATE_HOME/assay, else $HOME/.local/state/assay. 0,
 * or ASSAY_EIO if there is none or it is too long. */
int data_dir_find(char *path, size_t size, const char *given, struct err *e);

/* What data_dir_undo removes after a failed start. */
struct data_dir_start {
    int n_made;    /* directories that were made: the last of the path, and its parents */
    int was_empty; /* it contained nothing */
};

/* Makes the directory with mode 0700, and its parents, where they do not exist; checks it and all
 * its entries. If others may read it, its mode becomes 0700, provided it is empty or a data
 * directory already. A file that has the name of a broker's file, where no broker has been, is
 * refused. ASSAY_EUNAUTHORIZED names the entry that fails, and what to do. */
int data_dir_open(const char *path, struct data_dir_start *start, struct err *e);

/* From now on the directory is a service's: a run that has it locked does not remove it. */
void data_dir_keep(const char *path);

/* Removes what brokers and runs made in the directory, and then the directory. Returns 0, or -1 if
 * it stays: because a broker has it, or because there are other files in it, one of which `other`
 * names. Then the mark stays too. */
#define DATA_DIR_NAME_BYTES 256
int data_dir_remove(const char *path, char other[DATA_DIR_NAME_BYTES]);

/* Undoes a failed start: removes its files from a directory that was empty, and the directories
 * that it made. Keeps them if another broker has started there meanwhile. */
void data_dir_undo(const char *path, const struct data_dir_start *start);

#endif
