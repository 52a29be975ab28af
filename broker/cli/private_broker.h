/* private_broker.h - an assayd of one's own: started for one `assay score`, watched, restarted when
 * it dies, stopped at the end. It ends with its parent even when that is killed. Its log is
 * DATA/assayd.log. */
#ifndef ASSAY_PRIVATE_BROKER_H
#define ASSAY_PRIVATE_BROKER_H

#include "broker/cli/cli.h"

struct private_broker;

int private_broker_start(
    struct private_broker **b, const struct cli *c, const char *data_dir, struct err *e);
/* Is it there? A broker that was killed is started again; one that refuses to start gives its own
 * words. 0 or negative. */
int private_broker_watch(void *b, struct err *e);
void private_broker_stop(struct private_broker **b); /* SIGTERM, wait; NULL-safe */

#endif
