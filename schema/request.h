/* request.h - decodes a client's request. PROTOCOL.md is the specification.
 *
 * request_decode checks the whole structure of a message, rows included: afterwards
 * request_next_row can read every row, or the request is refused whole. Nothing is allocated; all
 * slices point into the message. Structure means types, unknown and duplicate keys, ranges, limits.
 * The broker judges a row's content (ids outside the vocabulary, too long ..) row by row
 * (admit.h). */
#ifndef ASSAY_REQUEST_H
#define ASSAY_REQUEST_H

#include "schema/adapters.h"
#include "schema/err.h"
#include "schema/msg.h"
#include "schema/pooling.h"

#define REQUEST_VERSION 1 /* how to raise it: PROTOCOL.md, Versions */
#define REQUEST_DIR_BYTES 4000
#define REQUEST_KEY_BYTES 200
#define REQUEST_WAIT_MS_MAX 60000
#define REQUEST_TIMEOUT_MS_MAX 86400000
#define REQUEST_LIMIT_MAX 10000
#define REQUEST_ID_BYTES 256 /* for the string id of a request or a row */
#define REQUEST_ID_RAW_BYTES                                                                       \
    (REQUEST_ID_BYTES +                                                                            \
        5) /* with its msgpack head, whatever its width                            \
                            */

enum request_op {
    OP_HELLO,
    OP_SUBMIT,
    OP_STATUS,
    OP_RESULTS,
    OP_SCORE,
    OP_CANCEL,
    OP_PAUSE,
    OP_RESUME,
    OP_RETRY,
    OP_JOBS,
    OP_INFO,
    OP_PURGE,
    OP_ADAPTERS,
    OP_ADAPTER_ADD,
    OP_ADAPTER_REMOVE,
    OP_RELOAD,
    OP_RELOAD_CANCEL,
    OP_OPEN,
    OP_APPEND,
    OP_FORK,
    OP_CLOSE,
    OP_THROUGHPUT,
    OP_FAILED,
    OP_SAMPLE,
    OP_COUNT
};

struct request_limits {
    uint64_t max_message_bytes;
    uint32_t max_rows_per_message;
    uint32_t max_tokens_per_row; /* longer `ids` are still well-formed: refused only above
                                    max_message_bytes */
};

/* Which end of a sequence that is too long is cut. */
enum truncation_side { SIDE_UNSAID, SIDE_RIGHT, SIDE_LEFT };

/* How a row is cut, or the rows of a message that do not say it. */
struct request_truncation {
    int truncate;        /* 0: not at all */
    uint32_t max_length; /* the most tokens of a sequence; 0: the broker's limit */
    int side;            /* enum truncation_side */
    int keep_last_token;
};

/* The models that a row goes through, by name; or the rows of a message that do not say it. */
#define REQUEST_MODELS_MOST 8
struct request_models {
    uint32_t n;  /* 0: not said */
    int is_list; /* `models`: each of them scores the row */
    struct slice of[REQUEST_MODELS_MOST];
};

