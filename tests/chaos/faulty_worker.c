/* faulty_worker.c - assay-worker with bad habits, for the tests of supervision: the CPU's table
 * with an embed that looks for token ids which stand for faults. Everything else is the real
 * worker. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "worker/serve.h"

enum fault { KILLS = 7, HANGS = 8, NOT_A_NUMBER = 9, KILLS_ONCE = 10, SLOW = 11 };

static void nap_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Kill this process if the marker file is there, and take the marker away: a fault that does not
 * come again. */
static void kill_once(void)
{
    const char *marker = getenv("ASSAY_FAULT_FILE");
    if (marker && unlink(marker) == 0)
        raise(SIGKILL);
}

static void faulty_embed(
    struct device *d, struct tensor out, const struct weight *table, const int32_t *ids)
{
    cpu_ops.embed(d, out, table, ids);
    if (out.rows <= 8 && ids[0] == 0) /* the canary row: 0, 1, 2 .. */
        return;
    for (int64_t i = 0; i < out.rows; i++) {
        if (ids[i] == KILLS)
            raise(SIGKILL);
        if (ids[i] == HANGS)
            for (;;)
                pause();
        if (ids[i] == NOT_A_NUMBER)
            ((float *)out.data)[i * out.stride] = NAN;
        if (ids[i] == KILLS_ONCE)
            kill_once();
        if (ids[i] == SLOW)
            nap_ms(20);
    }
}

int main(int argc, char **argv)
{
    struct ops ops = cpu_ops;
    ops.embed = faulty_embed;
    return worker_main(argc, argv, &ops);
}
