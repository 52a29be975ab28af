/* request_private.h - what request.c, request_rows.c and request_messages.c share. */
#ifndef ASSAY_REQUEST_PRIVATE_H
#define ASSAY_REQUEST_PRIVATE_H

#include "schema/msg.h"

/* A set of fields has a bit for each. */
#define BIT(field) ((uint64_t)1 << (field))

/* Reads an integer or a short string as its bytes. */
int request_read_id(struct msg_reader *r, const char *field, struct slice *id, struct err *e);
/* Returns how many bytes of a text found in a message an error shows. */
int request_shown(struct slice s);
/* Reads an array of messages. An error's field is "messages[2].role". */
int request_check_messages(struct msg_reader *r, const char *field, struct err *e);

#endif
