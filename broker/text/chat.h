/* chat.h - conversations to text, as the checkpoint's chat template writes them.
 *
 * There is no Jinja here. The SHA-256 of the checkpoint's template string (CRLF made LF, white space
 * at its end left off) chooses one of the writers below, each by hand what that template does with a list of
 * role and content, no tools, no generation prompt. An unknown template is an error that says what
 * to send instead; a checkpoint whose template differs in words alone can be given a writer by
 * name (--chat-template).
 *
 *     chatml               <|im_start|>role\ncontent<|im_end|>\n for each message
 *     qwen1.5, qwen2       chatml, with a system prompt of its own before a conversation without one
 *     qwen2.5, .. -base,   the same; tool messages in a user turn, <tool_response> around them
 *         .. -math
 *     qwen3                no system prompt of its own; tools as qwen2.5; an answer after the last
 *                          question has a <think> block, what an earlier one thought is left out
 *     qwen3-instruct-2507  qwen3 without anything about <think>
 *     llama3               <|start_header_id|>role<|end_header_id|>\n\ncontent<|eot_id|>, content trimmed
 *     llama3-first         llama3 as it was published first: the next answer's header comes at the end
 *     llama3.1             llama3, always with a system turn that begins with two dates
 */
#ifndef ASSAY_CHAT_H
#define ASSAY_CHAT_H

#include "broker/text/buffer.h"
#include "schema/err.h"
#include "schema/msg.h"

enum chat_template {
    CHAT_NONE, /* none known: struct chat's reason says why */
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

/* What is known of a checkpoint's conversations. */
struct chat {
    enum chat_template template;
    char reason[ERR_MESSAGE_BYTES]; /* of CHAT_NONE */
};

/* Reads DIR/additional_chat_templates/default.jinja, or DIR/chat_template.jinja, or, where that folder has no
 * other template, `chat_template` of DIR/tokenizer_config.json: transformers' order. A file that cannot be
 * read or is no JSON: ASSAY_EFORMAT. No template, or an unknown one, is no failure: CHAT_NONE. */
int chat_load(struct chat *c, const char *dir, struct err *e);
/* chat_load's last step for Llama 3's templates: they write the tokenizer's bos_token, which here is written as
 * theirs is, <|begin_of_text|>. Another one makes them CHAT_NONE. */
void chat_check_bos(struct chat *c, const char *dir);
/* CHAT_COUNT for an unknown name. */
enum chat_template chat_from_name(const char *name);
const char *chat_name(enum chat_template t);
#define CHAT_HASH_HEX 65
enum chat_template chat_from_hash(const char *hash);
/* The template that a template string stands for, CHAT_NONE when it is not known; its hash in hex. */
enum chat_template chat_from_source(const char *source, size_t len, char hash[CHAT_HASH_HEX]);

struct chat_message {
    struct slice role, content; /* valid UTF-8 */
    struct slice reasoning;     /* the message's own reasoning_content; absent: at == NULL */
    int has_tool_calls;
};

/* What a template writes beside role and content. Reasoning is written by those that read it; tools
 * and tool calls are not: who has a conversation with them asks first. */
enum { CHAT_READS_TOOLS = 1, CHAT_READS_TOOL_CALLS = 2 };
unsigned chat_reads(enum chat_template t);

#define CHAT_NO_MESSAGE UINT32_MAX

/* A stretch of a message's content in the text that was written, or of its reasoning
 * (CHAT_NO_MESSAGE). */
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
 * (known are system, user, assistant and tool). */
int chat_write(enum chat_template t, const struct chat_message *messages, uint32_t n,
    struct chat_text *out, struct err *e);

#endif
