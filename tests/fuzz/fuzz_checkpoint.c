/* fuzz_checkpoint.c - any bytes as a checkpoint: config.json, model.safetensors, and perhaps
 * value_head.safetensors.
 *
 * An input is a msgpack array: the head that is asked for, and the bytes of each file. The
 * checkpoint is refused with words, or described in a line of JSON. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <jansson.h>
#include <string.h>

#include "tests/fuzz/files.h"
#include "worker/describe.h"

#define N_FILES 3

static const char *const names[N_FILES] = {
    "config.json", "model.safetensors", "value_head.safetensors"};

static void check_line(const char *text, size_t len)
{
    json_t *line = json_loadb(text, len, 0, NULL);
    assert(json_is_object(line));
    assert(json_integer_value(json_object_get(line, "n_labels")) > 0);
    json_decref(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct msg_reader m;
    struct slice option, files[N_FILES];
    struct err e = {0};
    char head[64], *text = NULL;
    uint32_t n;
    size_t text_len = 0;
    static const char *const choices[] = {"auto", "weights-only", "as-stored"};
    msg_reader_init(&m, bytes, len);
    if (msg_read_array(&m, "", &n, &e) != 0 || n != 1 + N_FILES ||
        msg_read_str(&m, "", &option, &e) != 0)
        return 0;
    for (int i = 0; i < N_FILES; i++)
        if (msg_read_bin(&m, "", &files[i], &e) != 0)
            return 0;
    for (int i = 0; i < N_FILES; i++)
        fuzz_write_file(names[i], files[i]);
    snprintf(head, sizeof head, "%.*s", (int)(option.len < 60 ? option.len : 60), option.at);
    struct describe_options o = {.dir = fuzz_directory(),
        .tp = 1,
        .quant = "none",
        .dtype = "auto",
        .weights = "auto",
        .head = head,
        .activations = choices[len % 3],
        .ops = &cpu_ops};
    FILE *out = open_memstream(&text, &text_len);
    memset(&e, 0, sizeof e);
    int rc = describe_model(&o, out, &e);
    fclose(out);
    if (rc == 0)
        check_line(text, text_len);
    else
        assert(rc < 0 && e.msg[0]);
    free(text);
    return 0;
}

/* ---- seeds: a layer of two heads ---- */

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);
    return n >= m && strcmp(name + n - m, end) == 0;
}

static const char *dtype_of(const char *name)
{
    return ends_with(name, "_packed") || ends_with(name, ".qweight") ||
                   ends_with(name, ".qzeros") || ends_with(name, ".g_idx")
               ? "I32"
           : ends_with(name, "_shape") ? "I64"
                                       : "F32";
}

/* The file's bytes with these tensors, all zeros but for the shape of a quantized matrix. */
static void write_tensors(struct msg_writer *w, const char *const *tensors, const int (*shapes)[2])
{
    json_t *header = json_object();
    size_t end = 0, shape_at = 0;
    for (int i = 0; tensors[i]; i++) {
        size_t begin = end, numbers = (size_t)shapes[i][0] * (shapes[i][1] ? shapes[i][1] : 1);
        json_t *shape = shapes[i][1] ? json_pack("[i, i]", shapes[i][0], shapes[i][1])
                                     : json_pack("[i]", shapes[i][0]);
        const char *dtype = dtype_of(tensors[i]);
        end += numbers * (strcmp(dtype, "I64") == 0 ? sizeof(int64_t) : sizeof(float));
        shape_at = strcmp(dtype, "I64") == 0 ? begin : shape_at;
        json_object_set_new(header, tensors[i],
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets",
                (json_int_t)begin, (json_int_t)end));
    }
    char *text = json_dumps(header, JSON_COMPACT);
    uint64_t n = strlen(text);
    uint8_t *file = calloc(sizeof n + n + end, 1);
    memcpy(file, &n, sizeof n);
    memcpy(file + sizeof n, text, n);
    if (shape_at > 0)
        memcpy(file + sizeof n + n + shape_at, (int64_t[]){8, 8}, 2 * sizeof(int64_t));
    msg_bin(w, file, sizeof n + n + end);
    free(file);
    free(text);
    json_decref(header);
}

