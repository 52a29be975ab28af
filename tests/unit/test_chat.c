/* test_chat.c - the chat writers against what transformers wrote (tests/vectors/text/chat.json). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "broker/text/chat.h"
#include "tests/unit/json_msgpack.h"

static json_t *vectors;

static int load(void **state)
{
    (void)state;
    json_error_t why;
    vectors = json_load_file("tests/vectors/text/chat.json", JSON_ALLOW_NUL, &why);
    return vectors ? 0 : -1;
}

static int drop(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

static struct slice slice_of_json(const json_t *v)
{
    return (struct slice){(const uint8_t *)json_string_value(v), json_string_length(v)};
}

static struct slice text_slice(const char *text)
{
    return (struct slice){(const uint8_t *)text, strlen(text)};
}

static uint32_t take_messages(const json_t *list, struct chat_message *out)
{
    json_t *m;
    size_t k;
    json_array_foreach(list, k, m) out[k] =
        (struct chat_message){.role = slice_of_json(json_object_get(m, "role")),
            .content = slice_of_json(json_object_get(m, "content"))};
    return (uint32_t)k;
}

/* Copies say where each byte of content went. */
static void check_copies(const struct chat_text *t, const struct chat_message *messages)
{
    size_t end = 0;
    for (size_t k = 0; k < t->n_copies; k++) {
        const struct chat_copy *c = &t->copies[k];
        assert_true(c->to >= end && c->to + c->len <= t->text.len);
        assert_true(c->from + c->len <= messages[c->message].content.len);
        if (c->len > 0)
            assert_memory_equal(
                t->text.at + c->to, messages[c->message].content.at + c->from, c->len);
        end = c->to + c->len;
    }
}

static int is_ours(const struct chat_message *m, uint32_t n)
{
    static const char *const known[] = {"system", "user", "assistant", "tool"};
    for (uint32_t i = 0; i < n; i++) {
        int found = 0;
        for (int k = 0; k < 4; k++)
            found |= m[i].role.len == strlen(known[k]) &&
                     memcmp(m[i].role.at, known[k], m[i].role.len) == 0;
        if (!found)
            return 0;
    }
    return 1;
}

static int has_tool(const struct chat_message *m, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (m[i].role.len == 4 && memcmp(m[i].role.at, "tool", 4) == 0)
            return 1;
    return 0;
}

/* One conversation in one family's template: the same bytes, or refused where we refuse. */
static int check_case(
    const char *family, const json_t *expected, const struct chat_message *messages, uint32_t n)
{
    struct chat_text out = {0};
    struct err e = {0};
    enum chat_template t = chat_from_name(family);
    assert_true(t > CHAT_NONE && t < CHAT_COUNT);
    int rc = chat_write(t, messages, n, &out, &e);
    int refused = n == 0 || !is_ours(messages, n) || (t == CHAT_LLAMA31 && has_tool(messages, n));
    if (refused) {
        assert_int_equal(rc, ASSAY_EBADTEXT);
        assert_true(e.msg[0] != '\0');
    } else {
        assert_int_equal(rc, 0);
        if (out.text.len != json_string_length(expected) ||
            memcmp(out.text.at, json_string_value(expected), out.text.len) != 0)
            fail_msg("%s: expected\n%s\nfound\n%.*s", family, json_string_value(expected),
                (int)out.text.len, (const char *)out.text.at);
        check_copies(&out, messages);
    }
    chat_text_release(&out);
    return !refused;
}

static void texts_are_the_templates(void **state)
{
    (void)state;
    json_t *item, *text;
    const char *family;
    size_t k;
    int compared = 0;
    json_array_foreach(json_object_get(vectors, "cases"), k, item)
    {
        struct chat_message messages[64];
        assert_true(json_array_size(json_object_get(item, "messages")) <= 64);
        uint32_t n = take_messages(json_object_get(item, "messages"), messages);
        json_object_foreach(json_object_get(item, "texts"), family, text) compared +=
            check_case(family, text, messages, n);
    }
    assert_true(compared >= 801);
}

static void published_templates_are_known(void **state)
{
    (void)state;
    json_t *family, *hash;
    const char *name;
    size_t k;
    int n = 0;
    json_object_foreach(json_object_get(vectors, "families"), name, family)
    {
        json_array_foreach(json_object_get(family, "sha256"), k, hash)
        {
            assert_string_equal(chat_name(chat_from_hash(json_string_value(hash))), name);
            n++;
        }
    }
    assert_true(n >= 17);
}

