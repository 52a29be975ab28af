/* outbox.h - replies that wait for the disk.
 *
 * A reply may rest on rows that are not synced yet. So every reply stays here while the tick's
 * group of requests is open, and then until its commit is on the disk. When the commit fails, one
 * error replaces all replies of the group. An envelope is what came before the body: the routing id
 * and the frames up to the first empty one. */
#ifndef ASSAY_OUTBOX_H
#define ASSAY_OUTBOX_H

#include "schema/msg.h"
#include "schema/request.h"

#define ENVELOPE_MAX_FRAMES 8
#define ENVELOPE_MAX_BYTES 512

struct envelope {
    int n_frames;
    uint16_t sizes[ENVELOPE_MAX_FRAMES];
    uint8_t bytes[ENVELOPE_MAX_BYTES]; /* the frames, end to end */
    uint64_t connection;               /* the client's (connections.h); 0: not known */
};

/* Adds a frame. Returns 0, or -1 when there are too many or they are too long. */
int envelope_add(struct envelope *env, const void *frame, size_t len);

struct outbox;

struct outbox *outbox_new(void *socket); /* ROUTER, or PUB with the topic as envelope; borrowed */
void outbox_free(struct outbox **o);

/* Returns a writer for one reply to env. v, id and `ok` are written already; n_fields are to
 * follow. */
struct msg_writer *outbox_ok(
    struct outbox *o, const struct envelope *env, struct slice id, uint32_t n_fields);
/* Returns a writer for a body that the caller writes whole. */
struct msg_writer *outbox_message(struct outbox *o, const struct envelope *env);
void outbox_error(
    struct outbox *o, const struct envelope *env, struct slice id, const struct err *e);
/* Replaces every reply made since outbox_send with this error. */
void outbox_fail(struct outbox *o, const struct err *e);
/* Replaces every reply that was not sent yet with this error, whatever it waits for. */
void outbox_fail_all(struct outbox *o, const struct err *e);
/* A request that is answered later than in its tick. */
struct outbox_later {
    struct envelope envelope;
    struct slice request_id;
    uint8_t id[REQUEST_ID_BYTES + 8];
};
void outbox_keep_later(
    struct outbox_later *l, const struct envelope *env, struct slice id); /* not moved then */

size_t outbox_bytes(const struct outbox *o);  /* bytes of all kept replies */
uint32_t outbox_held(const struct outbox *o); /* replies that wait for the disk */
/* Says that replies made since the last call rest on commits up to `written`. Sends, without
 * waiting, the replies that rest on commits up to `synced`, and drops those that cannot be
 * delivered. Returns 1 when replies are left that wait. */
int outbox_send(struct outbox *o, uint64_t written, uint64_t synced);

#endif
