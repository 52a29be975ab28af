/* signals.c - the handlers: they note the signal's number, and set an alarm that wakes blocking
 * calls (signals.h). */
#include "broker/cli/signals.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SLICE_MS 100
#define SIGNAL_EXIT 128

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    if (number != SIGALRM && interrupted && interrupted != SIGPIPE && interrupted != SIGXFSZ)
        _exit(SIGNAL_EXIT + number);
    if (number != SIGALRM)
        interrupted = number;
    alarm(1); /* wakes a call that blocked just before the signal */
}

/* A failed write is not urgent: writing the remaining buffers at the end may raise the signal
 * again. */
static void on_failed_write(int number)
{
    if (!interrupted)
        interrupted = number;
}

/* An ignored signal stays ignored, as `nohup` needs it. */
static void catch_unless_ignored(int number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler}, old;
    if (sigaction(number, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
        sigaction(number, &action, NULL);
}

void cli_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGALRM, &action, NULL);
    catch_unless_ignored(SIGHUP, on_signal);
    catch_unless_ignored(SIGXCPU, on_signal);
}

void cli_catch_failed_writes(void)
{
    catch_unless_ignored(SIGPIPE, on_failed_write);
    catch_unless_ignored(SIGXFSZ, on_failed_write);
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

void cli_tell(const char *text)
{
    struct pollfd item = {.fd = STDERR_FILENO, .events = POLLOUT};
    for (size_t n = strlen(text); n > 0;) {
        if (interrupted && poll(&item, 1, 0) <= 0)
            return;
        ssize_t written = write(STDERR_FILENO, text, n);
        if (written < 0 && errno != EINTR)
            return;
        text += written > 0 ? written : 0;
        n -= written > 0 ? (size_t)written : 0;
    }
}
