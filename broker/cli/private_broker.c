/* private_broker.c - spawns assayd, watches its socket and its log, and says why it ended
 * (private_broker.h). */
#include "broker/cli/private_broker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "broker/store/store.h"
#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/endpoint.h"

#define MAX_ARGUMENTS (56 + 2 * ADAPTERS_MOST)
#define OWNED "--exit-with-parent=" /* with a process id: a private broker's first argument */
#define MAX_RESTARTS 10
#define DRAIN_MS 2000 /* time to finish what is in flight; nothing is, once all results are there */
#define DEFAULT_CACHE "256M" /* helps the next run, after the input was mended */
#define BUSY_MS 20000        /* how long an earlier broker may take to leave the directory */
#define LAST_MS 3000         /* between the second SIGTERM and SIGKILL */

extern char **environ;

struct private_broker {
    char program[4200], log[4200], socket[4200], data[4096], parent[40];
    char *arguments[MAX_ARGUMENTS];
    pid_t pid;            /* 0: not running */
    int status, restarts; /* how it ended last, and how often */
    int names_log;        /* an error named the log file */
    long log_from;        /* earlier bytes of the log are of other brokers */
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
    snprintf(b->parent, sizeof b->parent, OWNED "%d", (int)getpid());
    b->arguments[n++] = b->parent;
    add(b, &n, "--data", b->data);
    add(b, &n, "--model", c->value[CLI_MODEL]);
    add(b, &n, "--device", c->value[CLI_DEVICE]);
    add(b, &n, "--devices", c->value[CLI_DEVICES]);
    add(b, &n, "--quant", c->value[CLI_QUANT]);
    add(b, &n, "--dtype", c->value[CLI_DTYPE]);
    add(b, &n, "--weights", c->value[CLI_WEIGHTS]);
    add(b, &n, "--activations", c->value[CLI_ACTIVATIONS]);
    add(b, &n, "--head", c->value[CLI_HEAD]);
    for (int i = 0; i < c->n_loras; i++)
        add(b, &n, "--lora", c->loras[i]);
    add(b, &n, "--recipe", c->value[CLI_RECIPE]);
    add(b, &n, "--tail", c->value[CLI_TAIL]);
    add(b, &n, "--tp", c->value[CLI_TP]);
    add(b, &n, "--pp", c->value[CLI_PP]);
    add(b, &n, "--threads", c->value[CLI_THREADS]);
    add(b, &n, "--max-batch-tokens", c->value[CLI_MAX_BATCH_TOKENS]);
    add(b, &n, "--max-len", c->value[CLI_MAX_LEN]);
    add(b, &n, "--chat-template", c->value[CLI_CHAT_TEMPLATE]);
    add(b, &n, "--template-date", c->value[CLI_TEMPLATE_DATE]);
    add(b, &n, "--worker", c->value[CLI_WORKER]);
    const char *cache =
        c->value[CLI_NO_DEDUPE] ? NULL : DEFAULT_CACHE; /* they exclude each other */
    add(b, &n, "--score-cache", c->value[CLI_SCORE_CACHE] ? c->value[CLI_SCORE_CACHE] : cache);
    add(b, &n, "--kv-cache", c->value[CLI_KV_CACHE]);
    if (c->value[CLI_NO_DEDUPE])
        b->arguments[n++] = "--no-dedupe";
}

/* Has this broker made its socket? spawn() removed that of one before it. */
static int listens(const struct private_broker *b)
{
    return access(b->socket, F_OK) == 0;
}

/* Is it stopped, as by SIGSTOP: alive but idle? */
static int is_stopped(const struct private_broker *b)
{
    char path[40], text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)b->pid);
    FILE *f = b->pid != 0 ? fopen(path, "re") : NULL;
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = '\0';
    if (f)
        fclose(f);
    const char *name_end = strrchr(text, ')');
    return name_end && (name_end[1] == ' ') && (name_end[2] == 'T' || name_end[2] == 't');
}

/* Opens the log to write to its end. Returns the descriptor, or an error: it never waits, as it
 * would where the file is a pipe without a reader. */
