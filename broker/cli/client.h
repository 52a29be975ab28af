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
/* Messages about the endpoint say that this variable of the environment named it. */
void client_say_from(struct client *c, const char *variable);
/* Connects to the broker with this data directory, however long its path; name: its socket's
 * (endpoint_socket). */
int client_new_in(
    struct client **c, const char *data_dir, const char *name, int timeout_ms, struct err *e);
void client_free(struct client **c);
int client_timeout_s(const struct client *c);

/* Starts a request with n_fields fields beside v, op and id; the caller writes them with msg_* to
 * the returned writer. */
struct msg_writer *client_begin(struct client *c, const char *op, uint32_t n_fields);

/* Sends the request and waits for its reply, at most the client's timeout + extra_ms. While a long
 * one is under way the broker is asked whether it is there: one that does not answer this within
 * the timeout is gone, and one that was started meanwhile gets the request again. Returns 0
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

#endif
