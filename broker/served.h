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

/* A new checkpoint is loaded beside the current one, takes its name, and leaves it as old; the old
 * one ends once no unfinished job needs it (reload.h). */
enum served_state { SERVED_CURRENT, SERVED_LOADING, SERVED_OLD, SERVED_ENDING };

struct served_model {
    enum served_state state;
    uint32_t number;                  /* its place in the list, and in the store's */
    uint32_t id;                      /* no other gets it */
    uint32_t rank;                    /* of its name in the options; a reload takes it over */
    const char *given, *given_name;   /* its directory as it was given, and its name; "": none */
    char *own_given;                  /* a reload's; NULL: it is in the options */
    const char *loras[ADAPTERS_MOST]; /* NAME=DIR, those that it begins with */
    uint32_t n_loras;
    char *own_loras[ADAPTERS_MOST]; /* a reload's, which loras names; NULL: in the options */
    char *dir;         /* resolved when it is opened: a symbolic link may change later */
    int64_t needed_by; /* an old one's: a job that needed it as it was last looked; 0: none */
    struct model_info info;
    struct model_question question; /* about it */
    struct text_options text_options;
    struct text_model text;              /* its tokenizer and chat template */
    struct group_adapters rank_adapters; /* what the groups load */
    const char *head;                    /* --head, or the recipe's */
    char recipe_head[RECIPE_HEAD_BYTES];
};

/* The current model of this name's rank; NULL: there is none. */
struct served_model *served_of_rank(const struct broker *b, uint32_t rank);
/* That of rows that name none. */
struct served_model *served_first(const struct broker *b);
/* How many are there still that were replaced (SERVED_OLD, SERVED_ENDING). */
uint32_t served_count_earlier(const struct broker *b);

/* What the store is to know of it. */
struct store_model served_for_store(const struct served_model *m);
/* Describes the checkpoint, digests it, and reads its text files. The caller ends *m with
 * served_release, also after a failure. In any thread. stop_fd: as model_info.h has it. */
int served_open(struct broker *b, struct served_model *m, int stop_fd, struct err *e);
void served_release(struct served_model *m); /* NULL-safe; its groups are gone */

/* What a batch of it may hold. */
struct planner_limits served_limits(const struct broker *b, const struct served_model *m);
/* Looks at all unfinished jobs again, outside of a transaction: a model or an adapter has come or
 * gone, and they may be held by it, or be held no more. */
void served_jobs_changed(struct broker *b);
/* The number of its i-th group in the broker's list. */
int served_group(const struct broker *b, const struct served_model *m, int i);
/* Makes its groups, in the broker's list. Some may be there after a failure. */
int served_open_groups(struct broker *b, const struct served_model *m, struct err *e);
/* The same contents are in the directory of `from`, which gives it away: the groups read that one
 * at their next start. */
void served_take_directory(struct broker *b, struct served_model *m, struct served_model *from);
/* Ends its groups, and takes it and them out of the broker's lists. No batch of it is in use. */
void served_drop(struct broker *b, struct served_model *m);
/* The first group from number g on; b->n_groups: there is none. */
int served_next_group(const struct broker *b, int g);
/* The model that group g is of. */
struct served_model *served_of_group(const struct broker *b, int g);

#endif
