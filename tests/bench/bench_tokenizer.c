/* bench_tokenizer.c - bytes and tokens per second of the tokenizer on one thread.
 *
 *     build/cpu/tests/bench/bench_tokenizer MODEL_DIR TEXTS.jsonl [SECONDS]
 *
 * All texts are in memory before the clock starts, and are tokenized over and over, at least once.
 * Prints one line of JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/cli/input/jsonl.h"
#include "broker/text/tokenizer.h"
#include "schema/clock.h"
#include "schema/log.h"

struct texts {
    json_t *lines; /* array of objects with `text` */
    size_t bytes;
};

static struct texts read_texts(const char *path)
{
    struct texts t = {.lines = json_array()};
    struct jsonl *file;
    struct jsonl_line line;
    struct err e;
    int got;
    if (jsonl_open(&file, path, &e) != 0)
        die(66, "event=bench_failed error=\"%s\"", e.msg);
    while ((got = jsonl_next(file, &line, &e)) == 1) {
        if (!line.object)
            die(65, "event=bench_failed error=\"%s\"", line.err.msg);
        t.bytes += json_string_length(json_object_get(line.object, "text"));
        json_array_append_new(t.lines, line.object);
    }
    jsonl_close(&file);
    return t;
}

static size_t tokenize_all(struct encoder *n, const struct texts *t)
{
    json_t *line;
    size_t k, tokens = 0;
    json_array_foreach(t->lines, k, line)
    {
        const json_t *text = json_object_get(line, "text");
        struct slice bytes = {(const uint8_t *)json_string_value(text), json_string_length(text)};
        struct err e;
        encoder_clear(n);
        if (encoder_text(n, bytes, NULL, 0, &e) != 0)
            die(65, "event=bench_failed error=\"%s\"", e.msg);
        tokens += encoder_ids(n)->len;
    }
    return tokens;
}

int main(int argc, char **argv)
{
    struct tokenizer *t;
    struct err e = {0};
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL_DIR TEXTS.jsonl [SECONDS]\n", argv[0]);
        return 64;
    }
    if (tokenizer_load(&t, argv[1], &e) != 0)
        die(78, "event=bench_failed error=\"%s\"", e.msg);
    struct texts texts = read_texts(argv[2]);
    struct encoder *n = encoder_new(t);
    double seconds = argc > 3 ? atof(argv[3]) : 3;
    size_t tokens = tokenize_all(n, &texts), rounds = 0; /* not counted: memory is touched first */
    long long start_ms = now_mono_ms(), ms;
    do {
        tokenize_all(n, &texts);
        rounds++;
        ms = now_mono_ms() - start_ms;
    } while ((double)ms < seconds * 1000);
    double s = (double)(ms > 0 ? ms : 1) / 1000;
    printf("{\"tokens\": %zu, \"bytes\": %zu, \"mb_per_s\": %.3f, \"tokens_per_s\": %.0f}\n",
        tokens, texts.bytes, (double)(texts.bytes * rounds) / s / 1e6,
        (double)(tokens * rounds) / s);
    encoder_free(&n);
    tokenizer_free(&t);
    json_decref(texts.lines);
    return 0;
}