static const char ours[] = "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + "
                           "'\\n' + message['content'] + "
                           "'<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- "
                           "'<|im_start|>assistant\\n' }}{%- endif %}";

static void a_hash_does_not_depend_on_line_ends(void **state)
{
    (void)state;
    char hash[CHAT_HASH_HEX], other[CHAT_HASH_HEX], text[400];
    assert_int_equal(chat_from_source(ours, strlen(ours), hash), CHAT_CHATML);
    snprintf(text, sizeof text, "%s\r\n", ours);
    assert_int_equal(chat_from_source(text, strlen(text), other), CHAT_CHATML);
    assert_string_equal(hash, other);
    snprintf(text, sizeof text, " %s", ours);
    assert_int_equal(chat_from_source(text, strlen(text), other), CHAT_NONE);
    chat_from_source("a\r\nb\rc", 6, hash);
    chat_from_source("a\nb\nc", 5, other);
    assert_string_equal(hash, other);
}

/* What stands behind a template's last tag, and whether Jinja as transformers sets it up (3.1,
 * trim_blocks and lstrip_blocks, keep_trailing_newline off) writes any of it. */
static void white_space_at_the_end_counts_where_it_is_written(void **state)
{
    (void)state;
    static const struct {
        const char *tag, *end;
        int written;
    } cases[] = {{"%}", "", 0}, {"%}", "\n", 0}, {"%}", "\n\n", 0}, {"%}", "\n\n\n", 1},
        {"%}", " ", 1}, {"%}", " \n", 1}, {"%}", "\n ", 1}, {"%}", "\r\n", 0},
        {"%}", "\r\n\r\n", 0}, {"%}", "\r", 0}, {"%}", "\t\n", 1}, {"%}", "\v", 1},
        {"%}", "\n\v\n", 1}, {"-%}", "\n\n\n", 0}, {"-%}", " \v\n ", 0}, {"+%}", "\n", 0},
        {"+%}", "\n\n", 1}, {"+%}", " ", 1}, {"}}", "\n", 0}, {"}}", "\n\n", 1}, {"}}", " ", 1},
        {"-}}", " \n\n", 0}, {"x", "\n", 0}, {"x", "\n\n", 1}, {"#}", "\n\n", 0}, {"#}", " ", 1},
        {"-#}", " \n\n", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bare[CHAT_HASH_HEX], hash[CHAT_HASH_HEX], text[40];
        chat_from_source(cases[i].tag, strlen(cases[i].tag), bare);
        snprintf(text, sizeof text, "%s%s", cases[i].tag, cases[i].end);
        chat_from_source(text, strlen(text), hash);
        if ((strcmp(bare, hash) != 0) != cases[i].written)
            fail_msg("case %zu: '%s'", i, text);
    }
}

/* ---- checkpoints ---- */

static char dir[] = "/tmp/assay-chat-XXXXXX";

static void put_file(const char *name, const char *text)
{
    char path[100];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
    if (!text)
        return;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void make_folder(void)
{
    char path[100];
    snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    assert_int_equal(mkdir(path, 0700), 0);
}

static struct chat load_with(const char *config, const char *jinja)
{
    struct chat c;
    struct err e = {0};
    put_file("tokenizer_config.json", config);
    put_file("chat_template.jinja", jinja);
    assert_int_equal(chat_load(&c, dir, &e), 0);
    return c;
}

static enum chat_template template_of(const char *config, const char *jinja)
{
    struct chat c = load_with(config, jinja);
    chat_release(&c);
    return c.template;
}

static char *config_with(const char *before, const char *after)
{
    json_t *source = json_string(ours);
    char *quoted = json_dumps(source, JSON_ENCODE_ANY), *text = malloc(1000);
    snprintf(text, 1000, "{\"chat_template\": %s%s%s}", before, quoted, after);
    free(quoted);
    json_decref(source);
    return text;
}

static void templates_are_found_where_checkpoints_have_them(void **state)
{
    (void)state;
    make_folder();
    char *
        plain = config_with("", ""),
       *named = config_with(
           "[{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": \"default\", \"template\": ",
           "}]");
    assert_int_equal(template_of(plain, NULL), CHAT_CHATML);
    assert_int_equal(template_of(named, NULL), CHAT_CHATML);
    assert_int_equal(template_of(NULL, ours), CHAT_CHATML);
    assert_int_equal(template_of(plain, "another"), CHAT_JINJA);
    /* As transformers: of two named alike the last; a folder's default before the file, and any
     * template in it before tokenizer_config.json. */
    char *twice = config_with(
        "[{\"name\": \"default\", \"template\": \"x\"}, {\"name\": \"default\", \"template\": ",
        "}]");
    char *object = config_with("{\"default\": ", "}");
    assert_int_equal(template_of(twice, NULL), CHAT_CHATML);
    assert_int_equal(template_of(object, NULL), CHAT_CHATML);
    free(twice);
    free(object);
    put_file("additional_chat_templates/tool_use.jinja", "x");
    assert_non_null(strstr(load_with(plain, NULL).reason, "no default.jinja"));
    assert_int_equal(template_of(plain, ours), CHAT_CHATML);
    put_file("additional_chat_templates/default.jinja", "another");
    assert_int_equal(template_of(plain, ours), CHAT_JINJA);
    put_file("additional_chat_templates/default.jinja", ours);
    assert_int_equal(template_of(NULL, "another"), CHAT_CHATML);
    put_file("additional_chat_templates/default.jinja", NULL);
    put_file("additional_chat_templates/tool_use.jinja", NULL);
    struct chat c = load_with("{\"chat_template\": \"\\n{% if messages %}\"}", NULL);
    assert_int_equal(c.template, CHAT_NONE);
    assert_non_null(strstr(c.reason, "in tokenizer_config.json cannot be used: line 2: "));
    assert_non_null(strstr(c.reason, "send text or ids"));
    c = load_with("{}", NULL);
    assert_non_null(strstr(c.reason, "no chat template"));
    c = load_with(NULL, NULL);
    assert_non_null(strstr(c.reason, "no chat template"));
    free(plain);
    free(named);
}

/* With another bos token than the writers', the template itself is taken. */
static void llama_templates_need_their_bos_token(void **state)
{
    (void)state;
    static const struct {
        const char *tokens;
        enum chat_template expected;
    } cases[] = {{"{\"bos_token\": \"<|begin_of_text|>\"}", CHAT_LLAMA3},
        {"{\"bos_token\": \"<s>\"}", CHAT_JINJA}, {"{}", CHAT_JINJA}};
    struct err e = {0};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct chat c = {.template = CHAT_LLAMA3};
        json_t *tokens = json_loads(cases[i].tokens, 0, NULL);
        assert_int_equal(jinja_parse(&c.jinja, text_slice("{{ bos_token }}"), &e), 0);
        chat_check_bos(&c, tokens);
        assert_int_equal(c.template, cases[i].expected);
        json_decref(tokens);
        chat_release(&c);
    }
}

static void a_template_in_a_file(void **state)
{
    (void)state;
    struct chat c;
    struct err e = {0};
    char path[400];
    snprintf(path, sizeof path, "%s/chat_template.jinja", dir);
    put_file("chat_template.jinja", ours);
    assert_int_equal(chat_load_file(&c, path, &e), 0);
    assert_int_equal(c.template, CHAT_CHATML);
    chat_release(&c);
    put_file("chat_template.jinja", "{{ bos_token }}");
    assert_int_equal(chat_load_file(&c, path, &e), 0);
    assert_int_equal(c.template, CHAT_JINJA);
    chat_release(&c);
    put_file("chat_template.jinja", NULL);
    assert_int_equal(chat_load_file(&c, path, &e), ASSAY_EFORMAT);
}

/* ---- interpreted ---- */

static const char loud[] =
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}{{ loop.index }}>{{ m.content | trim }}"
    "{% if m.thinking %}({{ m.thinking }}){% endif %}{% for k in m.tool_calls or [] %}"
    "{{ k.name }}{{ k.arguments | tojson }}{% endfor %}{{ m.name }}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if enable_thinking is false %}!{% endif %}";