struct request {
    enum request_op op;
    struct slice id;  /* raw msgpack of the request's id (integer or string); absent: at == NULL */
    struct slice key; /* submit, score (optional there): the client's key */
    struct slice job_key; /* `job` given as a key */
    int64_t job;          /* `job` given as a number, else -1 */
    uint32_t chunk;
    struct slice rows; /* raw msgpack array; absent when n_rows is 0 */
    uint32_t n_rows;
    int seal;
    int priority; /* -100..100; has_priority says whether it was given */
    int has_priority;
    struct slice meta;                    /* raw msgpack, any value */
    struct request_truncation truncation; /* submit, score: of rows that do not say it */
    struct request_models models;         /* likewise; adapter_add, adapter_remove, reload: whose */
    int said_late;                        /* a field of these stood behind the rows */
    uint64_t after; /* results: cursor; jobs: list jobs with a number above it; failed: index;
                       sample: how many rows of it were given */
    int64_t before; /* jobs: below it, descending; -1: not given */
    uint32_t limit; /* 1..10000; 0: not given; throughput: minutes */
    uint32_t wait_ms;
    uint32_t timeout_ms;   /* 0: not given */
    int accept_mode;       /* resume */
    int fresh;             /* submit, score: a new job takes nothing from the score cache */
    int ephemeral;         /* score, purge: nobody needs the job once it is over */
    int64_t older_than_s;  /* purge; -1: not given */
    struct slice state;    /* jobs: filter, a job state's name (checked); absent: all */
    struct slice name;     /* adapter_add, adapter_remove: the adapter's (checked) */
    struct slice dir;      /* adapter_add, reload: an absolute path (checked), without NUL */
    struct slice session;  /* fork: a session's name */
    struct slice sessions; /* append, close, score (instead of rows): raw msgpack array of names */
    uint32_t n_sessions;
    struct slice row;  /* open: raw msgpack map, a row (checked) without an id */
    struct slice more; /* append: raw msgpack array of n_sessions maps (request_extend_row) */
    uint32_t n_more;
    uint32_t n; /* fork: how many */
};

/* What a row holds. Texts are slices of the message, not checked to be UTF-8: that is content. */
enum row_shape {
    ROW_IDS,
    ROW_TEXT,      /* body[0]: a text */
    ROW_MESSAGES,  /* body[0]: messages; prompt or none */
    ROW_RESPONSE,  /* prompt; body[0]: a text or messages. A query's document, too */
    ROW_RESPONSES, /* prompt; body[0]: an array of texts and of messages */
    ROW_PAIR,      /* prompt or none; body[0] chosen, body[1] rejected: texts or messages */
    ROW_STEPS,     /* prompt; body[0]: an array of texts */
    ROW_DOCUMENTS, /* query; body[0]: an array of texts */
    ROW_REFUSED,   /* error: the client could not make the row */
};

/* Names one sequence of a row in errors: "responses[3]: ", "documents[3]: ", "chosen: ", or "". May
 * write to `text`. */
const char *row_shape_part(int shape, uint32_t part, char *text, size_t size);
/* Are its sequences answers to choose from: responses or documents? */
int row_shape_is_choice(int shape);

#define REQUEST_PAD_RULE_UNSAID (-1) /* the model's own */

struct row_request {
    struct slice id; /* raw msgpack (an int64, or a string); absent: at == NULL */
    enum row_shape shape;
    struct slice prompt;                      /* raw msgpack: a text or messages; absent: none */
    struct slice body[2];                     /* raw msgpack, by shape */
    const char *prompt_field, *body_field[2]; /* their names in the message */
    int is_query;              /* the prompt is a query, the body a document or documents */
    struct slice instruction;  /* of a query: raw msgpack of a text; absent: none */
    struct slice system;       /* raw msgpack of a text; absent: none */
    int has_tools;             /* there are tools (not nil, false or empty) */
    struct slice tools;        /* raw msgpack, any value; absent: none */
    int add_generation_prompt; /* the template writes it behind the last message */
    struct slice arguments;    /* chat_template_kwargs: a raw map; absent: none */
    int error_code;            /* of ROW_REFUSED: ASSAY_EBADREQ .. */
    struct slice error_message;
    struct slice ids; /* of ROW_IDS: a bin of little-endian int32s, or a raw msgpack array */
    int ids_is_bin;
    uint32_t n_ids;
    struct pooling pool;    /* what is not given: POOL_DEFAULT, ACTIVATION_DEFAULT, .. */
    struct slice positions; /* raw msgpack array of integers 0..2^31-1, absent unless POSITIONS */
    uint32_t n_positions;
    struct slice adapter;
    struct request_models models;
    struct request_truncation truncation;
    int says_truncate; /* there is `truncate`: what the message says is not for this row */
    int hf_pad_rule;   /* 0, 1, or REQUEST_PAD_RULE_UNSAID */
    int safe_text;
    int join_content;       /* the texts of a message's parts become one, joined with newlines */
    int add_special_tokens; /* of a text as it is: with what the tokenizer puts around it */
};

