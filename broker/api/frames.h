/* frames.h - reads ZMTP's frames byte by byte as they arrive from a client, and bounds them before
 * libzmq sees them.
 *
 * It does three things that libzmq does not:
 *   - A message may have any number of frames, and libzmq keeps them all until the last one:
 * unbounded memory, whatever ZMQ_MAXMSGSIZE and the high water marks say. More than max_bytes in
 * one message ends the connection. The bytes of messages are counted, so that connections.c can
 * bound them.
 *   - A subscriber may ask for any number of topics, and libzmq keeps them as long as the
 * connection, at some 30 bytes for each byte. More than FRAMES_SUBSCRIPTION_BYTES end it; a ZeroMQ
 * library then connects again, with the topics that it still wants.
 *   - A peer may choose its routing id. Once its connection is gone, another peer may take the same
 * id and get the reply to the first one's request. So the choice is hidden from libzmq, which then
 * numbers each connection itself: a reply goes to the connection that asked, or nowhere.
 *
 * It reads ZMTP 3 and 2 (libzmq since 3.2): framing as in rfc.zeromq.org 15 and 23, exactly as
 * libzmq treats it. A greeting of 64 or 12 bytes comes first, then frames of flags, length, body.
 * The first frame is the handshake's. In ZMTP 3 it is READY with named properties, of which
 * "Identity" is renamed; in ZMTP 2 it is the routing id itself, which becomes empty. */
#ifndef ASSAY_FRAMES_H
#define ASSAY_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#define FRAMES_SUBSCRIPTION_BYTES (1 << 20)
/* The most memory that libzmq adds to a frame of any length: a short frame may keep alive the 8 kB
 * that it came with. */
#define FRAMES_EACH_BYTES ((8 << 10) + 64)

/* One connection's state. Plain data, zero at the beginning except is_subscriber. */
struct frames {
    uint8_t place, part;   /* where in the stream, and in the READY command */
    uint8_t version;       /* 2 or 3, once the greeting says it */
    uint8_t is_ready;      /* the handshake is over */
    uint8_t is_subscriber; /* it subscribes to events: its messages are topics */
    uint8_t flags;         /* of the present frame */
    uint8_t n;             /* bytes read so far of the greeting or a number */
    uint64_t number;       /* what was read of it */
    uint64_t left;         /* bytes of the frame's body to come */
    uint64_t part_left;    /* bytes of the READY command's part to come */
    uint64_t held; /* memory of the present message, promised bytes too; of a subscriber's topics */
    uint64_t done; /* memory of all messages before it */
};

/* Reads n bytes as they arrived and leaves in `bytes` those that libzmq may see. Returns how many
 * these are, or -1: the connection must end. */
long frames_pass(struct frames *f, uint8_t *bytes, size_t n, uint64_t max_bytes);

#endif
