/* multipart.h - takes the parts of multipart/form-data apart, as they come.
 *
 * libmicrohttpd's post processor refuses what clients send: a boundary with another parameter behind
 * it or in another case, and bytes behind the last part; and it reads any number of bytes in front
 * of the first. */
#ifndef ASSAY_HTTP_MULTIPART_H
#define ASSAY_HTTP_MULTIPART_H

#include <stddef.h>

#include "schema/err.h"

#define MULTIPART_HEAD_BYTES 8192    /* of a part's head */
#define MULTIPART_AROUND_BYTES 65536 /* in front of the parts and behind them */
#define MULTIPART_BOUNDARY_BYTES 200 /* RFC 2046 has 70 */
#define MULTIPART_NAME_BYTES 512

struct multipart_part {
    const char *name;     /* "" where it has none */
    const char *filename; /* NULL: it is no file */
    const char *encoding; /* Content-Transfer-Encoding; "" */
};

struct multipart_taker {
    void (*begin)(void *arg, const struct multipart_part *part); /* the part is borrowed */
    void (*take)(void *arg, const char *bytes, size_t n);        /* of the part that began last */
    void *arg;
};

struct multipart;

/* type: the header Content-Type. Returns 0, or ASSAY_EBADREQ where it names no boundary. */
int multipart_new(
    struct multipart **m, const char *type, const struct multipart_taker *taker, struct err *e);
void multipart_free(struct multipart **m);
/* Takes a piece, cut anywhere. Returns 0, or ASSAY_EBADREQ for what is no such form: then nothing
 * more may come. */
int multipart_feed(struct multipart *m, const char *bytes, size_t n, struct err *e);
/* Was the last boundary there? */
int multipart_is_whole(const struct multipart *m);

#endif