static struct slice packed(struct msg_writer *w, const char *json)
{
    json_t *v = json_loads(json, JSON_DECODE_ANY, NULL);
    assert_non_null(v);
    msg_writer_init(w);
    pack_json(w, v);
    json_decref(v);
    return (struct slice){(const uint8_t *)w->buffer.data, w->buffer.size};
}

static void an_interpreted_template_sees_the_row(void **state)
{
    (void)state;
    struct chat c = {.template = CHAT_JINJA};
    struct chat_text out = {0};
    struct msg_writer raw, tools, arguments;
    struct err e = {0};
    struct jinja_run *run = jinja_run_new();
    json_t *tokens = json_pack("{s:s}", "bos_token", "<s>");
    struct chat_message m[2] = {{.role = text_slice("user"), .content = text_slice(" hi ")},
        {.role = text_slice("assistant"), .content = text_slice("4")}};
    m[1].raw = packed(&raw, "{\"content\": \"4\", \"role\": \"assistant\", \"reasoning\": \"so\", "
                            "\"name\": \"Ann\", \"tool_calls\": [{\"name\": \"add\", "
                            "\"arguments\": {\"a\": 1.5}}]}");
    struct chat_talk talk = {m, 2, packed(&tools, "[{\"x\": []}]"),
        packed(&arguments, "{\"enable_thinking\": false}"), 0};
    c.tokens = tokens;
    assert_int_equal(jinja_parse(&c.jinja, text_slice(loud), &e), 0);
    assert_int_equal(chat_interpret(&c, run, &talk, &out, &e), 0);
    assert_int_equal(
        out.text.len, strlen("<s><user1>hi<assistant2>4(so)add{\"a\": 1.5}Ann[{\"x\": []}]!"));
    assert_memory_equal(
        out.text.at, "<s><user1>hi<assistant2>4(so)add{\"a\": 1.5}Ann[{\"x\": []}]!", out.text.len);
    assert_int_equal(out.copies[1].message, 0); /* the first is the role */
    assert_int_equal(out.copies[1].from, 1);
    assert_int_equal(out.copies[1].len, 2);
    assert_int_equal(out.copies[1].to, 10);
    talk.tools = talk.arguments;
    assert_int_equal(chat_interpret(&c, run, &talk, &out, &e), ASSAY_EBADTEXT);
    assert_string_equal(e.field, "tools");
    jinja_run_free(&run);
    chat_text_release(&out);
    chat_release(&c);
    json_decref(tokens);
    msg_writer_release(&raw);
    msg_writer_release(&tools);
    msg_writer_release(&arguments);
}

