/* driver.c - a small deterministic fuzzer for any compiler.
 *
 *     fuzz_x SECONDS [SEED [FILE..]]
 *
 * Begins with the target's own seeds and the files given, each fed as it is and cut at every byte.
 * Then, until the time is over: take a seed, change it in a few random ways (bits, bytes,
 * deletions, doublings, splices with another seed, heads that promise huge lengths), feed it. Each
 * input lies on the heap and is not a byte longer than it says, so that sanitizers see one byte too
 * many. The same SEED makes the same inputs; the one that was under way when the process died is on
 * stderr in hexadecimal. An input that takes over ten seconds is a finding too.
 *
 * LIMITS: no feedback from coverage; libFuzzer has it (see fuzz.h). */
#include "tests/fuzz/fuzz.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "schema/alloc.h"
#include "schema/clock.h"
#include "schema/log.h"

#define INPUT_BYTES 65536
#define SEEDS 256

struct input {
    uint8_t *bytes;
    size_t len;
};

/* Not in main's hands, as a signal handler must reach it. */
static struct input current;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static size_t below(uint64_t *state, size_t n)
{
    return n == 0 ? 0 : (size_t)(next_random(state) % n);
}

static void say_input(void)
{
    static const char digits[] = "0123456789abcdef";
    char text[2];
    (void)!write(2, "fuzz: input: ", 13);
    for (size_t i = 0; i < current.len; i++) {
        text[0] = digits[current.bytes[i] >> 4];
        text[1] = digits[current.bytes[i] & 15];
        (void)!write(2, text, 2);
    }
    (void)!write(2, "\n", 1);
}