static int open_log(struct private_broker *b, struct err *e)
{
    struct stat st;
    int fd =
        open(b->log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, ASSAY_EIO, "%s: cannot open it to write", b->log);
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        b->log_from = (long)st.st_size;
        return fd;
    }
    close(fd);
    return err_set(e, ASSAY_EIO, "%s: expected a regular file, found another", b->log);
}

static int spawn(struct private_broker *b, struct err *e)
{
    posix_spawn_file_actions_t actions;
    int log = open_log(b, e);
    if (log < 0)
        return log;
    unlink(b->socket);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, log, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
    int rc = posix_spawn(&b->pid, b->program, &actions, NULL, b->arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(log);
    if (rc == 0)
        return 0;
    b->pid = 0;
    errno = rc;
    return err_errno(e, ASSAY_EIO, "cannot start %s", b->program);
}

int private_broker_start(
    struct private_broker **out, const struct cli *c, const char *data_dir, struct err *e)
{
    char name[ENDPOINT_SOCKET_BYTES];
    struct private_broker *b = xcalloc(1, sizeof *b);
    snprintf(b->program, sizeof b->program, "%s/assayd", c->bin_dir);
    snprintf(b->data, sizeof b->data, "%s", data_dir);
    snprintf(b->log, sizeof b->log, "%s/assayd.log", data_dir);
    endpoint_socket(name, (int)getpid());
    snprintf(b->socket, sizeof b->socket, "%s/%s", data_dir, name);
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

enum weight { NOTHING, UNFORMED, WARNING, ERROR }; /* how much a line of the log matters */

/* Ends the text at its closing quote, and takes the backslashes away that quotes and backslashes have
 * in a log. */
static void unquote(char *text)
{
    char *to = text;
    for (const char *at = text; *at && *at != '"'; at++) {
        at += *at == '\\' && at[1] != '\0';
        *to++ = *at;
    }
    *to = '\0';
}

/* Extracts the message of a log line, without its head (time, level, role, rank). */
static enum weight read_words(char *line, char *text, size_t size)
{
    int of_usage = strncmp(line, "assayd: ", 8) == 0; /* a usage error, not a log line */
    const char *level = strchr(line, ' ');
    enum weight weight = of_usage || (level && strncmp(level, " error ", 7) == 0) ? ERROR
                         : level && strncmp(level, " warn ", 6) == 0              ? WARNING
                         : level && strncmp(level, " info ", 6) == 0              ? NOTHING
                                                                                  : UNFORMED;
    char *at = line;
    for (int i = 0; i < (of_usage ? 1 : 4) && strchr(at, ' '); i++)
        at = strchr(at, ' ') + 1;
    char *quoted = strstr(at, " error=\"");
    if (quoted) { /* the reason, without its key in the log */
        at = quoted + 8;
        unquote(at);
    }
    snprintf(text, size, "%.390s", at);
    return weight;
}

/* Finds the last warning or error in the broker's log; without any, the last line that has no log
 * format. */
static enum weight last_words(const struct private_broker *b, char *text, size_t size)
{
    char line[1024], words[400];
    enum weight most = NOTHING;
    FILE *f = fopen(b->log, "re");
    snprintf(text, size, "it left no word in its log, assayd.log");
    if (f)
        fseek(f, b->log_from, SEEK_SET);
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        enum weight weight = read_words(line, words, sizeof words);
        if (weight != NOTHING && (weight >= WARNING || most < WARNING)) {
            snprintf(text, size, "%s", words);
            most = weight;
        }
    }
    if (f)
        fclose(f);
    return most;
}

static const char *signal_name(int number)
{
    static const struct {
        int number;
        const char *name;
    } names[] = {{SIGHUP, "SIGHUP"}, {SIGINT, "SIGINT"}, {SIGQUIT, "SIGQUIT"}, {SIGILL, "SIGILL"},
        {SIGABRT, "SIGABRT"}, {SIGBUS, "SIGBUS"}, {SIGFPE, "SIGFPE"}, {SIGKILL, "SIGKILL"},
        {SIGSEGV, "SIGSEGV"}, {SIGPIPE, "SIGPIPE"}, {SIGTERM, "SIGTERM"}, {SIGXCPU, "SIGXCPU"},
        {SIGXFSZ, "SIGXFSZ, a file would grow beyond `ulimit -f`"}, {SIGSYS, "SIGSYS"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].number == number)
            return names[i].name;
    return strsignal(number);
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

/* Is the process a broker that a run has for itself? One that an earlier run left ends by
 * itself. */
static int is_private(int pid)
{
    char path[40], text[4096];
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = '\0';
    if (f)
        fclose(f);
    for (size_t at = 0; at < n; at += strlen(text + at) + 1)
        if (strncmp(text + at, OWNED, strlen(OWNED)) == 0)
            return 1;
    return n == 0; /* it has ended */
}

/* Something has the directory: refuses a broker that stays. */
static int check_holder(const struct private_broker *b, struct err *e)
{
    int holder = store_lock_holder(b->data);
    if (is_private(holder))
        return 0;
    return err_set(e, ASSAY_EBUSY,
        "a broker (process %d) runs on '%.200s': leave out --model to have it score, or take "
        "another directory (--data)",
        holder, b->data);
}

static int died_too_often(struct private_broker *b, struct err *e)
{
    char words[400], how[80] = "";
    enum weight weight = last_words(b, words, sizeof words);
    int is_signal = WIFSIGNALED(b->status);
    if (is_signal)
        snprintf(how, sizeof how, "by %s", signal_name(WTERMSIG(b->status)));
    else
        snprintf(how, sizeof how, "with exit code %d", WEXITSTATUS(b->status));
    int tells =
        is_signal ? weight == ERROR : weight > NOTHING; /* a warning does not explain a signal */
    b->names_log = 1;
    return err_set(e, ASSAY_EIO, "the broker ended %d times, at last %s%s%.200s; its log is %.100s",
        b->restarts, how, tells ? ": " : "", tells ? words : "", b->log);
}

int private_broker_is_silent(struct private_broker *b, int waited_s, struct err *e)
{
    char words[400];
    int has_words = last_words(b, words, sizeof words) > NOTHING;
    b->names_log = 1;
    return err_set(e, ASSAY_ENOTREADY,
        "the private broker (process %d) does not answer: nothing heard for %d s%s%s%.200s; its "
        "log is %.100s",
        (int)b->pid, waited_s, is_stopped(b) ? "; it is stopped, as by SIGSTOP" : "",
        has_words ? "; it says: " : "", has_words ? words : "", b->log);
}

int private_broker_names_log(const struct private_broker *b)
{
    return b && b->names_log;
}

int private_broker_watch(void *arg, struct err *e)
{
    struct private_broker *b = arg;
    if (b->pid != 0 && waitpid(b->pid, &b->status, WNOHANG) != b->pid)
        return listens(b) || is_stopped(b) ? 0 : PRIVATE_BROKER_STARTING;
    b->pid = 0;
    if (b->status != 0) {
        int exit_code = WIFEXITED(b->status) ? WEXITSTATUS(b->status) : -1;
        int busy = exit_code == EX_TEMPFAIL && now_mono_ms() - b->first_try_ms < BUSY_MS;
        if (exit_code == EX_TEMPFAIL && check_holder(b, e) != 0)
            return e->code;
        if (exit_code > 0 && exit_code != EX_IOERR && !busy)
            return refused(b, exit_code, e);
        if (!busy && ++b->restarts > MAX_RESTARTS)
            return died_too_often(b, e);
    }
    int rc = spawn(b, e);
    return rc == 0 ? PRIVATE_BROKER_STARTING : rc;
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

/* The first SIGTERM lets the broker finish what is in flight, the second ends it at once. A broker
 * that does not react is killed, and its workers end with it. */
void private_broker_stop(struct private_broker **out)
{
    struct private_broker *b = *out;
    if (!b)
        return;
    if (b->pid != 0) {
        kill(b->pid, SIGTERM);
        if (is_stopped(b) || !ended(b, DRAIN_MS)) {
            kill(b->pid, SIGTERM);
            if (is_stopped(b) || !ended(b, LAST_MS))
                kill(b->pid, SIGKILL); /* stopped or stuck; what it acknowledged is on disk */
            while (waitpid(b->pid, NULL, 0) < 0 && errno == EINTR)
                ;
        }
    }
    unlink(b->socket); /* one that was killed leaves it */
    free(b);
    *out = NULL;
}
