/* folder.h - the directory of --files: what it holds is ours alone, and whole or absent.
 *
 *     lock                    held while an assay-http has the folder
 *     file-HEX                the contents of a file; file-HEX.json: what is known of it
 *     batch_HEX.json          a batch
 *     temporary-HEX           not whole; removed at the start
 *
 * HEX are 32 digits. Names come from here and never from a client. A file is written under a
 * temporary name, synced, and renamed; the folder is synced after that. */
#ifndef ASSAY_HTTP_FOLDER_H
#define ASSAY_HTTP_FOLDER_H

#include <stddef.h>

#include "schema/err.h"

#define FOLDER_ID_BYTES 56   /* of an id of any prefix */
#define FOLDER_NAME_BYTES 64 /* an id and ".json", or a temporary name */
#define FOLDER_FILE "file-"
#define FOLDER_BATCH "batch_"

struct folder;

/* Opens it, makes it (its parent must be there), checks that it is ours and closed to others, locks
 * it, and removes what an earlier process left unfinished. Returns 0, ASSAY_EBUSY when another
 * process has it, ASSAY_EUNAUTHORIZED, ASSAY_EFORMAT or ASSAY_EIO. */
int folder_open(struct folder **folder, const char *path, struct err *e);
void folder_close(struct folder **folder);

void folder_new_id(char id[FOLDER_ID_BYTES], const char *prefix);
/* The id that this text always gives. */
void folder_id_of(char id[FOLDER_ID_BYTES], const char *prefix, const char *text);
/* Is it an id with this prefix? Nothing else is ever looked for in the folder. */
int folder_is_id(const char *id, const char *prefix);

/* Returns a descriptor to write and read, or a code. */
int folder_temporary(struct folder *f, char name[FOLDER_NAME_BYTES], struct err *e);
/* Syncs the descriptor, and gives the temporary file its name. Returns 0; ASSAY_EFULL or ASSAY_EIO,
 * and nothing has the name. The descriptor stays open. */
int folder_keep(struct folder *f, int fd, const char *temporary, const char *name, struct err *e);
void folder_drop(struct folder *f, const char *name);
/* Syncs what was dropped. Returns 0 or ASSAY_EIO. */
int folder_sync(struct folder *f, struct err *e);
/* Replaces a file by this text, or leaves it as it was. */
int folder_write(struct folder *f, const char *name, const char *text, struct err *e);
/* Opens a file to read: a descriptor, or ASSAY_EGONE or ASSAY_EIO. */
int folder_read(struct folder *f, const char *name, struct err *e);
/* Calls `each` with every id of this prefix whose .json is there, and its text. */
int folder_each(struct folder *f, const char *prefix,
    void (*each)(void *arg, const char *id, const char *text), void *arg, struct err *e);
/* Has the disk room for so many bytes more? Returns 0 or ASSAY_EFULL. */
int folder_has_room(struct folder *f, unsigned long long bytes, struct err *e);
/* The error of a write that failed: ASSAY_EFULL or ASSAY_EIO, by errno. */
int folder_write_error(const char *what, struct err *e);

#endif