/* Up to three tensors stand for the last matrix of the layer. */
static void write_model(
    struct msg_writer *w, const char *head, int rows, const char *const *down, const int (*of)[2])
{
#define L "model.layers.0."
    const char *tensors[16] = {"model.embed_tokens.weight", "model.norm.weight",
        L "input_layernorm.weight", L "post_attention_layernorm.weight",
        L "self_attn.q_proj.weight", L "self_attn.k_proj.weight", L "self_attn.v_proj.weight",
        L "self_attn.o_proj.weight", L "mlp.gate_proj.weight", L "mlp.up_proj.weight", head};
#undef L
    int shapes[16][2] = {
        {16, 8}, {8, 0}, {8, 0}, {8, 0}, {8, 8}, {4, 8}, {4, 8}, {8, 8}, {8, 8}, {8, 8}, {rows, 8}};
    for (int i = 0; i < 4 && down[i]; i++) {
        tensors[11 + i] = down[i];
        memcpy(shapes[11 + i], of[i], sizeof shapes[0]);
    }
    write_tensors(w, tensors, shapes);
}

#define DOWN "model.layers.0.mlp.down_proj."

/* The last matrix of the layer, by how it is stored. */
static const struct {
    const char *tensors[4];
    int shapes[4][2];
} downs[] = {{{DOWN "weight"}, {{8, 8}}},
    {{DOWN "weight_packed", DOWN "weight_scale", DOWN "weight_shape"}, {{8, 1}, {8, 1}, {2, 0}}},
    {{DOWN "qweight", DOWN "scales", DOWN "qzeros", DOWN "g_idx"},
        {{1, 8}, {1, 8}, {1, 1}, {8, 0}}},
    {{DOWN "qweight", DOWN "scales", DOWN "qzeros"}, {{8, 1}, {1, 8}, {1, 1}}}};

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    static const struct {
        const char *option, *architecture, *more, *head;
        int rows, has_value_head, down;
    } seeds[] = {
        {"auto", "LlamaForSequenceClassification",
            ", \"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0}, \"num_labels\": 3",
            "score.weight", 3, 0, 0},
        {"auto", "RewardModel",
            ", \"model_type\": \"mistral\", \"value_head_prefix\": \"v\", \"mean\": 0.5, \"std\": "
            "2, "
            "\"normalize_reward\": true, \"sliding_window\": 4",
            "v.weight", 1, 0, 0},
        {"lm:3,5:softmax", "LlamaForCausalLM",
            ", \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500.0, \"factor\": "
            "8, "
            "\"low_freq_factor\": 1, \"high_freq_factor\": 4, "
            "\"original_max_position_embeddings\": 9}",
            "lm_head.weight", 16, 0, 0},
        {"auto", "MistralForCausalLM", ", \"layer_types\": [\"sliding_attention\"]",
            "lm_head.weight", 16, 1, 0},
        {"auto", "LlamaForSequenceClassification",
            ", \"num_labels\": 1, \"quantization_config\": {\"quant_method\": "
            "\"compressed-tensors\", \"format\": \"pack-quantized\", \"quantization_status\": "
            "\"compressed\", \"ignore\": [\"re:.*score\"], \"config_groups\": {\"group_0\": "
            "{\"targets\": [\"re:.*down_proj\"], \"weights\": {\"num_bits\": 4, \"type\": \"int\", "
            "\"strategy\": \"channel\", \"symmetric\": true}}}}",
            "score.weight", 1, 0, 1},
        {"auto", "LlamaForSequenceClassification",
            ", \"num_labels\": 1, \"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": "
            "4, "
            "\"group_size\": -1, \"desc_act\": true, \"modules_in_block_to_quantize\": "
            "[[\"mlp.down_proj\"]]}",
            "score.weight", 1, 0, 2},
        {"auto", "LlamaForSequenceClassification",
            ", \"num_labels\": 1, \"quantization_config\": {\"quant_method\": \"awq\", \"bits\": "
            "4, "
            "\"group_size\": 8, \"modules_to_not_convert\": [\"q_proj\", \"k_proj\", \"v_proj\", "
            "\"o_proj\", \"up_proj\", \"gate_proj\"]}",
            "score.weight", 1, 0, 3},
    };
    static const char *const value_head[] = {"v_head.summary.weight", "v_head.summary.bias", NULL};
    static const int value_shapes[][2] = {{1, 8}, {1, 0}};
    char config[1024];
    if (n >= sizeof seeds / sizeof seeds[0])
        return 0;
    int bytes = snprintf(config, sizeof config,
        "{\"architectures\": [\"%s\"], \"hidden_size\": 8, \"intermediate_size\": 8, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, "
        "\"vocab_size\": 16, \"max_position_embeddings\": 64%s}",
        seeds[n].architecture, seeds[n].more);
    msg_array(w, 1 + N_FILES);
    msg_str(w, seeds[n].option);
    msg_bin(w, config, (size_t)bytes);
    write_model(
        w, seeds[n].head, seeds[n].rows, downs[seeds[n].down].tensors, downs[seeds[n].down].shapes);
    if (seeds[n].has_value_head)
        write_tensors(w, value_head, value_shapes);
    else
        msg_bin(w, "", 0);
    return 1;
}
