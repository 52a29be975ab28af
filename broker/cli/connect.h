/* connect.h - finding the broker that a verb talks to. */
#ifndef ASSAY_CONNECT_H
#define ASSAY_CONNECT_H

#include "broker/cli/cli.h"
#include "broker/cli/client.h"
#include "broker/cli/signals.h"

/* --connect, else ipc://<--data or the default>/broker.sock. 0, or an exit code told on stderr. From
 * here on signals are caught (signals.h). */
int cli_connect(const struct cli *c, struct client **client);

/* May this be read from or written to (R_OK, W_OK)? Where that is forbidden, EX_NOPERM told on stderr; 0 also where it
 * fails otherwise. */
int cli_check_access(const char *path, int mode);

/* Write the field `job`: a number when text is all digits, else a key. */
void cli_write_job(struct msg_writer *w, const char *text);

/* All jobs numbered above `after` to the end of the array `jobs`. */
int cli_list_jobs(struct client *client, int64_t after, json_t *jobs, struct err *e);

/* A key that stays the same for the same input, output and model, or a random one when the input is
 * stdin. key: 64 bytes. 0 or exit code. */
int cli_default_key(const struct cli *c, char *key, size_t size);

#endif
