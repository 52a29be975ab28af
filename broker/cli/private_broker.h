/* private_broker.h - an assayd for one `assay score`: started, watched, restarted when it dies,
 * stopped at the end. It ends with its parent even if the parent is killed. Its log is
 * DATA/assayd.log. Its socket is one of its own: this run asks no other broker, whatever runs on
 * the directory, and nobody else gives work to this one (endpoint_socket). */
#ifndef ASSAY_PRIVATE_BROKER_H
#define ASSAY_PRIVATE_BROKER_H

#include "broker/cli/cli.h"
#include "broker/cli/client.h"

struct private_broker;

int private_broker_start(
    struct private_broker **b, const struct cli *c, const char *data_dir, struct err *e);
/* Checks the broker and restarts one that was killed. Returns 0; PRIVATE_BROKER_STARTING while it
 * cannot answer yet; or negative, with the broker's own words if it refuses to start. */
#define PRIVATE_BROKER_STARTING CLIENT_STARTING
int private_broker_watch(void *b, struct err *e);
/* Returns ASSAY_ENOTREADY with what the log says, after waited_s seconds without an answer. */
int private_broker_is_silent(struct private_broker *b, int waited_s, struct err *e);
/* Did an error name the log file? Then the log should be kept. NULL-safe. */
int private_broker_names_log(const struct private_broker *b);
/* Sends SIGTERM and waits; the broker ends within seconds whatever it is doing. NULL-safe. */
void private_broker_stop(struct private_broker **b);

#endif
