/* connections.h - how many clients may be connected: as many as there are descriptors, less some.
 *
 * libzmq 4.3 ends the process when accept() finds no free descriptor. So this program has an accept() of its
 * own, which libzmq calls: it closes a connection whose descriptor is among the last CONNECTIONS_SPARE that
 * the process may have. Its client's libzmq tries again by itself until there is room, and the broker can still
 * open files and start workers. Numbers of descriptors are given from the lowest, so the number tells how many
 * there are. */
#ifndef ASSAY_CONNECTIONS_H
#define ASSAY_CONNECTIONS_H

#define CONNECTIONS_SPARE 64

/* Descriptors from this number on are not for connections. */
int connections_end(void);
/* Are connections refused now? */
int connections_are_full(void);

#endif
