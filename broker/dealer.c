/* dealer.c - see dealer.h. */
#include "broker/dealer.h"

#include <string.h>
#include <zmq.h>

static int set_up(void *socket, const struct dealer_options *o)
{
    int any = 0, is_ipv6 = strncmp(o->endpoint, "tcp://[", 7) == 0;
    if (zmq_setsockopt(socket, ZMQ_LINGER, &o->linger_ms, sizeof o->linger_ms) != 0 ||
        zmq_setsockopt(socket, ZMQ_IPV6, &is_ipv6, sizeof is_ipv6) != 0)
        return -1;
    if (o->sends_any && zmq_setsockopt(socket, ZMQ_SNDHWM, &any, sizeof any) != 0)
        return -1;
    return zmq_connect(socket, o->endpoint);
}

int dealer_connect(void **socket, void *zmq, const struct dealer_options *o, struct err *e)
{
    *socket = zmq ? zmq_socket(zmq, ZMQ_DEALER) : NULL;
    if (*socket && set_up(*socket, o) == 0)
        return 0;
    err_set(e, ASSAY_EIO, "cannot connect to '%s': %s", o->shown, zmq_strerror(zmq_errno()));
    if (*socket)
        zmq_close(*socket);
    *socket = NULL;
    return e->code;
}
