/* signals.c - see signals.h. */
#include "broker/cli/signals.h"

#include <signal.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#define SLICE_MS 100
#define SIGNAL_EXIT 128

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    if (number != SIGALRM && interrupted)
        _exit(SIGNAL_EXIT + number);
    if (number != SIGALRM)
        interrupted = number;
    alarm(1); /* a call that blocked just before this is woken by the next */
}

void cli_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
}

int cli_interrupted(void)
{
    return interrupted;
}

int cli_nap(long ms)
{
    for (; ms > 0 && !interrupted; ms -= SLICE_MS) {
        struct timespec t = {0, (ms < SLICE_MS ? ms : SLICE_MS) * 1000000};
        nanosleep(&t, NULL);
    }
    return interrupted;
}