static void on_signal(int number)
{
    say_input();
    signal(number, SIG_DFL);
    raise(number);
}

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
static void watch_deaths(void)
{
    __sanitizer_set_death_callback(say_input);
    signal(SIGABRT, on_signal);
    signal(SIGALRM, on_signal);
}
#else
static void watch_deaths(void)
{
    static const int numbers[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        signal(numbers[i], on_signal);
}
#endif

static void feed(const uint8_t *bytes, size_t len)
{
    current.bytes = malloc(len > 0 ? len : 1);
    current.len = len;
    if (!current.bytes)
        die(71, "event=out_of_memory");
    if (len > 0)
        memcpy(current.bytes, bytes, len);
    alarm(10);
    LLVMFuzzerTestOneInput(current.bytes, len);
    free(current.bytes);
}

/* Heads of msgpack values that promise more than any message holds, and numbers at the edges. */
static const struct {
    const char *bytes;
    size_t len;
} spice[] = {{"\xdd\xff\xff\xff\xff", 5}, {"\xdf\xff\xff\xff\xff", 5}, {"\xdb\xff\xff\xff\xff", 5},
    {"\xc6\xff\xff\xff\xff", 5}, {"\xc9\xff\xff\xff\xff\x01", 6}, {"\xdc\xff\xff", 3},
    {"\xde\xff\xff", 3}, {"\xda\xff\xff", 3}, {"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", 9},
    {"\xd3\x80\0\0\0\0\0\0\0", 9}, {"\xce\x80\0\0\0", 5}, {"\xca\x7f\xc0\0\0", 5},
    {"\xcb\x7f\xf0\0\0\0\0\0\0", 9}, {"\xc0", 1}, {"\xc1", 1}, {"\xd4\x01\0", 3},
    {"\xa2\xff\xfe", 3}, {"\x91\x91\x91\x91\x91\x91\x91\x91", 8},
    {"\x81\xa1x\x81\xa1x\x81\xa1x", 9}, {"\xff", 1}};

static void cut_out(struct input *in, size_t at, size_t n)
{
    n = n < in->len - at ? n : in->len - at;
    memmove(in->bytes + at, in->bytes + at + n, in->len - at - n);
    in->len -= n;
}

static void put_in(struct input *in, size_t at, const void *bytes, size_t n)
{
    if (in->len + n > INPUT_BYTES)
        return;
    memmove(in->bytes + at + n, in->bytes + at, in->len - at);
    memcpy(in->bytes + at, bytes, n);
    in->len += n;
}

static void mutate(struct input *in, const struct input *other, uint64_t *rng)
{
    size_t at = below(rng, in->len), k = below(rng, sizeof spice / sizeof spice[0]);
    size_t from = below(rng, other->len), n = 1 + below(rng, 16);
    switch (in->len == 0 ? 6 : below(rng, 8)) {
    case 0:
        in->bytes[at] ^= (uint8_t)(1u << below(rng, 8));
        break;
    case 1:
        in->bytes[at] = (uint8_t)next_random(rng);
        break;
    case 2:
        cut_out(in, at, n);
        break;
    case 3:
        in->len = at;
        break;
    case 4:
        cut_out(in, at, spice[k].len);
        put_in(in, at, spice[k].bytes, spice[k].len);
        break;
    case 5:
        cut_out(in, at, 1);
        put_in(in, at, spice[k].bytes, spice[k].len);
        break;
    case 6:
        put_in(in, at, other->bytes + from, n < other->len - from ? n : other->len - from);
        break;
    default: /* the front of one, the back of the other */
        in->len = at;
        put_in(in, at, other->bytes + from, other->len - from);
    }
}

static struct input copy_of(const void *bytes, size_t len)
{
    struct input in = {xcalloc(len + 1, 1), len};
    if (len > 0)
        memcpy(in.bytes, bytes, len);
    return in;
}

static struct input read_file(const char *path)
{
    struct input in = {xcalloc(INPUT_BYTES, 1), 0};
    FILE *f = fopen(path, "rb");
    if (f) {
        in.len = fread(in.bytes, 1, INPUT_BYTES, f);
        fclose(f);
    } else {
        die(66, "event=cannot_open file='%s'", path);
    }
    return in;
}

static unsigned load_seeds(struct input *seeds, char **files)
{
    struct msg_writer w;
    unsigned n = 0;
    msg_writer_init(&w);
    for (; n < SEEDS && fuzz_seed(n, &w); n++, msg_writer_clear(&w))
        seeds[n] = copy_of(w.buffer.data, w.buffer.size);
    msg_writer_release(&w);
    for (; *files && n < SEEDS; files++, n++)
        seeds[n] = read_file(*files);
    return n;
}

static void feed_cut_everywhere(const struct input *seeds, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        for (size_t len = seeds[i].len + 1; len-- > 0;)
            feed(seeds[i].bytes, len);
}

static unsigned long long fuzz(
    const struct input *seeds, unsigned n_seeds, uint64_t rng, long long until_ms)
{
    struct input in = {xcalloc(INPUT_BYTES, 1), 0};
    unsigned long long n = 0;
    while (n % 256 != 0 || now_mono_ms() < until_ms) {
        const struct input *seed = &seeds[below(&rng, n_seeds)];
        in.len = seed->len < INPUT_BYTES ? seed->len : INPUT_BYTES;
        memcpy(in.bytes, seed->bytes, in.len);
        for (size_t k = 1 + below(&rng, 6); k > 0; k--)
            mutate(&in, &seeds[below(&rng, n_seeds)], &rng);
        feed(in.bytes, in.len);
        n++;
    }
    free(in.bytes);
    return n;
}

int main(int argc, char **argv)
{
    struct input seeds[SEEDS];
    if (argc < 2 || atoi(argv[1]) < 1) {
        fprintf(stderr, "usage: %s SECONDS [SEED [FILE..]]\n", argv[0]);
        return 64;
    }
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    unsigned n_seeds = load_seeds(seeds, argc > 3 ? argv + 3 : argv + argc);
    watch_deaths();
    feed_cut_everywhere(seeds, n_seeds);
    unsigned long long n = fuzz(
        seeds, n_seeds, seed * 0x9e3779b97f4a7c15u | 1, now_mono_ms() + 1000LL * atoi(argv[1]));
    printf(
        "[  PASSED  ] 1 test: %s: %u seeds, %llu mutations, nothing found\n", argv[0], n_seeds, n);
    for (unsigned i = 0; i < n_seeds; i++)
        free(seeds[i].bytes);
    return 0;
}
