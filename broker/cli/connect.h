/* connect.h - finds the broker that a verb talks to. */
#ifndef ASSAY_CONNECT_H
#define ASSAY_CONNECT_H

#include "broker/ask/card.h"
#include "broker/cli/cli.h"
#include "broker/cli/client.h"
#include "broker/cli/signals.h"

/* Connects to --connect, else to broker.sock in --data, else to ASSAY_ENDPOINT, else to broker.sock in
 * the default of --data. Returns 0, or an exit code
 * after printing an error to stderr. Catches signals from here on (signals.h). */
int cli_connect(const struct cli *c, struct client **client);
/* The same, to the broker that this process has for itself in the directory, and to no other
 * there. */
int cli_connect_own(const struct cli *c, const char *data, struct client **client);

/* May the path be read or written (R_OK, W_OK)? Returns EX_NOPERM after printing an error to stderr
 * if permission is denied; 0 otherwise, even if the check fails for another reason. from: the
 * variable that names it, or NULL. */
int cli_check_access(const char *path, int mode, const char *from);
/* The variable that names the data directory; NULL: an option does, or nothing. */
const char *cli_data_from(const struct cli *c);

/* Writes the field `job`: a number if text is all digits, else a key. */
void cli_write_job(struct msg_writer *w, const char *text);

/* Appends all jobs numbered above `after` to the array `jobs`. */
int cli_list_jobs(struct client *client, int64_t after, json_t *jobs, struct err *e);

/* Makes a key that is the same for the same input, output and model, or a random one for stdin.
 * key: 64 bytes. Returns 0 or an exit code. */
int cli_default_key(const struct cli *c, char *key, size_t size);

/* format.c, with --format openai-batch: what the broker says of its models, with the names that lines may call the first by. Returns 0 and
 * *card, which the caller releases, or a code. */
int cli_card(const struct cli *c, struct client *client, struct card **card, struct err *e);

#endif