static void broken_files_are_named(void **state)
{
    (void)state;
    struct chat c;
    struct err e = {0};
    put_file("tokenizer_config.json", "{\"chat_template\": ");
    assert_int_equal(chat_load(&c, dir, &e), ASSAY_EFORMAT);
    assert_non_null(strstr(e.msg, "tokenizer_config.json"));
    put_file("tokenizer_config.json", NULL);
}

static void roles_and_names(void **state)
{
    (void)state;
    struct chat_text out = {0};
    struct err e = {0};
    struct chat_message m = {.role = text_slice("king"), .content = text_slice("x")};
    assert_int_equal(chat_write(CHAT_QWEN2, &m, 1, &out, &e), ASSAY_EBADTEXT);
    assert_string_equal(e.field, "messages[0].role");
    assert_string_equal(e.msg, "expected system, user, assistant or tool, found 'king'");
    m.role = text_slice("tool");
    assert_int_equal(chat_write(CHAT_LLAMA31, &m, 1, &out, &e), ASSAY_EBADTEXT);
    assert_int_equal(chat_write(CHAT_NONE, &m, 1, &out, &e), ASSAY_EBADTEXT);
    assert_int_equal(chat_from_name("none"), CHAT_COUNT);
    assert_int_equal(chat_from_name(""), CHAT_COUNT);
    for (int t = CHAT_CHATML; t < CHAT_COUNT; t++)
        assert_int_equal(chat_from_name(chat_name((enum chat_template)t)), t);
    chat_text_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_the_templates),
        cmocka_unit_test(published_templates_are_known),
        cmocka_unit_test(a_hash_does_not_depend_on_line_ends),
        cmocka_unit_test(white_space_at_the_end_counts_where_it_is_written),
        cmocka_unit_test(templates_are_found_where_checkpoints_have_them),
        cmocka_unit_test(llama_templates_need_their_bos_token),
        cmocka_unit_test(a_template_in_a_file),
        cmocka_unit_test(an_interpreted_template_sees_the_row),
        cmocka_unit_test(broken_files_are_named),
        cmocka_unit_test(roles_and_names),
    };
    if (!mkdtemp(dir))
        return 1;
    int failed = cmocka_run_group_tests(tests, load, drop);
    put_file("tokenizer_config.json", NULL);
    put_file("chat_template.jinja", NULL);
    char path[100];
    snprintf(path, sizeof path, "%s/additional_chat_templates", dir);
    rmdir(path);
    rmdir(dir);
    return failed;
}
