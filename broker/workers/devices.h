/* devices.h - decides, before anything starts, which worker program the groups run and which GPU
 * each rank uses. The broker contains no CUDA: assay-worker-cuda, if installed, lists the GPUs
 * (`--devices`).
 *
 *     --device cpu    assay-worker
 *     --device cuda   assay-worker-cuda, or an error in the driver's words
 *     --device auto   assay-worker-cuda if it is installed and finds a GPU, else assay-worker, and
 *                     one line in the log says why; with --worker and no --devices, the CPU */
#ifndef ASSAY_DEVICES_H
#define ASSAY_DEVICES_H

#include "broker/options.h"
#include "schema/err.h"

struct devices {
    char worker[4096]; /* program */
    int cuda;
    int gpus[OPTIONS_MAX_GPUS]; /* rank r of group g uses gpus[g * tp + r] */
};

/* Fills *d, and sets o->replicas and o->max_batch_tokens where they were not given.
 * ASSAY_EUNSUPPORTED names what was found when the requested GPUs are missing, too few, too old, or
 * of different kinds (scores depend on the kind). */
int devices_choose(struct devices *d, struct options *o, struct err *e);

#endif
