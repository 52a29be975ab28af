/* send.h - sends replies and events once their commits are on the disk. */
#ifndef ASSAY_SEND_H
#define ASSAY_SEND_H

#include "broker/broker.h"

/* Sends the replies and events whose commits are on the disk. Those made since the last call wait
 * for all that is written now. */
void send_replies(struct broker *b);

/* Do so many replies wait for the disk that no more may be made? */
int replies_are_full(const struct broker *b);

#endif
