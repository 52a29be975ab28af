/* start.c - signals, standard descriptors, and the JSON library's memory (start.h). */
#include "schema/start.h"

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "schema/log.h"

#define OUTPUT_BYTES 65536

static void *allocate(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p)
        die(71, "event=out_of_memory wanted=%zu bytes", bytes);
    return p;
}

static void hold_standard_files(void)
{
    int fd;
    do
        fd = open("/", O_PATH);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static void take_signals(void)
{
    static const int numbers[] = {SIGCHLD, SIGINT, SIGTERM, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        sigaddset(&set, numbers[i]);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    signal(SIGCHLD, SIG_DFL);
}

/* Never freed: stdout is closed last. */
static void buffer_output(void)
{
    char *buffer = isatty(STDOUT_FILENO) ? NULL : malloc(OUTPUT_BYTES);
    if (buffer)
        setvbuf(stdout, buffer, _IOFBF, OUTPUT_BYTES);
}

void start_process(void)
{
    take_signals();
    hold_standard_files();
    buffer_output();
    json_set_alloc_funcs(allocate, free);
}
