/* outbox.h - replies that wait for the disk.
 *
 * A reply may rest on rows that are not synced yet, so every reply made while a group of requests
 * is open is kept here until its commit, and then until that is on the disk. When the commit fails, all
 * of the group are replaced by one error. An envelope is what came before the body: routing id and frames up to the first
 * empty one. */
#ifndef ASSAY_OUTBOX_H
#define ASSAY_OUTBOX_H

#include "schema/msg.h"

#define ENVELOPE_MAX_FRAMES 8
#define ENVELOPE_MAX_BYTES 512

struct envelope {
    int n_frames;
    uint16_t sizes[ENVELOPE_MAX_FRAMES];
    uint8_t bytes[ENVELOPE_MAX_BYTES]; /* frames, one after the other */
    uint64_t connection;               /* that it came by (connections.h); 0: not known */
};

/* 0, or -1 when there are too many or too long frames. */
int envelope_add(struct envelope *env, const void *frame, size_t len);

struct outbox;

struct outbox *outbox_new(void *socket); /* ROUTER, or PUB with the topic as envelope; borrowed */
void outbox_free(struct outbox **o);

/* A writer for one reply to env, with v and id written and n_fields to come after `ok` (which is
 * written here too). */
struct msg_writer *outbox_ok(
    struct outbox *o, const struct envelope *env, struct slice id, uint32_t n_fields);
/* A writer for a body that is all the caller's. */
struct msg_writer *outbox_message(struct outbox *o, const struct envelope *env);
void outbox_error(
    struct outbox *o, const struct envelope *env, struct slice id, const struct err *e);
/* Replace every reply that was made since outbox_send by this error. */
void outbox_fail(struct outbox *o, const struct err *e);
/* Replace every reply that has not left by this error, whatever it waits for. */
void outbox_fail_all(struct outbox *o, const struct err *e);
size_t outbox_bytes(const struct outbox *o);  /* of the kept replies */
uint32_t outbox_held(const struct outbox *o); /* how many wait for the disk */
/* Replies made since the last call rest on commits up to number `written`, those before on what was written
 * then. Sends, without waiting, what rests on commits up to `synced`; what cannot be delivered is dropped.
 * 1 when replies are left that wait. */
int outbox_send(struct outbox *o, uint64_t written, uint64_t synced);

#endif
