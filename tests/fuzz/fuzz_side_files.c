/* fuzz_side_files.c - any bytes as the files beside a tokenizer.json.
 *
 * An input is a msgpack array: the class of the tokenizer.json (bytes; characters where it is
 * true), and the bytes of each side file; an empty one is not there. They are refused with words,
 * or the tokenizer that comes of them is refused, or it turns a text into tokens that it has. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <string.h>

#include "broker/text/side_files.h"
#include "tests/fuzz/files.h"
#include "tests/unit/tiny_tokenizer.h"

#define N_FILES 4

static const char *const names[N_FILES] = {
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json"};

static const char sample[] = " abc <|im_end|>'s  na\xc3\xafve <x> <extra_0>\n";

static void use(const json_t *root)
{
    struct tokenizer *t = NULL;
    struct err e = {0};
    if (tokenizer_new(&t, root, &e) != 0) {
        assert(e.msg[0]);
        return;
    }
    struct encoder *n = encoder_new(t);
    int rc = encoder_text(n, (struct slice){(const uint8_t *)sample, strlen(sample)}, NULL, 0, &e);
    const struct id_list *ids = encoder_ids(n);
    for (size_t i = 0; rc == 0 && i < ids->len; i++)
        assert(tokenizer_piece(t, ids->at[i]).len > 0);
    encoder_free(&n);
    tokenizer_free(&t);
}

/* The tiny tokenizer over characters. */
static json_t *over_characters(void)
{
    json_t *root = tiny_json(), *model = json_object_get(root, "model");
    json_object_update_new(model, json_pack("{s:b, s:s}", "byte_fallback", 1, "unk_token", "a"));
    json_object_set_new(root, "pre_tokenizer",
        json_pack("{s:s, s:s, s:s, s:b}", "type", "Metaspace", "replacement", "\u2581",
            "prepend_scheme", "first", "split", 0));
    return root;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct msg_reader m;
    struct slice file;
    struct side_facts facts = {0};
    struct err e = {0};
    uint32_t n;
    int characters = 0;
    msg_reader_init(&m, bytes, len);
    if (msg_read_array(&m, "", &n, &e) != 0 || n != 1 + N_FILES ||
        msg_read_bool(&m, "", &characters, &e) != 0)
        return 0;
    for (int i = 0; i < N_FILES; i++) {
        if (msg_read_bin(&m, "", &file, &e) != 0)
            return 0;
        fuzz_write_file(names[i], file);
    }
    json_t *root = characters ? over_characters() : tiny_json();
    memset(&e, 0, sizeof e);
    int rc = side_files_apply(root, fuzz_directory(), NULL, &facts, &e);
    if (rc == 0)
        use(root);
    else
        assert(rc < 0 && e.msg[0]);
    json_decref(facts.texts);
    json_decref(facts.model);
    json_decref(root);
    return 0;
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
#define TOKEN(id, text) "\"" id "\": {\"content\": \"" text "\", \"special\": true}, "
    static const char *const seeds[][N_FILES] = {
        {"{\"tokenizer_class\": \"PreTrainedTokenizerFast\", \"pad_token\": \"<|im_end|>\", "
         "\"eos_token\": {\"__type\": \"AddedToken\", \"content\": \"<x>\", \"lstrip\": true}, "
         "\"extra_special_tokens\": [\"<y>\"], \"model_max_length\": 1e30, \"truncation_side\": "
         "\"left\", \"errors\": \"replace\"}",
            "{\"bos_token\": \"<z>\", \"additional_special_tokens\": [{\"content\": \"<w>\"}]}",
            "{\"<v>\": 300}", "{\"model_type\": \"gpt_neox\"}"},
        {"{\"added_tokens_decoder\": {" TOKEN("259", "<|im_start|>") TOKEN("260", "<|im_end|>")
                TOKEN("261",
                    "<extra_0>") "\"262\": {\"content\": \"<x>\", \"rstrip\": true, "
                                 "\"normalized\": true}}, \"extra_special_tokens\": "
                                 "{\"image_token\": \"<i>\"}, "
                                 "\"clean_up_tokenization_spaces\": false, \"unk_token\": null}",
            "", "", ""},
        {"{\"tokenizer_class\": \"LlamaTokenizer\", \"legacy\": false, \"add_bos_token\": true, "
         "\"add_eos_token\": true, \"bos_token\": \"<s>\", \"unk_token\": \"<unk>\", "
         "\"add_prefix_space\": null}",
            "", "", "{\"model_type\": \"llama\"}"},
    };
#undef TOKEN
    if (n >= 2 * sizeof seeds / sizeof seeds[0])
        return 0;
    msg_array(w, 1 + N_FILES);
    msg_bool(w, (int)n % 2);
    for (int i = 0; i < N_FILES; i++)
        msg_bin(w, seeds[n / 2][i], strlen(seeds[n / 2][i]));
    return 1;
}
