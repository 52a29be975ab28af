/* workers_table.h - the broker's table of workers in the database. */
#ifndef ASSAY_WORKERS_TABLE_H
#define ASSAY_WORKERS_TABLE_H

#include "broker/broker.h"

/* Writes it when it has changed, and every ten seconds: an idle broker must leave the database
 * alone, or the WAL is never truncated. The caller commits. */
int workers_table_write(struct broker *b, long long now_ms, struct err *e);

#endif
