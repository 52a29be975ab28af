/* fuzz_http.c - any bytes as the body of an HTTP request, for an endpoint that the first byte
 * chooses: refused with a message, or rows that the broker takes; and any bytes as the broker's
 * rows of results, as the lines of a batch, and as a form. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/ask/answers.h"
#include "broker/ask/body.h"
#include "broker/ask/faults.h"
#include "broker/http/batch_lines.h"
#include "broker/http/multipart.h"
#include "schema/alloc.h"
#include "schema/request.h"
#include "tests/unit/http_fixture.h"

static const struct {
    ask_decoder *decode;
    answer_writer *write;
} endpoints[] = {{ask_classify, answer_classify}, {ask_embeddings, answer_embeddings},
    {ask_pooling, answer_pooling}, {ask_score, answer_score}, {ask_rerank, answer_rerank},
    {ask_get_reward, answer_get_reward}, {ask_rm, answer_rm}};
enum { N_ENDPOINTS = sizeof endpoints / sizeof endpoints[0], RESULTS = N_ENDPOINTS, LINES, FORM };

/* The rows that were taken are those of a request that the broker would take. */
static void check_rows(const struct ask *ask)
{
    for (uint32_t i = 0; i < ask->rows.n; i++) {
        const struct row_place *place = &ask->rows.all[i];
        struct msg_reader r;
        struct row_request row;
        struct err e = {0};
        assert(place->at + place->len <= ask->rows.bytes.buffer.size);
        assert(place->content <= place->len);
        msg_reader_init(&r, (const uint8_t *)ask->rows.bytes.buffer.data + place->at, place->len);
        assert(request_next_row(&r, i, &row, &e) == 0 && msg_read_end(&r, &e) == 0);
    }
}

static void write_reply(answer_writer *write, const struct ask *ask)
{
    struct row_result *results = xcalloc(ask->rows.n, sizeof *results);
    float values[2] = {1.5f, -2};
    json_t *body = NULL;
    struct err e = {0};
    for (uint32_t i = 0; i < ask->rows.n; i++)
        results[i] =
            (struct row_result){.values = values, .n = 1, .width = 1 + i % 2, .is_read = 1};
    int rc = write(&body, ask, results, &e);
    char *text = answer_text(body);
    assert(rc == e.code && (rc != 0) == !text);
    free(text);
    json_decref(body);
    free(results);
}

static void try_body(int k, const uint8_t *bytes, size_t len)
{
    struct card *card = http_card("LAST", "none");
    struct ask ask;
    struct err e = {0};
    json_t *body = NULL;
    ask_init(&ask, card);
    ask.prompt_is = len % 2 ? "text" : NULL;
    int rc = body_parse((const char *)bytes, len, &body, &e);
    if (rc == 0)
        rc = ask_decode(&ask, endpoints[k].decode, body, &e);
    json_decref(body);
    assert(rc == e.code && (rc == 0 || e.msg[0]));
    if (rc == 0) {
        check_rows(&ask);
        write_reply(endpoints[k].write, &ask);
    } else {
        free(fault_body(&e, fault_status(rc)));
    }
    ask_release(&ask);
    card_release(&card);
}

static void try_results(const uint8_t *bytes, size_t len)
{
    struct row_result rows[3];
    struct err e = {0};
    if (results_read(rows, 3, (struct slice){bytes, len}, &e) != 0)
        return;
    for (int i = 0; i < 3; i++) {
        assert(rows[i].code != 0 || rows[i].n == 0 || rows[i].values);
        row_result_release(&rows[i]);
    }
}

