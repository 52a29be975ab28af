/* private_broker.h - an assayd of one's own: started for one `assay score`, watched, restarted when
 * it dies, stopped at the end. It ends with its parent even when that is killed. Its log is
 * DATA/assayd.log. */
#ifndef ASSAY_PRIVATE_BROKER_H
#define ASSAY_PRIVATE_BROKER_H

#include "broker/cli/cli.h"
#include "broker/cli/client.h"

struct private_broker;

int private_broker_start(
    struct private_broker **b, const struct cli *c, const char *data_dir, struct err *e);
/* Is it there? A broker that was killed is started again; one that refuses to start gives its own
 * words. 0, PRIVATE_BROKER_STARTING as long as it works and cannot answer yet, or negative. */
#define PRIVATE_BROKER_STARTING CLIENT_STARTING
int private_broker_watch(void *b, struct err *e);
/* It has not answered for so long: ASSAY_ENOTREADY, with what its log says. */
int private_broker_is_silent(struct private_broker *b, int waited_s, struct err *e);
/* Did an error say where its log is? Then it should stay there. NULL-safe. */
int private_broker_names_log(const struct private_broker *b);
/* SIGTERM, wait; within seconds it has ended whatever it does. NULL-safe. */
void private_broker_stop(struct private_broker **b);

#endif
