/* connect.c - finds the broker's endpoint, checks that this user may connect, and connects
 * (connect.h). */
#include "broker/cli/connect.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/endpoint.h"

/* The other user whom the file's folder is of; NULL: it is ours, or that cannot be found out. */
static const char *owner_of(const char *path)
{
    char folder[4200];
    struct stat st;
    const char *slash = strrchr(path, '/');
    int n = snprintf(
        folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if (n <= 0 || n >= (int)sizeof folder || stat(folder, &st) != 0 || st.st_uid == geteuid())
        return NULL;
    const struct passwd *user = getpwuid(st.st_uid);
    return user ? user->pw_name : NULL;
}

int cli_check_access(const char *path, int mode, const char *from)
{
    struct err e = {0};
    if (faccessat(AT_FDCWD, path, mode, AT_EACCESS) == 0 || errno != EACCES)
        return 0;
    const char *owner = owner_of(path);
    err_set(&e, ASSAY_EUNAUTHORIZED, "'%s'%s%s%s: %s%s%s%s", path, from ? " (from " : "",
        from ? from : "", from ? ")" : "", strerror(EACCES),
        owner ? "; its folder is for one user alone: try `sudo -u " : "", owner ? owner : "",
        owner ? " assay ..`" : "");
    return cli_fail(&e);
}

const char *cli_data_from(const struct cli *c)
{
    return !c->value[CLI_DATA] && c->state_is_named ? "ASSAY_DATA" : NULL;
}

/* Checks permission first: libzmq would try a socket that is denied to us again and again. */
static int check_socket(const struct cli *c, const char *data, const char *name)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", data, name);
    return cli_check_access(path, W_OK, data == c->state_dir ? cli_data_from(c) : NULL);
}

/* Sets *ms to --timeout. Returns 0 or EX_USAGE. */
static int begin(const struct cli *c, int *ms)
{
    long seconds;
    cli_catch_signals();
    int rc = cli_number(c, CLI_TIMEOUT, 1, 86400, 15, &seconds);
    *ms = rc == 0 ? (int)seconds * 1000 : 0;
    return rc;
}

/* owner: see endpoint_socket. */
static int connect_in(const struct cli *c, const char *data, int owner, struct client **client)
{
    char name[ENDPOINT_SOCKET_BYTES];
    struct err e = {0};
    int timeout_ms, rc = begin(c, &timeout_ms);
    endpoint_socket(name, owner);
    if (rc == 0)
        rc = check_socket(c, data, name);
    if (rc != 0)
        return rc;
    return client_new_in(client, data, name, timeout_ms, &e) == 0 ? 0 : cli_fail(&e);
}

int cli_connect_own(const struct cli *c, const char *data, struct client **client)
{
    return connect_in(c, data, (int)getpid(), client);
}

/* from: the option or variable that names the endpoint. */
static int connect_named(
    const struct cli *c, const char *from, const char *endpoint, struct client **client)
{
    struct endpoint parsed = {0};
    struct err e = {0};
    int timeout_ms, rc = begin(c, &timeout_ms);
    if (rc == 0 && endpoint_parse(&parsed, endpoint, ENDPOINT_CONNECT, &e) != 0)
        return cli_usage("%s: %s", from, e.msg);
    if (rc == 0 && parsed.path)
        rc = cli_check_access(parsed.path, W_OK, *from != '-' ? from : NULL);
    if (rc != 0)
        return rc;
    if (client_new(client, endpoint, timeout_ms, &e) != 0)
        return cli_fail(&e);
    if (*from != '-')
        client_say_from(*client, from);
    return 0;
}

int cli_connect(const struct cli *c, struct client **client)
{
    const char *data;
    if (c->value[CLI_CONNECT])
        return connect_named(c, "--connect", c->value[CLI_CONNECT], client);
    if (c->endpoint && !c->value[CLI_DATA])
        return connect_named(c, "ASSAY_ENDPOINT", c->endpoint, client);
    int rc = cli_data_dir(c, &data);
    if (rc == 0)
        rc = connect_in(c, data, 0, client);
    if (rc == 0 && cli_data_from(c))
        client_say_from(*client, cli_data_from(c));
    return rc;
}

void cli_write_job(struct msg_writer *w, const char *text)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    msg_str(w, "job");
    if (*text >= '0' && *text <= '9' && *end == '\0' && errno == 0)
        msg_int(w, number);
    else
        msg_str(w, text);
}

int cli_list_jobs(struct client *client, int64_t after, json_t *jobs, struct err *e)
{
    for (size_t n = 1; n > 0;) {
        json_t *reply = NULL;
        msg_key_int(client_begin(client, "jobs", 1), "after", after);
        int rc = client_call_patiently(client, 0, &reply, e);
        if (rc != 0)
            return rc;
        n = json_array_size(json_object_get(reply, "jobs"));
        json_array_extend(jobs, json_object_get(reply, "jobs"));
        after = json_integer_value(json_object_get(reply, "next"));
        json_decref(reply);
    }
    return 0;
}

/* Returns where a file that does not exist yet will be, or path itself if its folder does not exist
 * either. */
static const char *future_path(const char *path, char whole[PATH_MAX])
{
    char folder[PATH_MAX], real[PATH_MAX];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    int n =
        snprintf(folder, sizeof folder, "%.*s", slash ? (int)(name - path) : 1, slash ? path : ".");
    if (n < 0 || n >= PATH_MAX || !realpath(folder, real))
        return path;
    n = snprintf(whole, PATH_MAX, "%s/%s", strcmp(real, "/") == 0 ? "" : real, name);
    return n > 0 && n < PATH_MAX ? whole : path;
}

static void hash_path(crypto_generichash_state *hash, const char *path)
{
    char whole[PATH_MAX];
    if (!path)
        path = "-";
    if (strcmp(path, "-") != 0)
        path = realpath(path, whole) ? whole : future_path(path, whole);
    crypto_generichash_update(hash, (const unsigned char *)path, strlen(path) + 1);
}

int cli_default_key(const struct cli *c, char *key, size_t size)
{
    unsigned char digest[16];
    char hex[2 * sizeof digest + 1];
    if (sodium_init() < 0)
        return cli_usage("libsodium cannot start");
    int from_stdin = !c->operand || strcmp(c->operand, "-") == 0;
    if (c->value[CLI_KEY])
        return cli_path(key, size, "%s", c->value[CLI_KEY]);
    if (from_stdin) {
        randombytes_buf(digest, sizeof digest);
    } else {
        crypto_generichash_state hash;
        crypto_generichash_init(&hash, NULL, 0, sizeof digest);
        hash_path(&hash, c->operand);
        hash_path(&hash, c->value[CLI_OUTPUT]);
        hash_path(&hash, c->value[CLI_MODEL]);
        crypto_generichash_final(&hash, digest, sizeof digest);
    }
    return cli_path(
        key, size, "score-%.16s", sodium_bin2hex(hex, sizeof hex, digest, sizeof digest));
}
