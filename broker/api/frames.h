/* frames.h - what a client's connection brings, byte by byte, before libzmq sees it: ZMTP's frames, bounded.
 *
 * Three things that libzmq leaves to its peers are taken from them here.
 *   - A message may have frames without end, and libzmq keeps all of them until the last: memory without bound,
 *     whatever ZMQ_MAXMSGSIZE and the high water marks say. More than max_bytes of one message ends the connection. What
 *     the messages take is counted, for connections.c to bound it.
 *   - A subscriber may ask for topics without end, which libzmq keeps as long as the connection, some 30 bytes for each
 *     byte of them. More than FRAMES_SUBSCRIPTION_BYTES in all end it; a ZeroMQ library then connects again, with what
 *     it has not given up since.
 *   - A peer may choose its routing id. Once its connection is gone another may take the same one, and hears the reply
 *     to the first one's request. So the choice is hidden from libzmq, which then gives each connection a number of
 *     its own: a reply goes to the connection that asked, or nowhere.
 *
 * ZMTP 3 and 2 (libzmq since 3.2) are read. Framing as in rfc.zeromq.org 15 and 23, to the letter of what libzmq does
 * with it: greeting of 64 or 12 bytes, then flags, length, body. The first frame is the handshake's: READY with named
 * properties, of which "Identity" gets another name; in ZMTP 2 it is the routing id itself, which becomes empty. */
#ifndef ASSAY_FRAMES_H
#define ASSAY_FRAMES_H

#include <stddef.h>
#include <stdint.h>

#define FRAMES_SUBSCRIPTION_BYTES (1 << 20)
/* What libzmq takes at most for a frame, whatever its length: a short one may keep the 8 kB with which it came. */
#define FRAMES_EACH_BYTES ((8 << 10) + 64)

/* One connection. Plain data, all zero at its beginning but for is_subscriber. */
struct frames {
    uint8_t place, part;   /* within the stream, and within the READY command */
    uint8_t version;       /* 2 or 3, once the greeting says it */
    uint8_t is_ready;      /* the handshake is over */
    uint8_t is_subscriber; /* of events: what comes is topics */
    uint8_t flags;         /* of the present frame */
    uint8_t n;             /* bytes so far of the greeting or of a number */
    uint64_t number;       /* as far as it was read */
    uint64_t left;         /* bytes of the frame's body to come */
    uint64_t part_left;    /* bytes of the READY command's part to come */
    uint64_t
        held; /* what the present message takes in memory, also what it has promised; a subscriber's topics */
    uint64_t done; /* what the messages before took, all of them */
};

/* n bytes as they came; what libzmq may see of them is left in `bytes`. Returns how many that is, or -1: the
 * connection must end. */
long frames_pass(struct frames *f, uint8_t *bytes, size_t n, uint64_t max_bytes);

#endif
