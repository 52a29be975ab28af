/* bench_chat.c - chat templates, written by hand and interpreted.
 *
 *     bench_chat [BYTES]
 *
 * A conversation of a system, two user and two assistant messages of BYTES each (default 400), in
 * ChatML: MB/s of written text, on one thread, by its processor time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "broker/text/chat.h"

#define N 5
#define RUN_US 300000

static const char chatml[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}";
/* Asks of each message what Qwen2.5 asks. */
static const char asking[] =
    "{%- if tools %}{{- tools | tojson }}{%- else %}{%- if messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}{%- endif %}"
    "{%- endif %}{%- for message in messages %}{%- if (message.role == \"user\") or (message.role "
    "== \"system\" and not loop.first) or (message.role == \"assistant\" and not "
    "message.tool_calls) %}{{- '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>' + '\\n' }}{%- elif message.role == \"assistant\" %}{{- message.content }}"
    "{%- endif %}{%- endfor %}";

static void measure(const char *name, const struct chat *c, const struct chat_talk *talk)
{
    struct chat_text out = {0};
    struct jinja_run *run = jinja_run_new();
    struct err e = {0};
    double bytes = 0;
    clock_t begin = clock(); /* processor time */
    double us;
    do {
        chat_text_clear(&out);
        int rc = c->jinja ? chat_interpret(c, run, talk, &out, &e)
                          : chat_write(c->template, talk->messages, talk->n, &out, &e);
        if (rc != 0) {
            fprintf(stderr, "%s: %s\n", name, e.msg);
            exit(1);
        }
        bytes += (double)out.text.len;
        us = (double)(clock() - begin) * 1e6 / CLOCKS_PER_SEC;
    } while (us < RUN_US);
    printf("%-24s %8.0f MB/s\n", name, bytes / us);
    chat_text_release(&out);
    jinja_run_free(&run);
}

static void interpret(const char *name, const char *source, const struct chat_talk *talk)
{
    struct chat c = {.template = CHAT_JINJA};
    struct err e;
    if (jinja_parse(&c.jinja, slice_of(source), &e) != 0)
        exit(1);
    measure(name, &c, talk);
    chat_release(&c);
}

int main(int argc, char **argv)
{
    static const char *const roles[N] = {"system", "user", "assistant", "user", "assistant"};
    size_t n = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 400;
    struct chat_message m[N] = {{.role = {0}}};
    char *text = malloc(n + 1);
    if (!text)
        return 1;
    memset(text, 'x', n);
    for (int i = 0; i < N; i++)
        m[i] = (struct chat_message){
            .role = slice_of(roles[i]), .content = {(const uint8_t *)text, n}};
    struct chat_talk talk = {.messages = m, .n = N};
    measure("by hand: chatml", &(struct chat){.template = CHAT_CHATML}, &talk);
    interpret("interpreted: chatml", chatml, &talk);
    interpret("interpreted: as Qwen2.5", asking, &talk);
    free(text);
    return 0;
}
