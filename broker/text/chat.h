/* chat.h - turns conversations into text as the checkpoint's chat template does.
 *
 * The SHA-256 of the checkpoint's template string (CRLF made LF, trailing white space removed)
 * chooses one of the writers below, which are faster. Each does by hand what that template does
 * with a list of role and content, no tools, no generation prompt. Any other template is
 * interpreted (jinja.h, chat_jinja.c), and so is a known one where a row has tools, tool calls,
 * content that is no text, or a generation prompt.
 * One that the interpreter refuses is an error that says what to send instead. --chat-template
 * names a writer or a template's file.
 *
 *     chatml               <|im_start|>role\ncontent<|im_end|>\n for each message
 *     qwen1.5, qwen2       chatml, with a default system prompt if the conversation has none
 *     qwen2.5, .. -base,   the same; tool messages in a user turn, <tool_response> around them
 *         .. -math
 *     qwen3                no default system prompt; tools as in qwen2.5; an answer after the last
 *                          question has a <think> block, thoughts of earlier answers are left out
 *     qwen3-instruct-2507  qwen3 without anything about <think>
 *     llama3               <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>, trimmed
 *     llama3-first         llama3 as first published: the next answer's header comes at the end
 *     llama3.1             llama3, always with a system turn that begins with two dates
 */
#ifndef ASSAY_CHAT_H
#define ASSAY_CHAT_H

#include <jansson.h>

#include "broker/text/buffer.h"
#include "broker/text/jinja.h"
#include "schema/err.h"
#include "schema/msg.h"

#define CHAT_HASH_HEX 65

enum chat_template {
    CHAT_NONE,  /* no template that can be used: see `reason` in struct chat */
    CHAT_JINJA, /* interpreted */
    CHAT_CHATML,
    CHAT_QWEN15,
    CHAT_QWEN2,
    CHAT_QWEN25,
    CHAT_QWEN25_BASE,
    CHAT_QWEN25_MATH,
    CHAT_QWEN3,
    CHAT_QWEN3_INSTRUCT_2507,
    CHAT_LLAMA3,
    CHAT_LLAMA3_FIRST,
    CHAT_LLAMA31,
    CHAT_COUNT
};

/* How a checkpoint writes conversations. */
struct chat {
    enum chat_template template;
    char reason[ERR_MESSAGE_BYTES]; /* why it is CHAT_NONE */
    struct jinja *jinja;            /* the template itself; NULL where only a name was given */
    const json_t *tokens;           /* the special tokens by name, borrowed; NULL: none */
    int has_tool_use;               /* another template is there, for rows with tools */
    char origin[64];                /* the file that it is in; "": it was named */
    char hash[CHAT_HASH_HEX];       /* of its text, as chat_from_source has it; "": there is none */
    char date[12];                  /* what the template takes for today, "": not known */
};

/* Finds the template in transformers' order: DIR/additional_chat_templates/default.jinja, then
 * DIR/chat_template.jinja, then, if that folder has no other template, `chat_template` in
 * DIR/tokenizer_config.json. DIR/chat_template.json is a processor's, and is only named where there
 * is no other. ASSAY_EFORMAT if a file cannot be read or is not JSON. A missing or
 * unknown template is no failure: CHAT_NONE. */
int chat_load(struct chat *c, const char *dir, struct err *e);
/* The same for the template in a file: its text, or of a .json its chat_template. ASSAY_EFORMAT if
 * it cannot be read. */
int chat_load_file(struct chat *c, const char *path, struct err *e);
void chat_release(struct chat *c);
/* Last step of loading Llama 3's templates. They write the tokenizer's bos_token, and the writers
 * here write <|begin_of_text|>; with any other bos_token the template is interpreted. */
void chat_check_bos(struct chat *c, const json_t *tokens);
/* Returns CHAT_COUNT for an unknown name. */
enum chat_template chat_from_name(const char *name);
const char *chat_name(enum chat_template t);
enum chat_template chat_from_hash(const char *hash);
/* Returns the template for a template string, CHAT_NONE if it is unknown, and its hash in hex. */
enum chat_template chat_from_source(const char *source, size_t len, char hash[CHAT_HASH_HEX]);

struct chat_message {
    struct slice role, content; /* valid UTF-8 */
    struct slice reasoning;     /* the message's own reasoning_content; at == NULL if absent */
    int has_tool_calls, names_tool_calls; /* not empty; or not nil */
    struct slice raw; /* the whole message as it came, a msgpack map; absent: role and content */
    /* Only an interpreted template writes these; content is absent then. */
    struct slice parts; /* a msgpack array of parts; absent: none */
    int has_no_content;
};

struct chat_talk {
    const struct chat_message *messages;
    uint32_t n;
    struct slice tools, arguments; /* raw msgpack; absent: none */
    int add_generation_prompt;
};

/* What a template writes beside role and content. The writers write reasoning if their template
 * does, but never tools or tool calls: a caller whose conversation has those must check chat_reads
 * first. */
enum { CHAT_READS_TOOLS = 1, CHAT_READS_TOOL_CALLS = 2, CHAT_READS_EMPTY_CALLS = 4 };
unsigned chat_reads(enum chat_template t);
/* Is it an argument of apply_chat_template, beside the template's own, with the value that it has
 * where it is not given? The value is the reader's next; nothing is read. */
int chat_argument_is_default(struct slice name, const struct msg_reader *value);

#define CHAT_NO_MESSAGE UINT32_MAX

/* A stretch of a message's content, or of its reasoning (CHAT_NO_MESSAGE), in the written text. */
struct chat_copy {
    uint32_t message;
    size_t from, len; /* in the content */
    size_t to;        /* in the text */
};

struct chat_text {
    struct buffer text;
    struct chat_copy *copies;
    size_t n_copies, copies_room;
};
void chat_text_clear(struct chat_text *t);
void chat_text_release(struct chat_text *t);

/* Appends the conversation. n >= 1. ASSAY_EBADTEXT naming a role that the template does not know
 * (it knows system, user, assistant and tool). */
int chat_write(enum chat_template t, const struct chat_message *messages, uint32_t n,
    struct chat_text *out, struct err *e);
/* The same with the template of CHAT_JINJA. run: this thread's. ASSAY_EBADTEXT naming what cannot
 * be used, or with the template's line and the reason. */
int chat_interpret(const struct chat *c, struct jinja_run *run, const struct chat_talk *talk,
    struct chat_text *out, struct err *e);

#endif
