/* client.h - one connection to a broker: a request out, its reply back as JSON.
 *
 * A reply that does not come is asked for again with the same bytes (every request that the verbs
 * make is idempotent), so a broker that restarts in between is not noticed. Replies to earlier
 * attempts are told by their id and dropped. */
#ifndef ASSAY_CLIENT_H
#define ASSAY_CLIENT_H

#include <jansson.h>

#include "broker/cli/waiting.h"
#include "schema/err.h"
#include "schema/msg.h"

struct client;

int client_new(struct client **c, const char *endpoint, int timeout_ms, struct err *e);
/* Of the broker whose data directory this is, however long its path. */
int client_new_in(struct client **c, const char *data_dir, int timeout_ms, struct err *e);
void client_free(struct client **c);
const char *client_endpoint(const struct client *c);
int client_timeout_s(const struct client *c);

/* Start a request with n_fields fields beside v, op and id; write these with msg_* to the writer it
 * returns. */
struct msg_writer *client_begin(struct client *c, const char *op, uint32_t n_fields);

/* Send it, wait at most the client's timeout + extra_ms for the reply. On ok:true, 0 and *reply
 * (caller's). On ok:false the broker's code, message and field in *e. ASSAY_ENOTREADY when nobody
 * answers. `alive` (may be NULL) is asked every now and then; a negative code ends the wait with
 * ASSAY_EIO, as does a signal; CLIENT_STARTING: no answer is expected yet, the time begins anew. A long
 * silence is told in words. */
#define CLIENT_STARTING 1
int client_call(struct client *c, int extra_ms, json_t **reply, struct err *e);
/* The same, and while the broker says that it cannot answer for now, that is told and it is asked again. */
int client_call_patiently(struct client *c, int extra_ms, json_t **reply, struct err *e);
void client_set_watch(struct client *c, int (*alive)(void *arg, struct err *e), void *arg);

/* Where a long silence is told (borrowed); NULL: on stderr. */
void client_set_waiting(struct client *c, struct waiting *w);

/* msgpack to JSON. float32 becomes the double whose shortest form in at most 9 digits reads back as
 * the same float32. bin is refused. */
int json_from_msgpack(struct msg_reader *r, json_t **out, struct err *e);

/* JSON in which what a terminal would act on (utf8_is_control) stands as \u....; `flags` are jansson's
 * beside those for scores, which have at most 9 digits. 0, or -1. */
int json_print(FILE *f, const json_t *value, size_t flags);
/* One line of it. 0, or ASSAY_EIO. */
int json_print_line(FILE *f, const json_t *value, struct err *e);
/* The same of an object that is not empty, with `input` as its last member: a person's numbers, whole. */
int json_print_with_input(FILE *f, const json_t *value, const json_t *input, struct err *e);

#endif
