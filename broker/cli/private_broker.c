/* private_broker.c - see private_broker.h. */
#include "broker/cli/private_broker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "schema/log.h"

#define MAX_ARGUMENTS 40
#define MAX_RESTARTS 10
#define DRAIN_MS 2000 /* to finish what is in flight; when all results are there, nothing is */
#define DEFAULT_CACHE "256M" /* for the run after this one, when the input was mended */
#define BUSY_MS 20000        /* how long an earlier broker may take to leave the directory */

extern char **environ;

struct private_broker {
    char program[4200], log[4200], data[4096], parent[40];
    char *arguments[MAX_ARGUMENTS];
    pid_t pid; /* 0: not running */
    int restarts;
    long long first_try_ms;
};

static void add(struct private_broker *b, int *n, const char *name, const char *value)
{
    if (!value)
        return;
    b->arguments[(*n)++] = (char *)name;
    b->arguments[(*n)++] = (char *)value;
}

static void set_arguments(struct private_broker *b, const struct cli *c)
{
    int n = 0;
    b->arguments[n++] = b->program;
    snprintf(b->parent, sizeof b->parent, "--exit-with-parent=%d", (int)getpid());
    b->arguments[n++] = b->parent;
    add(b, &n, "--data", b->data);
    add(b, &n, "--model", c->value[CLI_MODEL]);
    add(b, &n, "--device", c->value[CLI_DEVICE]);
    add(b, &n, "--devices", c->value[CLI_DEVICES]);
    add(b, &n, "--quant", c->value[CLI_QUANT]);
    add(b, &n, "--dtype", c->value[CLI_DTYPE]);
    add(b, &n, "--weights", c->value[CLI_WEIGHTS]);
    add(b, &n, "--tp", c->value[CLI_TP]);
    add(b, &n, "--threads", c->value[CLI_THREADS]);
    add(b, &n, "--max-batch-tokens", c->value[CLI_MAX_BATCH_TOKENS]);
    add(b, &n, "--max-len", c->value[CLI_MAX_LEN]);
    add(b, &n, "--chat-template", c->value[CLI_CHAT_TEMPLATE]);
    add(b, &n, "--worker", c->value[CLI_WORKER]);
    const char *cache =
        c->value[CLI_NO_DEDUPE] ? NULL : DEFAULT_CACHE; /* they exclude each other */
    add(b, &n, "--score-cache", c->value[CLI_SCORE_CACHE] ? c->value[CLI_SCORE_CACHE] : cache);
    if (c->value[CLI_NO_DEDUPE])
        b->arguments[n++] = "--no-dedupe";
}

static int spawn(struct private_broker *b, struct err *e)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(
        &actions, STDERR_FILENO, b->log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    int rc = posix_spawn(&b->pid, b->program, &actions, NULL, b->arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (rc == 0)
        return 0;
    b->pid = 0;
    errno = rc;
    return err_errno(e, ASSAY_EIO, "cannot start %s", b->program);
}

int private_broker_start(
    struct private_broker **out, const struct cli *c, const char *data_dir, struct err *e)
{
    struct private_broker *b = xcalloc(1, sizeof *b);
    snprintf(b->program, sizeof b->program, "%s/assayd", c->bin_dir);
    snprintf(b->data, sizeof b->data, "%s", data_dir);
    snprintf(b->log, sizeof b->log, "%s/assayd.log", data_dir);
    set_arguments(b, c);
    b->first_try_ms = now_mono_ms();
    int rc = spawn(b, e);
    if (rc != 0) {
        free(b);
        return rc;
    }
    *out = b;
    return 0;
}

/* The last line of the broker's log, without its head (time, level, role, rank). */
static void last_words(const struct private_broker *b, char *text, size_t size)
{
    char line[1024];
    FILE *f = fopen(b->log, "re");
    snprintf(text, size, "it left no word in its log, assayd.log");
    while (f && fgets(line, sizeof line, f)) {
        int of_usage = strncmp(line, "assayd: ", 8) == 0; /* no line of the log */
        char *at = line;
        for (int i = 0; i < (of_usage ? 1 : 4) && strchr(at, ' '); i++)
            at = strchr(at, ' ') + 1;
        line[strcspn(line, "\n")] = '\0';
        char *quoted = strstr(at, " error=\""), *end = strrchr(at, '"');
        if (quoted && end > quoted + 8) { /* what went wrong, without its name in the log */
            at = quoted + 8;
            *end = '\0';
        }
        snprintf(text, size, "%.390s", at);
    }
    if (f)
        fclose(f);
}

static int refused(const struct private_broker *b, int exit_code, struct err *e)
{
    char words[400];
    last_words(b, words, sizeof words);
    int code = exit_code == EX_CONFIG || exit_code == EX_USAGE ? ASSAY_EFORMAT
               : exit_code == EX_TEMPFAIL                      ? ASSAY_EBUSY
               : exit_code == EX_NOPERM                        ? ASSAY_EUNAUTHORIZED
                                                               : ASSAY_EIO;
    return err_set(e, code, "the broker cannot serve: %s", words);
}

static int died_too_often(const struct private_broker *b, struct err *e)
{
    char words[400];
    last_words(b, words, sizeof words);
    return err_set(e, ASSAY_EIO,
        "the broker ended %d times, at last with: %.300s; its log is %.100s", b->restarts, words,
        b->log);
}

int private_broker_watch(void *arg, struct err *e)
{
    struct private_broker *b = arg;
    int status = 0;
    if (b->pid != 0 && waitpid(b->pid, &status, WNOHANG) != b->pid)
        return 0;
    b->pid = 0;
    if (status == 0)
        return spawn(b, e);
    int exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    int busy = exit_code == EX_TEMPFAIL && now_mono_ms() - b->first_try_ms < BUSY_MS;
    if (exit_code > 0 && exit_code != EX_IOERR && !busy)
        return refused(b, exit_code, e);
    if (!busy && ++b->restarts > MAX_RESTARTS)
        return died_too_often(b, e);
    return spawn(b, e);
}

/* Did it end within ms? */
static int ended(struct private_broker *b, long long ms)
{
    for (long long until = now_mono_ms() + ms; now_mono_ms() < until;) {
        struct timespec t = {0, 10000000};
        if (waitpid(b->pid, NULL, WNOHANG) != 0)
            return 1;
        nanosleep(&t, NULL);
    }
    return 0;
}

/* SIGTERM: it keeps what is done and finishes what is in flight. The second: it ends at once. */
void private_broker_stop(struct private_broker **out)
{
    struct private_broker *b = *out;
    if (!b)
        return;
    if (b->pid != 0) {
        kill(b->pid, SIGTERM);
        if (!ended(b, DRAIN_MS)) {
            kill(b->pid, SIGTERM);
            while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR)
                ;
        }
    }
    free(b);
    *out = NULL;
}
