/* served.h - a model that the broker serves: its checkpoint, what is known of it, how its text is
 * written, and its groups of workers.
 *
 * The broker has a list of them (broker.h). Group `number` of the list of groups is of the model
 * number / --replicas: each model has as many as --replicas says. */
#ifndef ASSAY_SERVED_H
#define ASSAY_SERVED_H

#include "broker/sched/planner.h"
#include "broker/text/compose.h"
#include "broker/workers/group.h"
#include "broker/workers/model_info.h"

struct broker;

struct served_model {
    uint32_t number;                  /* its place in the list, and in the store's */
    uint32_t id;                      /* no other gets it */
    const char *given, *given_name;   /* its directory as it was given, and its name; "": none */
    const char *loras[ADAPTERS_MOST]; /* NAME=DIR, those that it begins with */
    uint32_t n_loras;
    char *dir; /* resolved when it is opened: a symbolic link may change later */
    struct model_info info;
    struct model_question question; /* about it */
    struct text_options text_options;
    struct text_model text;              /* its tokenizer and chat template */
    struct group_adapters rank_adapters; /* what the groups load */
    const char *head;                    /* --head, or the recipe's */
    char recipe_head[RECIPE_HEAD_BYTES];
};

/* What the store is to know of it. */
struct store_model served_for_store(const struct served_model *m);
/* Describes the checkpoint, digests it, and reads its text files. The caller ends *m with
 * served_release, also after a failure. */
int served_open(struct broker *b, struct served_model *m, struct err *e);
void served_release(struct served_model *m); /* NULL-safe; its groups are gone */

/* What a batch of it may hold. */
struct planner_limits served_limits(const struct broker *b, const struct served_model *m);
/* Makes its groups, in the broker's list. */
int served_open_groups(struct broker *b, const struct served_model *m, struct err *e);
/* The model that group g is of. */
struct served_model *served_of_group(const struct broker *b, int g);

#endif
