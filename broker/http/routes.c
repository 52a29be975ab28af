/* routes.c - see routes.h. */
#include "broker/http/routes.h"

#include <string.h>

#define SCORES(path, family, arguments) {path, ROUTE_SCORES, ROUTE_POST, &family, arguments, 0},
#define PAGE(path, kind)                                                                           \
    {                                                                                              \
        path, kind, ROUTE_GET, NULL, NULL, 0                                                       \
    }
#define STORED(path, kind, methods, arguments)                                                     \
    {                                                                                              \
        path, kind, methods, NULL, arguments, 0                                                    \
    }

#define DESK(path, what)                                                                           \
    {                                                                                              \
        path, (what) < DESK_PAUSE ? ROUTE_LOOK : ROUTE_CHANGE,                                     \
            (what) < DESK_PAUSE ? ROUTE_GET : ROUTE_POST, NULL, NULL, what                         \
    }

static const struct route routes[] = {
    FAMILY_PATHS(SCORES) PAGE("/health", ROUTE_HEALTH),
    PAGE("/ready", ROUTE_READY),
    PAGE("/v1/models", ROUTE_MODELS),
    PAGE("/version", ROUTE_VERSION),
    PAGE("/metrics", ROUTE_METRICS),
    PAGE("/", ROUTE_ASSET),
    PAGE("/page.css", ROUTE_ASSET),
    PAGE("/page.js", ROUTE_ASSET),
    PAGE("/api/overview.json", ROUTE_OVERVIEW),
    DESK("/api/jobs.json", DESK_JOBS),
    DESK("/api/throughput.json", DESK_THROUGHPUT),
    DESK("/api/jobs/{id}/scores.json", DESK_SCORES),
    DESK("/api/jobs/{id}/failed.json", DESK_FAILED),
    DESK("/api/jobs/{id}/pause", DESK_PAUSE),
    DESK("/api/jobs/{id}/resume", DESK_RESUME),
    DESK("/api/jobs/{id}/cancel", DESK_CANCEL),
    DESK("/api/jobs/{id}/retry", DESK_RETRY),
    STORED("/v1/files", ROUTE_FILES, ROUTE_GET | ROUTE_POST, "after limit order purpose"),
    STORED("/v1/files/{id}", ROUTE_FILE, ROUTE_GET | ROUTE_DELETE, NULL),
    STORED("/v1/files/{id}/content", ROUTE_CONTENT, ROUTE_GET, NULL),
    STORED("/v1/batches", ROUTE_BATCHES, ROUTE_GET | ROUTE_POST, "after limit"),
    STORED("/v1/batches/{id}", ROUTE_BATCH, ROUTE_GET, NULL),
    STORED("/v1/batches/{id}/cancel", ROUTE_CANCEL, ROUTE_POST, NULL),
};

#define N_ROUTES ((int)(sizeof routes / sizeof routes[0]))
_Static_assert(sizeof routes / sizeof routes[0] <= ROUTES_MOST, "metrics have a line for each");

const struct route *route_at(int k)
{
    return k >= 0 && k < N_ROUTES ? &routes[k] : NULL;
}

/* Is it the route's path? What stands for {id} is not empty and has no slash. */
static int is_path(const char *route, const char *path, char id[FOLDER_ID_BYTES])
{
    const char *brace = strchr(route, '{');
    size_t before = brace ? (size_t)(brace - route) : strlen(route);
    id[0] = '\0';
    if (!brace)
        return strcmp(route, path) == 0;
    if (strncmp(route, path, before) != 0)
        return 0;
    size_t n = strcspn(path + before, "/");
    if (n == 0 || strcmp(path + before + n, strchr(brace, '}') + 1) != 0)
        return 0;
    /* one that is too long is none of ours, and stays one that is not found */
    size_t kept = n < FOLDER_ID_BYTES ? n : FOLDER_ID_BYTES - 1;
    memcpy(id, path + before, kept);
    id[kept] = '\0';
    return 1;
}

const struct route *route_find(const char *path, char id[FOLDER_ID_BYTES])
{
    for (int k = 0; k < N_ROUTES; k++)
        if (is_path(routes[k].path, path, id))
            return &routes[k];
    return NULL;
}

int route_index(const struct route *route)
{
    return route ? (int)(route - routes) : ROUTES_MOST;
}

unsigned route_method(const char *method)
{
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
        return ROUTE_GET;
    return strcmp(method, "POST") == 0     ? ROUTE_POST
           : strcmp(method, "DELETE") == 0 ? ROUTE_DELETE
                                           : 0;
}

int route_is_stored(const struct route *route)
{
    return route->kind >= ROUTE_FILES;
}

const char *route_allowed(const struct route *route)
{
    switch (route->methods) {
    case ROUTE_GET:
        return "GET, HEAD";
    case ROUTE_POST:
        return "POST";
    case ROUTE_GET | ROUTE_DELETE:
        return "GET, HEAD, DELETE";
    default:
        return "GET, HEAD, POST";
    }
}
