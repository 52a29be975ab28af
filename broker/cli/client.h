/* client.h - one connection to a broker: sends a request and returns the reply as JSON.
 *
 * If no reply comes, the client sends the same bytes again, so a broker may restart in between:
 * every request that the verbs make is idempotent. A reply to an earlier attempt is recognised by
 * its id and dropped. */
#ifndef ASSAY_CLIENT_H
#define ASSAY_CLIENT_H

#include <jansson.h>

#include "broker/cli/waiting.h"
#include "schema/err.h"
#include "schema/msg.h"

struct client;

int client_new(struct client **c, const char *endpoint, int timeout_ms, struct err *e);
/* Connects to the broker with this data directory, however long its path. */
int client_new_in(struct client **c, const char *data_dir, int timeout_ms, struct err *e);
void client_free(struct client **c);
int client_timeout_s(const struct client *c);

/* Starts a request with n_fields fields beside v, op and id; the caller writes them with msg_* to
 * the returned writer. */
struct msg_writer *client_begin(struct client *c, const char *op, uint32_t n_fields);

/* Sends the request and waits for its reply, at most the client's timeout + extra_ms. Returns 0
 * with *reply (owned by the caller) on ok:true; on ok:false *e has the broker's code, message and
 * field. ASSAY_ENOTREADY when nobody answers, ASSAY_EIO after a signal. A long silence is reported
 * to the user.
 *
 * Meanwhile it calls `alive` (may be NULL) repeatedly: a negative code ends the wait with
 * ASSAY_EIO; CLIENT_STARTING means that no answer is expected yet and restarts the timeout. */
#define CLIENT_STARTING 1
int client_call(struct client *c, int extra_ms, json_t **reply, struct err *e);
/* Like client_call, but reports that the broker is temporarily unable to answer, and asks again. */
int client_call_patiently(struct client *c, int extra_ms, json_t **reply, struct err *e);
void client_set_watch(struct client *c, int (*alive)(void *arg, struct err *e), void *arg);

/* Sets where a long silence is reported (borrowed); NULL: stderr. */
void client_set_waiting(struct client *c, struct waiting *w);

/* Converts msgpack to JSON. A float32 becomes the double whose shortest form, in at most 9 digits,
 * reads back as the same float32. Refuses bin. */
int json_from_msgpack(struct msg_reader *r, json_t **out, struct err *e);

/* Prints JSON with every terminal control character (utf8_is_control) as \u.... . `flags` are
 * jansson's, beside those for scores, which get at most 9 digits. Returns 0 or -1. */
int json_print(FILE *f, const json_t *value, size_t flags);
/* Prints it as one line. Returns 0 or ASSAY_EIO. */
int json_print_line(FILE *f, const json_t *value, struct err *e);
/* Prints a non-empty object as one line, with `input` as its last member; the numbers of `input`,
 * which are the user's, keep all their digits. */
int json_print_with_input(FILE *f, const json_t *value, const json_t *input, struct err *e);

#endif
