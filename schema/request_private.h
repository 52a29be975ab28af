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
/* Read one field of a truncation, and check that they go together. */
enum truncation_field { T_TRUNCATE, T_MAX_LENGTH, T_SIDE, T_KEEP_LAST };
struct request_truncation;
int request_read_truncation_field(
    struct msg_reader *r, enum truncation_field f, struct request_truncation *t, struct err *e);
int request_check_truncation(const struct request_truncation *t, struct err *e);
/* Checks what is to be added to fields of a row that may grow, each of the type that the row has:
 * are the items what they must be? An error counts them within `more`. */
int request_check_more(struct slice more, struct err *e);
/* Read a name, or an array of different names, of models; and refuse both at once. */
struct request_models;
int request_read_model(struct msg_reader *r, struct request_models *m, struct err *e);
int request_read_models(struct msg_reader *r, struct request_models *m, struct err *e);
/* Reads an array of messages. An error's field is "messages[2].role". */
int request_check_messages(struct msg_reader *r, const char *field, struct err *e);

#endif
