/* figures.h - what `info` says of the broker's load: how much is unfinished, how long it waits, and
 * the room that it takes on disk and in memory. */
#ifndef ASSAY_FIGURES_H
#define ASSAY_FIGURES_H

#include "broker/broker.h"

/* Counts unfinished jobs and rows on, some jobs at a time. Call it about once a second, between
 * transactions. A database that fails is left to those that must write. */
void figures_tick(struct broker *b);

#define FIGURES_FIELDS 7
/* Writes so many fields of a map (PROTOCOL.md, info). */
void figures_write(const struct broker *b, struct msg_writer *w);

/* The resident memory of a process, in bytes; 0: it is not known. */
int64_t figures_memory(int pid);

#endif