/* Decodes a request. Returns 0, or a code with *e. Fills q->id even then, where it can be read, so
 * that the reply can carry it. */
int request_decode(struct request *q, const uint8_t *bytes, size_t len,
    const struct request_limits *limits, struct err *e);

/* The same; gives each row, while it is decoded, to `visit`, before the fields that follow the rows
 * are known. A visitor that fails ends the decoding with its code. */
typedef int request_row_visitor(
    void *arg, uint32_t index, const struct row_request *row, struct err *e);
int request_decode_rows(struct request *q, struct slice bytes, const struct request_limits *limits,
    request_row_visitor *visit, void *arg, struct err *e);

/* Reads the next row: msg_reader_init on q->rows, msg_read_array once, then this n_rows times.
 * `index` names the row in errors. */
int request_next_row(struct msg_reader *r, uint32_t index, struct row_request *row, struct err *e);

/* Reads a row that stands alone; `where` names it in errors. */
int request_read_row(
    struct msg_reader *r, const char *where, struct row_request *row, struct err *e);

/* Writes the row (a checked one, a raw msgpack map) with what `more`, a raw map of any contents,
 * adds to its fields: of the same name and type, token ids behind token ids, text behind text,
 * items behind items. Returns 0, or a code with *e, which names the field, and an item as `more`
 * counts it; what was written is of no use then. */
int request_extend_row(struct msg_writer *w, struct slice row, struct slice more, struct err *e);

/* What a message says of its rows that do not say it themselves. */
struct request_conditions {
    struct request_truncation truncation;
    struct request_models models;
};
void row_request_complete(struct row_request *row, const struct request_conditions *c);
/* A message's conditions as they stand in front of its rows while they are kept: write them
 * (nothing, where there are none), and read them where they are there. Names are into the
 * message. */
void request_write_conditions(struct msg_writer *w, const struct request_conditions *c);
int request_read_conditions(struct msg_reader *r, struct request_conditions *c, struct err *e);

/* Copy a checked row's n_ids ids, or its n_positions positions, to `out`. An integer outside int32
 * becomes INT32_MIN, which no vocabulary holds, so the row ends as bad_token. */
void row_request_ids(const struct row_request *row, int32_t *out);
void row_request_positions(const struct row_request *row, int32_t *out);

/* Texts and messages of a checked row. Call msg_reader_init on the slice, then msg_read_array if it
 * is an array; msg_read_text reads its texts. */
struct row_message {
    struct slice role;
    struct slice content;   /* absent: there are parts, or there is none */
    struct slice parts;     /* raw msgpack array of any values; absent: none */
    int has_no_content;     /* nil or, with tool calls, nothing */
    struct slice reasoning; /* reasoning_content, or else thinking, or reasoning, as transformers
                               takes them; absent: at == NULL */
    int has_tool_calls;     /* there are tool_calls (not nil, false or empty) */
    int names_tool_calls;   /* there is a value, even an empty one (not nil) */
    struct slice raw;       /* all of it: the map, with any other keys */
};
int request_is_messages(struct slice prompt_or_body);
int request_read_message(struct msg_reader *r, struct row_message *message, struct err *e);
/* Skips any value of any depth. *something: it is not nil, false or empty. */
int request_skip_value(struct msg_reader *r, const char *field, int *something, struct err *e);
/* The same; its texts may be any bytes, as a row's may (request_read_row says which must be
 * UTF-8). */
int request_skip_bytes(struct msg_reader *r, const char *field, struct slice *raw, struct err *e);

const char *request_op_name(enum request_op op);

#endif
