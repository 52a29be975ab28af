/* lora.c - `assay lora`: adds adapters to a running broker, lists and removes them. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/connect.h"
#include "broker/cli/json_print.h"
#include "broker/cli/reply.h"
#include "schema/adapters.h"

#define ADD_MS 600000 /* the broker's answer comes when its workers have loaded the adapter */

static int print_reply(const json_t *reply)
{
    struct err e = {0};
    return json_print_line(stdout, reply, &e) == 0 ? EX_OK : cli_fail(&e);
}

static void print_list(const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *a = json_array_get(list, i);
        printf("%-24s %.12s  %s\n", reply_text(a, "name"), reply_text(a, "digest"),
            reply_text(a, "dir"));
    }
}

/* The length of "MODEL/" in front of an adapter's name; 0: there is none. */
static size_t model_of(const char *adapter)
{
    size_t n = strcspn(adapter, "/=");
    return adapter[n] == '/' && adapters_is_name(adapter, n) ? n + 1 : 0;
}

static void write_model(struct msg_writer *w, const struct cli *c)
{
    size_t n = model_of(c->second);
    if (n == 0)
        return;
    msg_str(w, "model");
    msg_str_len(w, c->second, n - 1);
}

/* The broker may have another working directory, so it gets the whole path. */
static int write_add(const struct cli *c, struct client *client)
{
    char path[PATH_MAX];
    const char *lora = c->second + model_of(c->second);
    size_t n = adapters_name_of(lora);
    if (n == 0)
        return cli_usage("lora add: expected NAME=DIR, NAME of letters, digits, '.', '_' and '-', "
                         "found '%s'",
            c->second);
    if (!realpath(lora + n + 1, path))
        return cli_usage("lora add: cannot find the directory '%s'", lora + n + 1);
    struct msg_writer *w = client_begin(client, "adapter_add", 2 + (lora > c->second));
    write_model(w, c);
    msg_str(w, "name");
    msg_str_len(w, lora, n);
    msg_key_str(w, "dir", path);
    return 0;
}

static void write_remove(const struct cli *c, struct client *client)
{
    size_t n = model_of(c->second);
    struct msg_writer *w = client_begin(client, "adapter_remove", 1 + (n > 0));
    write_model(w, c);
    msg_key_str(w, "name", c->second + n);
}

static int ask(const struct cli *c, struct client *client)
{
    struct err e = {0};
    json_t *reply = NULL;
    int adds = strcmp(c->operand, "add") == 0, lists = strcmp(c->operand, "list") == 0;
    int rc = adds ? write_add(c, client) : 0;
    if (rc != 0)
        return rc;
    if (lists)
        client_begin(client, "adapters", 0);
    else if (!adds)
        write_remove(c, client);
    if (client_call_patiently(client, adds ? ADD_MS : 0, &reply, &e) != 0)
        return cli_fail(&e);
    if (c->value[CLI_JSON])
        rc = print_reply(reply);
    else if (lists)
        print_list(json_object_get(reply, "adapters"));
    else
        printf("%s %s %.12s\n", adds ? "added" : "removed", reply_text(reply, "name"),
            reply_text(reply, "digest"));
    json_decref(reply);
    return rc;
}

int verb_lora(const struct cli *c)
{
    struct client *client = NULL;
    int lists = strcmp(c->operand, "list") == 0;
    if (!lists && strcmp(c->operand, "add") != 0 && strcmp(c->operand, "remove") != 0)
        return cli_usage("lora: expected add, list or remove, found '%s'", c->operand);
    if (lists == (c->second != NULL))
        return cli_usage("lora %s: expected %s, found %s", c->operand,
            lists                            ? "nothing more"
            : strcmp(c->operand, "add") == 0 ? "NAME=DIR"
                                             : "NAME",
            lists ? c->second : "nothing");
    int rc = cli_connect(c, &client);
    if (rc == 0)
        rc = ask(c, client);
    client_free(&client);
    return rc;
}
