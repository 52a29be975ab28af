/* send.h - replies and events leave once what they tell of is on the disk. */
#ifndef ASSAY_SEND_H
#define ASSAY_SEND_H

#include "broker/broker.h"

/* Replies and events whose commits are on the disk go out; those made since the last call must wait for all that is
 * written now. */
void send_replies(struct broker *b);

/* So many replies wait for the disk that no more are to be made. */
int replies_are_full(const struct broker *b);

#endif
