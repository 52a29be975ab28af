/* fuzz_control.c - any bytes as a message between broker and rank; what is taken comes back the
 * same after encoding. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <string.h>

#include "schema/control.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct control c, again;
    struct err e = {0};
    struct msg_writer w;
    int rc = control_decode(&c, bytes, len, &e);
    assert(rc == 0 || (rc < 0 && rc == e.code));
    if (rc != 0)
        return 0;
    msg_writer_init(&w);
    control_encode(&c, &w);
    rc = control_decode(&again, (const uint8_t *)w.buffer.data, w.buffer.size, &e);
    assert(rc == 0 && c.type == again.type && c.rank == again.rank && c.pid == again.pid);
    assert(stage_token_equal(&c.token, &again.token) && c.digest == again.digest);
    assert(c.incarnation == again.incarnation && c.ms == again.ms && c.threads == again.threads);
    assert(c.code == again.code && strcmp(c.checkpoint, again.checkpoint) == 0);
    assert(strcmp(c.device, again.device) == 0 && strcmp(c.message, again.message) == 0);
    msg_writer_release(&w);
    return 0;
}

int fuzz_seed(unsigned n, struct msg_writer *w)
{
    struct control c = {
        .type = (enum control_type)n,
        .rank = 3,
        .incarnation = 1,
        .token = {UINT64_MAX, 2, 3, UINT32_MAX, 5},
        .digest = 0x123456789abcdef0u,
        .ms = 70000,
        .pid = 12345,
        .threads = 8,
        .code = 78,
        .device = "cpu avx2",
        .checkpoint = "0f1e",
        .message = "h\xc3\xa9",
    };
    if (n > CONTROL_STOP)
        return 0;
    control_encode(&c, w);
    return 1;
}
