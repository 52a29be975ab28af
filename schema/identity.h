/* identity.h - which files on the disk a checkpoint is: not what is in them (checkpoint_digest in
 * worker/weights.h says that), but which they are, so that a change is seen without reading them.
 *
 * The files are those that decide scores: config.json, tokenizer.json, the index and every
 * *.safetensors of the directory, in order of name; of each the identity has name, device, inode, size
 * and the times of its last change (mtime_ns, ctime_ns), all through symbolic links. Two equal
 * identities are the same bytes, but for what the times cannot tell: a write within the clock's step of
 * the one before (checkpoint_settle waits that long), and a program that writes through a mapping of
 * its own, which changes the times late, and on tmpfs never. */
#ifndef ASSAY_IDENTITY_H
#define ASSAY_IDENTITY_H

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

#include "schema/err.h"

#define IDENTITY_HEX 65

struct identity {
    char hex[IDENTITY_HEX];
    struct timespec changed; /* the latest ctime of a file */
};

/* The files' names, in order: how many, or negative. Each entry and the list are the caller's, for
 * checkpoint_free_names. */
int checkpoint_names(struct dirent ***names, const char *dir, struct err *e);
void checkpoint_free_names(struct dirent **names, int n);
int checkpoint_identity(struct identity *id, const char *dir, struct err *e);
/* 0 when the files still have that identity, else ASSAY_EFORMAT, that they changed `during` ("they were read"). */
int checkpoint_check_identity(const char *dir, const char *hex, const char *during, struct err *e);
/* Waits until a later change must show in the times; at most some seconds. 0 when that cannot be waited
 * for, as the files are from the future. */
int checkpoint_settle(const struct identity *id);

#endif
