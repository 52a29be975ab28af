/* routes.c - see routes.h. */
#include "broker/http/routes.h"

#include <string.h>

static const struct route routes[] = {
    {"/classify", ROUTE_SCORES, "classify", ask_classify, answer_classify, NULL},
    {"/v1/classify", ROUTE_SCORES, "classify", ask_classify, answer_classify, NULL},
    {"/v1/embeddings", ROUTE_SCORES, "embd", ask_embeddings, answer_embeddings, NULL},
    {"/pooling", ROUTE_SCORES, "pooling", ask_pooling, answer_pooling, NULL},
    {"/score", ROUTE_SCORES, "score", ask_score, answer_score, NULL},
    {"/v1/score", ROUTE_SCORES, "score", ask_score, answer_score, NULL},
    {"/rerank", ROUTE_SCORES, "rerank", ask_rerank, answer_rerank, NULL},
    {"/v1/rerank", ROUTE_SCORES, "rerank", ask_rerank, answer_rerank, NULL},
    {"/v2/rerank", ROUTE_SCORES, "rerank", ask_rerank, answer_rerank, NULL},
    {"/get_reward", ROUTE_SCORES, "reward", ask_get_reward, answer_get_reward, NULL},
    {"/rm", ROUTE_SCORES, "rm", ask_rm, answer_rm, "prompt"},
    {"/health", ROUTE_HEALTH, NULL, NULL, NULL, NULL},
    {"/ready", ROUTE_READY, NULL, NULL, NULL, NULL},
    {"/v1/models", ROUTE_MODELS, NULL, NULL, NULL, NULL},
    {"/version", ROUTE_VERSION, NULL, NULL, NULL, NULL},
    {"/metrics", ROUTE_METRICS, NULL, NULL, NULL, NULL},
};

#define N_ROUTES ((int)(sizeof routes / sizeof routes[0]))
_Static_assert(sizeof routes / sizeof routes[0] <= ROUTES_MOST, "metrics have a line for each");

const struct route *route_at(int k)
{
    return k >= 0 && k < N_ROUTES ? &routes[k] : NULL;
}

const struct route *route_find(const char *path)
{
    for (int k = 0; k < N_ROUTES; k++)
        if (strcmp(routes[k].path, path) == 0)
            return &routes[k];
    return NULL;
}

int route_index(const struct route *route)
{
    return route ? (int)(route - routes) : ROUTES_MOST;
}
