/* devices.h - what the groups run on, decided once before anything starts: which worker program,
 * and a GPU for each rank. The broker has no CUDA in it: assay-worker-cuda, where it is installed,
 * says which GPUs there are (`--devices`).
 *
 *     --device cpu    assay-worker
 *     --device cuda   assay-worker-cuda, or an error in the driver's words
 *     --device auto   assay-worker-cuda where it is installed and finds a GPU, else assay-worker and
 *                     one line in the log that says why; with --worker, the CPU */
#ifndef ASSAY_DEVICES_H
#define ASSAY_DEVICES_H

#include "broker/options.h"
#include "schema/err.h"

struct devices {
    char worker[4096]; /* program */
    int cuda;
    int gpus[OPTIONS_MAX_GPUS]; /* rank r of group g has gpus[g * tp + r] */
};

/* Decides, and sets o->replicas and o->max_batch_tokens where they were not given. ASSAY_EUNSUPPORTED when the GPUs asked for
 * are not there, too few, or of different kinds (scores depend on the kind): with what was found. */
int devices_choose(struct devices *d, struct options *o, struct err *e);

#endif
