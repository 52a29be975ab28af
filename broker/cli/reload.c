/* reload.c - `assay reload`: another checkpoint for a model of a running broker. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/progress.h"
#include "broker/cli/reply.h"
#include "broker/cli/screen.h"
#include "schema/adapters.h"
#include "schema/clock.h"

#define RELOAD_MS 3600000 /* the answer comes when the new checkpoint is ready */
#define LOOK_MS 500

/* While the answer is awaited, another connection asks how far it is. */
struct watch {
    struct client *client;
    struct progress progress;
    struct waiting waiting;
    long long began_ms, due_ms;
};

static int show_progress(void *arg, struct err *e)
{
    struct watch *w = arg;
    struct err ignored;
    json_t *info = NULL;
    char line[160];
    long long now_ms = now_mono_ms();
    (void)e;
    if (now_ms < w->due_ms)
        return 0;
    client_begin(w->client, "info", 0);
    if (client_call(w->client, 0, &info, &ignored) == 0) {
        const json_t *reload = json_object_get(info, "reload");
        const char *state = reply_text(reload, "state");
        snprintf(line, sizeof line, "%s of '%.80s': %lld s",
            strcmp(state, "opening") == 0 ? "reading the files" : "loading the weights",
            reply_text(reload, "model"), (now_ms - w->began_ms) / 1000);
        progress_note(&w->progress, state[0] ? line : NULL);
        json_decref(info);
    }
    w->due_ms = now_mono_ms() + LOOK_MS;
    return 0;
}

static int begin_watch(const struct cli *c, struct client *client, struct watch *w)
{
    progress_init(&w->progress, c->stderr_tty, -1);
    w->waiting = (struct waiting){.progress = &w->progress};
    w->began_ms = now_mono_ms();
    w->due_ms = w->began_ms + LOOK_MS;
    if (!c->stderr_tty)
        return 0;
    int rc = cli_connect(c, &w->client);
    if (rc != 0)
        return rc;
    client_set_waiting(w->client, &w->waiting);
    client_set_waiting(client, &w->waiting);
    client_set_watch(client, show_progress, w);
    return 0;
}

/* The broker may have another working directory, so it gets the whole path. */
static int write_request(const struct cli *c, struct client *client)
{
    char path[PATH_MAX];
    struct stat st; /* a path with '=' in it is one, as for assayd */
    size_t n = stat(c->operand, &st) == 0 ? 0 : adapters_name_of(c->operand);
    const char *dir = c->operand + (n > 0 ? n + 1 : 0);
    if (!realpath(dir, path))
        return cli_usage("reload: cannot find the directory '%s'", dir);
    struct msg_writer *w = client_begin(client, "reload", 1 + (n > 0));
    if (n > 0) {
        msg_str(w, "model");
        msg_str_len(w, c->operand, n);
    }
    msg_key_str(w, "dir", path);
    return 0;
}

static void print_reply(const json_t *reply)
{
    const char *dir = reply_text(reply, "dir"), *at_start = reply_text(reply, "at_start");
    const json_t *name;
    size_t k;
    print_safely(stdout, reply_text(reply, "model"));
    printf("%s %.12s from ",
        json_is_true(json_object_get(reply, "changed")) ? ": new jobs are scored by" : " has",
        reply_text(reply, "digest"));
    print_safely(stdout, dir);
    json_array_foreach(json_object_get(reply, "adapters"), k, name)
    {
        printf(k == 0 ? ", with the adapters " : ", ");
        print_safely(stdout, json_string_value(name) ? json_string_value(name) : "");
    }
    printf("\n");
    if (strcmp(at_start, dir) != 0)
        cli_say("the next start of assayd serves '%s' again, as its options say: change --model",
            at_start);
}

static int ask(const struct cli *c, struct client *client)
{
    struct err e = {0};
    struct watch watch = {0};
    json_t *reply = NULL;
    int rc = write_request(c, client);
    if (rc == 0)
        rc = begin_watch(c, client, &watch);
    if (rc != 0)
        return rc;
    int failed = client_call_patiently(client, RELOAD_MS, &reply, &e);
    progress_end(&watch.progress);
    if (failed != 0)
        rc = cli_fail(&e);
    else if (!c->value[CLI_JSON])
        print_reply(reply);
    else if (json_print_line(stdout, reply, &e) != 0)
        rc = cli_fail(&e);
    json_decref(reply);
    client_free(&watch.client);
    return rc;
}

static int cancel(const struct cli *c, struct client *client)
{
    struct err e = {0};
    json_t *reply = NULL;
    int rc = 0;
    client_begin(client, "reload_cancel", 0);
    if (client_call_patiently(client, 0, &reply, &e) != 0)
        rc = cli_fail(&e);
    else if (c->value[CLI_JSON])
        rc = json_print_line(stdout, reply, &e) != 0 ? cli_fail(&e) : 0;
    else {
        print_safely(stdout, reply_text(reply, "model"));
        printf(": the reload from ");
        print_safely(stdout, reply_text(reply, "dir"));
        printf(" is cancelled\n");
    }
    json_decref(reply);
    return rc;
}

int verb_reload(const struct cli *c)
{
    struct client *client = NULL;
    int is_cancel = c->value[CLI_CANCEL] != NULL;
    if (is_cancel == (c->operand != NULL))
        return cli_usage("reload: expected [NAME=]DIR, or --cancel without it; found %s",
            is_cancel ? "both" : "neither");
    int rc = cli_connect(c, &client);
    if (rc == 0)
        rc = is_cancel ? cancel(c, client) : ask(c, client);
    client_free(&client);
    return rc;
}
