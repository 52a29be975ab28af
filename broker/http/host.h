/* host.h - the header Host, where nobody is asked for a key.
 *
 * A web page can give its own name the address 127.0.0.1, and then read what is answered there as if
 * it were its own (DNS rebinding). Its browser still says the page's name as Host. */
#ifndef ASSAY_HTTP_HOST_H
#define ASSAY_HTTP_HOST_H

#include "schema/err.h"

/* Takes an IP address, localhost or a name under it, and the host of --listen (HOST:PORT), each with
 * any port or none. host: the header's value; NULL: there was none, which is no browser's request.
 * Returns 0, or ASSAY_EUNAUTHORIZED. */
int host_check(const char *host, const char *listens, struct err *e);

#endif
