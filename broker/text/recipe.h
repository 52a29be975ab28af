/* recipe.h - recipes: how published reward models are scored where a checkpoint's files do not say
 * it. One table (recipe.c) holds them, and `assay info --recipes` prints it.
 *
 * A recipe names the architectures that it is for, the head (rows of a language model's own head,
 * whose tokens are looked up in the tokenizer, or the architecture's), and the rows that it takes.
 * Each entry follows its publisher's own code. A recipe is chosen by name (--recipe) and is then
 * part of a score's mode. Two are taken by themselves (by_itself), for the rows that they write
 * alone.
 *
 * Its rows are scored as it says: an option or a row's field that says otherwise is an error.
 * Token ids and texts as they are may be sent under every recipe. */
#ifndef ASSAY_RECIPE_H
#define ASSAY_RECIPE_H

#include "broker/text/tail.h"
#include "broker/text/tokenizer.h"
#include "schema/err.h"

#define RECIPE_HEAD_BYTES 48
#define RECIPE_NAMES_BYTES 256

/* The kinds of rows that a recipe takes. */
enum {
    RECIPE_ANSWERS = 1, /* messages, response, responses, chosen and rejected */
    RECIPE_STEPS = 2,
    RECIPE_QUERIES = 4, /* query and document(s) */
};

#define RECIPE_MAX_PIECES 8

/* How steps are written. */
enum recipe_steps {
    STEPS_BY_ARCHITECTURE, /* compose.h */
    STEPS_IN_TEXT,         /* behind the piece, in one text */
    STEPS_APART,           /* behind the piece, each tokenized apart, then its step token */
    STEPS_IN_TURNS,        /* each a user's turn, answered by the assistant with words[0]; what is
                              scored is the token in front of that answer */
};

/* How a text is written. The pieces are tokenized apart and joined. {query} and the like stand for
 * the row's texts, {bos} for the tokenizer's bos_token. */
struct recipe_form {
    const char *pieces[RECIPE_MAX_PIECES]; /* ended by NULL */
    int cut;    /* the piece that is cut when a row is too long: those around it stay */
    int framed; /* what the tokenizer puts around a text stands around the pieces */
    enum recipe_steps steps;
    const char *step, *between; /* how a step is written, and what stands between two */
    const char *step_word; /* the text of the step token, looked up in the tokenizer; or NULL */
    int strip_steps;       /* of white space, as Python's str.strip */
    const char *separator; /* what a step must not hold; or NULL */
    /* What {instruction} is of a row that has none, and what stands around one; an empty one, and
     * none, are nothing at all. */
    const char *instruction, *before_instruction, *behind_instruction;
};

struct recipe {
    const char *name;
    const char *architectures; /* separated by spaces */
    const char *checkpoints;   /* what it is for, for people */
    const char *head;          /* --head, where it names tokens by their ids; NULL: see words */
    const char *words[2]; /* the tokens of the head, by their texts; NULL: the checkpoint's own */
    const char *how;      /* and what is made of their logits (worker/head_option.h) */
    int by_itself;        /* so are rows of these kinds, of the architecture, without --recipe, too:
                      one publisher has the class, and nobody writes them otherwise */
    unsigned rows;        /* RECIPE_ANSWERS .. */
    struct recipe_form form; /* without pieces: the chat template */
    unsigned tail;           /* of what the chat template writes (tail.h) */
    int prompt_first;   /* the publisher writes the prompt, with a generation prompt, by itself, and
                         behind it what the whole conversation has behind as many characters */
    const char *text;   /* how rows become text, for people */
    const char *pooled; /* which tokens are scored, for people */
};

/* Returns the k-th entry, or NULL: there are fewer. */
const struct recipe *recipe_at(size_t k);
/* Returns the entry of that name, or NULL. */
const struct recipe *recipe_find(const char *name);
/* Returns the entry that rows of the architecture are written by where none is chosen, or NULL. */
const struct recipe *recipe_by_itself(const char *architecture);
/* Returns the rows that it takes, for people. Static storage. */
const char *recipe_rows(const struct recipe *r);
/* Writes all names, with commas between. */
void recipe_names(char out[RECIPE_NAMES_BYTES]);

/* Writes the architecture that DIR/config.json names; "": none, or the file cannot be read. */
#define RECIPE_ARCHITECTURE_BYTES 81
void recipe_architecture_of_dir(const char *dir, char out[RECIPE_ARCHITECTURE_BYTES]);
/* ASSAY_EFORMAT, naming both, unless the recipe is for that architecture. */
int recipe_check_architecture(const struct recipe *r, const char *name, struct err *e);
/* The same for the architecture in DIR/config.json. A file that cannot be read is no error here:
 * the worker says it better. */
int recipe_check_dir(const struct recipe *r, const char *dir, struct err *e);

/* Are rows of these kinds written as the form says, without the chat template? */
int recipe_writes(const struct recipe *r);
/* Does it use the chat template, at least for some? */
int recipe_uses_template(const struct recipe *r);
/* Is it the word, perhaps behind the space that a tokenizer puts in front of a text? */
int recipe_is_word(struct slice piece, const char *word);
/* Finds the token that a word becomes when it is tokenized alone. ASSAY_EFORMAT where it is not one
 * token. */
int recipe_find_word(const struct recipe *r, const struct tokenizer *t, const char *word,
    int32_t *id, struct err *e);

/* Finds the step token of a recipe that has a step_word. ASSAY_EFORMAT where t is NULL, too. */
int recipe_step_token(
    const struct recipe *r, const struct tokenizer *t, int32_t *id, struct err *e);

/* Does the recipe say which head (else it is the checkpoint's own)? */
int recipe_has_head(const struct recipe *r);
/* Writes the value of --head. t may be NULL where the recipe names no words. ASSAY_EFORMAT where a
 * word is not one token. */
int recipe_head(
    const struct recipe *r, const struct tokenizer *t, char out[RECIPE_HEAD_BYTES], struct err *e);
/* The same with DIR's tokenizer. */
int recipe_head_of_dir(
    const struct recipe *r, const char *dir, char out[RECIPE_HEAD_BYTES], struct err *e);

#endif
