/* fuzz_jsonl.c - any bytes as a JSONL file: each line is a row that the broker takes, or an error
 * with words; lines are counted right. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

#include "broker/cli/lines.h"
#include "schema/request.h"

static void use_line(const struct line *line)
{
    struct msg_reader r;
    struct row_request row;
    assert(json_is_integer(line->id) || json_is_string(line->id));
    if (!line->row.at) {
        assert(line->err.msg[0] && line->err.code < 0);
        return;
    }
    msg_reader_init(&r, line->row.at, line->row.len);
    int rc = request_next_row(&r, 0, &row, NULL);
    assert(rc == 0 && msg_read_end(&r, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    char path[40];
    struct cli c = {.operand = path};
    struct lines *lines = NULL;
    struct line line;
    struct err e = {0};
    int64_t last = 0;
    int fd = memfd_create("jsonl", MFD_CLOEXEC), got;
    assert(fd >= 0);
    ssize_t written = write(fd, bytes, len);
    assert(written == (ssize_t)len);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    got = lines_open(&lines, &c);
    if (got != 0) { /* no JSON lines at all (foreign.h) */
        assert(got == EX_DATAERR);
        close(fd);
        return 0;
    }
    while ((got = lines_next(lines, &line, &e)) == 1) {
        assert(line.number > last && line.number <= lines_count(lines));
        last = line.number;
        use_line(&line);
        line_release(&line);
    }
    assert(got == 0);
    lines_close(&lines);
    close(fd);
    return 0;
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    static const char *const seeds[] = {
        "{\"id\": \"a\", \"input_ids\": [1, 2, 3]}\n\n{\"text\": \"caf\\u00e9 \\ud83d\\ude00\"}\n",
        "{\"custom_id\": 7, \"messages\": [{\"role\": \"user\", \"content\": \"x\", \"name\": "
        "null}]}\n",
        "{\"prompt\": \"p\", \"responses\": [\"a\", \"b\\u0000\"]}\n{\"prompt\": [], \"response\": "
        "\"r\"}",
        "{\"chosen\": \"a\", \"rejected\": [{\"role\": \"user\", \"content\": "
        "\"\"}]}\r\n{\"question\": \"q\", "
        "\"steps\": [\"s\"]}\n",
        "{\"system\": \"s\", \"question\": \"q\", \"chosen\": \"a\", \"rejected\": null, "
        "\"context\": "
        "[\"q\"]}\n{\"prompt\": \"p\", \"response\": [{\"role\": \"assistant\", \"content\": "
        "\"x\", "
        "\"tool_calls\": [{\"a\": 1}], \"reasoning_content\": \"r\"}], \"tools\": "
        "\"[]\", \"images\": [], \"chat_template_kwargs\": {\"tools\": null}}\n",
        "\xef\xbb\xbf{\"id\": 18446744073709551615, \"text\": \"a\", \"x\": [1e999, -Infinity, "
        "NaN, "
        "{\"y\": \"\\ud800 \\udc00\"}, 99999999999999999999], \"chosen\": NaN}\n",
        "{\"text\": 1e999}\n{\"text\": NaN}\n[[[[\nnull\n{\"a\":1,\"a\":2}\n{\"ids\": "
        "[99999999999999999999]}\n"};
    if (n >= sizeof seeds / sizeof seeds[0])
        return 0;
    msgpack_sbuffer_write(&w->buffer, seeds[n], strlen(seeds[n]));
    return 1;
}