/* Every line is read or refused, and none is lost between two. */
static void try_lines(const uint8_t *bytes, size_t len)
{
    struct batch_lines lines;
    struct err e = {0};
    int fd = memfd_create("lines", MFD_CLOEXEC);
    assert(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
    assert(batch_lines_open(&lines, fd, 4096, &e) == 0);
    struct seen *seen = seen_new(lines.n);
    assert(lines.n == 0 || lines.places[lines.n].at == (int64_t)len);
    for (uint32_t k = 0; k < lines.n; k++) {
        struct batch_line line;
        const char *code = NULL;
        int rc = batch_lines_read(&lines, k, "/v1/classify", &line, &code, &e);
        assert(lines.places[k].at < lines.places[k + 1].at && (rc == 0 || (code && e.msg[0])));
        assert(rc != 0 || (line.body && seen_add(seen, line.custom_id) + 1 > 0));
        assert(rc != 0 || seen_add(seen, line.custom_id) == 1);
        batch_line_release(&line);
    }
    seen_free(&seen);
    batch_lines_release(&lines);
}

static void begin_part(void *arg, const struct multipart_part *part)
{
    size_t *n = arg;
    assert(part->name && part->encoding);
    *n += part->filename ? strlen(part->filename) + 3 : 3;
}

static void take_part(void *arg, const char *bytes, size_t n)
{
    (void)bytes;
    *(size_t *)arg += n;
}

/* Nothing comes out that did not go in, and it is the same wherever the form is cut. */
static void try_form(const uint8_t *bytes, size_t len)
{
    size_t n_out[3] = {0};
    int is_whole[3];
    for (size_t k = 0; k < 3; k++) {
        struct multipart_taker taker = {begin_part, take_part, &n_out[k]};
        struct multipart *m;
        struct err e = {0};
        size_t cut = len * k / 3;
        assert(multipart_new(&m, "multipart/form-data; boundary=b", &taker, &e) == 0);
        int rc = multipart_feed(m, (const char *)bytes, cut, &e);
        if (rc == 0)
            rc = multipart_feed(m, (const char *)bytes + cut, len - cut, &e);
        is_whole[k] = rc == 0 && multipart_is_whole(m);
        multipart_free(&m);
    }
    assert(n_out[0] <= len && n_out[1] == n_out[0] && n_out[2] == n_out[0]);
    assert(is_whole[1] == is_whole[0] && is_whole[2] == is_whole[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return 0;
    int k = bytes[0] % (FORM + 1);
    if (k == RESULTS)
        try_results(bytes + 1, len - 1);
    else if (k == LINES)
        try_lines(bytes + 1, len - 1);
    else if (k == FORM)
        try_form(bytes + 1, len - 1);
    else
        try_body(k, bytes + 1, len - 1);
    return 0;
}

static void seed_results(struct msg_writer *w)
{
    msg_array(w, 3);
    for (int i = 0; i < 3; i++) {
        msg_map(w, 3);
        msg_key_int(w, "n_tokens", 7);
        msg_str(w, i == 2 ? "steps" : "score");
        if (i == 2)
            msg_array(w, 2);
        for (int k = 0; k < 1 + (i == 2); k++)
            msg_float(w, 0.5f);
        msg_str(w, "error");
        msg_nil(w);
    }
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    static const char *const bodies[] = {
        "{\"input\":[\"a\",\"b\"],\"model\":\"reward\",\"use_activation\":false,\"user\":\"u\"}",
        "{\"input\":[[1,2],[3]],\"encoding_format\":\"base64\",\"add_special_tokens\":false}",
        ("{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}],"
         "\"chat_template_kwargs\":{\"a\":[1.5,null]},\"pooling_type\":\"MEAN\"}"),
        "{\"queries\":[\"a\"],\"documents\":[\"b\",{\"text\":\"c\"}],\"instruction\":\"i\"}",
        "{\"query\":\"a\",\"documents\":[\"b\",\"c\"],\"top_n\":1,\"truncate_prompt_tokens\":-1}",
        "{\"query\":[\"a\"],\"prompts\":[\"a\"],\"labels\":[null]}",
        "{\"prompt\":[{\"role\":\"user\",\"content\":\"a\"}],\"response\":\"b\",\"label\":1}",
    };
    static const char lines[] =
        "{\"custom_id\":\"a\",\"method\":\"POST\",\"url\":\"/v1/classify\",\"body\":{}}\n"
        "{\"body\":{\"input\":\"a\"},\"custom_id\":\"b\",\"url\":\"/v1/"
        "classify\",\"method\":\"POST\"}";
    static const char form[] =
        "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
        "1\r\n--bc\r\n--b \r\nContent-Disposition: form-data; name=a\r\n\r\n2\r\n--b--\r\n";
    uint8_t first = (uint8_t)n;
    if (n > FORM)
        return 0;
    msgpack_sbuffer_write(&w->buffer, (const char *)&first, 1);
    if (n == RESULTS)
        seed_results(w);
    else if (n == LINES)
        msgpack_sbuffer_write(&w->buffer, lines, strlen(lines));
    else if (n == FORM)
        msgpack_sbuffer_write(&w->buffer, form, strlen(form));
    else
        msgpack_sbuffer_write(&w->buffer, bodies[n], strlen(bodies[n]));
    return 1;
}
