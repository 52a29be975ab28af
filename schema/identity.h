/* identity.h - identifies a checkpoint's files on disk, so that a change shows without reading
 * them. (checkpoint_digest in worker/weights.h identifies their contents.)
 *
 * The files are those that decide scores: config.json, tokenizer.json, the index and every
 * *.safetensors of the directory, in order of name. An identity covers each file's name, device,
 * inode, size and times of last change (mtime_ns, ctime_ns), all through symbolic links. Equal
 * identities mean equal bytes, except for what the times miss: a write within one clock step of the
 * write before (checkpoint_settle waits that long), and writes through another program's mapping,
 * which change the times late, and on tmpfs never. */
#ifndef ASSAY_IDENTITY_H
#define ASSAY_IDENTITY_H

#include <dirent.h>
#include <sys/stat.h>
#include <time.h>

#include "schema/err.h"

#define IDENTITY_HEX 65

struct identity {
    char hex[IDENTITY_HEX];
    struct timespec changed; /* latest ctime of the files */
};

/* Lists the files' names, in order. Returns how many, or a negative code. The caller frees the list
 * and its entries with checkpoint_free_names. */
int checkpoint_names(struct dirent ***names, const char *dir, struct err *e);
void checkpoint_free_names(struct dirent **names, int n);
int checkpoint_identity(struct identity *id, const char *dir, struct err *e);
/* Returns 0 when the files still have that identity, else ASSAY_EFORMAT, saying that they changed
 * `during` ("they were read"). */
int checkpoint_check_identity(const char *dir, const char *hex, const char *during, struct err *e);
/* Waits, at most some seconds, until any later change must show in the times. Returns 1, or 0 when
 * it cannot wait because the files' times lie in the future. */
int checkpoint_settle(const struct identity *id);

#endif
