/* stage.c - see stage.h for what a slot is and who owns it. This is the format; all numbers are
 * little-endian, as the CPU has them.
 *
 *     Input segment                      Output segment
 *        0  head                            0  head
 *     4096  slot 0                       4096  progress of rank 0, 1, ..: a u64 every 64 bytes
 *       ..  slot 1 ..                    8192  slot 0 ..
 *
 *     Head, the same in both
 *        0  u64  magic, the bytes "ASYSTAGE"
 *        8  u32  version, FORMAT_VERSION
 *       12  u32  n_slots; then u32 max_rows, max_tokens, max_positions, max_values
 *
 *     Input slot                         Output slot
 *        0  token                           0  token
 *       32  u32  n_rows                    32  u32  n_values
 *       36  u32  n_tokens                  36  u32  unused, 0
 *       40  u32  n_positions               40  u64  the token's sequence again
 *       44  u32  n_values                  64  f32  values [max_values]
 *       48  u64  the token's sequence again
 *       64  rows [max_rows], then i32 ids [max_tokens], then i32 positions [max_positions]
 *
 *     Token (32 bytes)                   Row (32 bytes)
 *        0  u64  epoch                      0  u32  n_tokens
 *        8  u64  incarnation                4  i32  pool type
 *       16  u64  sequence                   8  i32  activation
 *       24  u32  slot                      12  i32  step token
 *       28  u32  generation                16  u32  n_positions
 *                                          20  u32  n_values
 *                                          24  u32  n_shared
 *                                          28  u32  adapter
 *
 *     The first n_shared of a row's n_tokens ids are left out (stage.h); the slot's n_tokens
 *     counts the ids that are there.
 *
 * Every array begins at a multiple of 64 bytes, every slot at a multiple of 4096. The offsets
 * follow from the capacities in the head alone (make_layout), which is checked against the
 * segment's size when a rank attaches and never read again; nothing else in the segment gives an
 * offset.
 *
 * A slot is valid when its descriptor has the hand-over's token, with the same sequence after it,
 * and counts within the capacities.
 *
 * The writer writes the arrays, the descriptor with sequence 0, and then the sequence with release
 * order. Then it sends the message that carries the token.
 *
 * The reader loads the sequence with acquire order, copies the descriptor once, compares the token
 * and checks the copy's counts. It copies rows, ids and positions and checks these copies: the
 * rows' counts must add up to the descriptor's, every position must lie in its row, and the tokens
 * that a row shares must lie in its owner.
 *
 * The segments are sealed memory without a name (memfd_create). Their size cannot change, so no
 * access can fail; only the broker's own mapping can write to the input, so no stray write in a
 * rank can reach it. They are allocated in full at the start, from memory (or swap), whatever the
 * size of /dev/shm, and vanish when the processes end.
 *
 * LIMITS: this file does not decide which slot is used when, keep results, or survive the broker. A
 * change of the format needs a new FORMAT_VERSION; broker and ranks are installed together, so old
 * formats are never read. */
#include "shm/stage.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "schema/alloc.h"

#define MAGIC 0x4547415453595341ull /* "ASYSTAGE" */
#define FORMAT_VERSION 3
#define PAGE 4096u
#define PROGRESS_AT PAGE
#define OUTPUT_SLOTS_AT (PROGRESS_AT + 64u * STAGE_MAX_RANKS)

struct segment_head {
    uint64_t magic;
    uint32_t version;
    struct stage_config config;
};

struct input_descriptor {
    struct stage_token token;
    uint32_t n_rows, n_tokens, n_positions, n_values;
    uint64_t sequence; /* token.sequence, written last */
};

struct output_descriptor {
    struct stage_token token;
    uint32_t n_values, unused;
    uint64_t sequence;
};

/* These structs in memory are the format above. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian");
_Static_assert(sizeof(struct segment_head) == 32 && sizeof(struct stage_token) == 32 &&
                   sizeof(struct stage_row) == 32,
    "sizes are part of the format");
_Static_assert(offsetof(struct input_descriptor, sequence) == 48 &&
                   offsetof(struct output_descriptor, sequence) == 40,
    "offsets are part of the format");

/* Offsets inside a slot, and sizes, from the capacities. */
struct layout {
    uint64_t rows_at, ids_at, positions_at, input_slot_bytes, input_bytes;
    uint64_t values_at, output_slot_bytes, output_bytes;
};

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

/* Capacities are 32 bits wide and elements at most 32 bytes, so nothing here can overflow 64 bits.
 */
static struct layout make_layout(const struct stage_config *c)
{
    struct layout l;
    l.rows_at = round_up(sizeof(struct input_descriptor), 64);
    l.ids_at = l.rows_at + round_up((uint64_t)c->max_rows * sizeof(struct stage_row), 64);
    l.positions_at = l.ids_at + round_up((uint64_t)c->max_tokens * 4, 64);
    l.input_slot_bytes = round_up(l.positions_at + (uint64_t)c->max_positions * 4, PAGE);
    l.input_bytes = PAGE + c->n_slots * l.input_slot_bytes;
    l.values_at = round_up(sizeof(struct output_descriptor), 64);
    l.output_slot_bytes = round_up(l.values_at + (uint64_t)c->max_values * 4, PAGE);
    l.output_bytes = OUTPUT_SLOTS_AT + c->n_slots * l.output_slot_bytes;
    return l;
}

static int config_is_sane(const struct stage_config *c)
{
    return c->n_slots >= 1 && c->n_slots <= STAGE_MAX_SLOTS && c->max_rows >= 1 &&
           c->max_tokens >= 1 && c->max_values >= 1 && c->max_rows <= 1u << 24 &&
           c->max_tokens <= 1u << 28 && c->max_positions <= 1u << 28 && c->max_values <= 1u << 30;
}

/* ---- segments ---- */

static int allocate_in_full(int fd, uint64_t bytes)
{
    int rc;
    do
        rc = posix_fallocate(fd, 0, (off_t)bytes);
    while (rc == EINTR); /* a signal with a handler can interrupt a large allocation */
    return rc;
}

/* Returns how much memory the machine could give, swap included; 0: unknown. */
static uint64_t memory_left(void)
{
    char line[128];
    unsigned long long kib, left = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1 ||
            sscanf(line, "SwapFree: %llu", &kib) == 1)
            left += kib << 10;
    if (f)
        fclose(f);
    return left;
}

static int no_memory(uint64_t bytes, struct err *e)
{
    return err_set(e, ASSAY_ENOMEM,
        "shared memory: wanted %llu bytes, the machine has %llu left; smaller --max-batch-tokens "
        "or "
        "--max-len take less",
        (unsigned long long)bytes, (unsigned long long)memory_left());
}

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 16
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

/* Makes a segment without a name, allocated in full. Allocating more than there is would get some
 * other process killed, so the size is checked first. */
static int make_segment(uint64_t bytes, struct err *e)
{
    uint64_t left = memory_left();
    if (left > 0 && bytes > left)
        return no_memory(bytes, e);
    int fd = memfd_create("assay", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* a kernel before 6.3 */
        fd = memfd_create("assay", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return err_errno(e, ASSAY_EIO, "shared memory: cannot make a segment");
    fchmod(fd, 0600);
    int rc = allocate_in_full(fd, bytes);
    if (rc == 0)
        return fd;
    close(fd);
    errno = rc;
    return rc == ENOMEM || rc == ENOSPC
               ? no_memory(bytes, e)
               : err_errno(
                     e, ASSAY_EIO, "shared memory: wanted %llu bytes", (unsigned long long)bytes);
}

/* Forbids any change of the size, and what `also` forbids. */
static int seal(int fd, int also, struct err *e)
{
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | also) == 0)
        return 0;
    return err_errno(e, ASSAY_EIO, "shared memory: cannot seal a segment");
}

int stage_segment_new(uint64_t bytes, struct err *e)
{
    int fd = make_segment(bytes, e), rc = fd < 0 ? fd : seal(fd, 0, e);
    if (fd >= 0 && rc != 0)
        close(fd);
    return rc != 0 ? rc : fd;
}

/* ---- broker side ---- */

struct slot {
    int taken;
    struct stage_token token; /* the present or last hand-over's */
    uint32_t n_values;
};

struct stage {
    struct stage_config config;
    struct layout layout;
    int input_fd, output_fd; /* for the ranks; a new mapping of input_fd is read-only */
    uint8_t *input, *output;
    uint64_t sequence;
    struct slot slots[STAGE_MAX_SLOTS];
};

static void write_head(uint8_t *segment, const struct stage_config *config)
{
    struct segment_head head = {MAGIC, FORMAT_VERSION, *config};
    memcpy(segment, &head, sizeof head);
}

static int map_segment(uint8_t **at, int fd, uint64_t bytes, struct err *e)
{
    *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*at != MAP_FAILED)
        return 0;
    *at = NULL;
    return err_errno(e, ASSAY_EIO, "shared memory: cannot map a segment");
}

/* Maps both segments, then seals them: no later mapping of the input is writable. */
static int map_segments(struct stage *s, struct err *e)
{
    int rc = map_segment(&s->input, s->input_fd, s->layout.input_bytes, e);
    if (rc == 0)
        rc = map_segment(&s->output, s->output_fd, s->layout.output_bytes, e);
    if (rc == 0)
        rc = seal(s->input_fd, F_SEAL_FUTURE_WRITE, e);
    if (rc == 0)
        rc = seal(s->output_fd, 0, e);
    if (rc != 0)
        return rc;
    write_head(s->input, &s->config);
    write_head(s->output, &s->config);
    return 0;
}

int stage_new(struct stage **out, const struct stage_config *config, struct err *e)
{
    if (!config_is_sane(config))
        return err_set(e, ASSAY_ETOOLARGE,
            "staging: %u slots of %u rows, %u tokens, %u values are out of range", config->n_slots,
            config->max_rows, config->max_tokens, config->max_values);
    struct stage *s = xcalloc(1, sizeof *s);
    s->config = *config;
    s->layout = make_layout(config);
    s->input_fd = s->output_fd = -1;
    int rc = s->input_fd = make_segment(s->layout.input_bytes, e);
    if (rc >= 0)
        rc = s->output_fd = make_segment(s->layout.output_bytes, e);
    if (rc >= 0)
        rc = map_segments(s, e);
    *out = s;
    if (rc < 0)
        stage_free(out);
    return rc < 0 ? rc : 0;
}

void stage_free(struct stage **out)
{
    struct stage *s = *out;
    if (!s)
        return;
    if (s->input)
        munmap(s->input, s->layout.input_bytes);
    if (s->output)
        munmap(s->output, s->layout.output_bytes);
    if (s->input_fd >= 0)
        close(s->input_fd);
    if (s->output_fd >= 0)
        close(s->output_fd);
    free(s);
    *out = NULL;
}

int stage_input_fd(const struct stage *s)
{
    return s->input_fd;
}

int stage_output_fd(const struct stage *s)
{
    return s->output_fd;
}

static int count_fill(const struct stage_fill *fill, struct input_descriptor *d, struct err *e,
    const struct stage_config *c)
{
    uint64_t tokens = 0, positions = 0, values = 0;
    for (uint32_t i = 0; i < fill->n_rows; i++) {
        assert(fill->rows[i].n_shared < fill->rows[i].n_tokens);
        tokens += fill->rows[i].n_tokens - fill->rows[i].n_shared;
        positions += fill->rows[i].n_positions;
        values += fill->rows[i].n_values;
    }
    if (fill->n_rows > c->max_rows || tokens > c->max_tokens || positions > c->max_positions ||
        values > c->max_values)
        return err_set(e, ASSAY_ETOOLARGE,
            "batch of %u rows, %llu tokens, %llu positions, %llu values; a slot holds %u, %u, %u, "
            "%u",
            fill->n_rows, (unsigned long long)tokens, (unsigned long long)positions,
            (unsigned long long)values, c->max_rows, c->max_tokens, c->max_positions,
            c->max_values);
    d->n_rows = fill->n_rows;
    d->n_tokens = (uint32_t)tokens;
    d->n_positions = (uint32_t)positions;
    d->n_values = (uint32_t)values;
    return 0;
}

static void copy_arrays(const struct stage *s, uint8_t *slot, const struct stage_fill *fill)
{
    int32_t *ids = (int32_t *)(slot + s->layout.ids_at);
    int32_t *positions = (int32_t *)(slot + s->layout.positions_at);
    memcpy(slot + s->layout.rows_at, fill->rows, fill->n_rows * sizeof *fill->rows);
    for (uint32_t i = 0; i < fill->n_rows; i++) {
        const struct stage_row *row = &fill->rows[i];
        uint32_t own = row->n_tokens - row->n_shared;
        memcpy(ids, fill->ids[i] + row->n_shared, (size_t)own * sizeof *ids);
        ids += own;
        if (row->n_positions > 0)
            memcpy(positions, fill->positions[i], (size_t)row->n_positions * sizeof *positions);
        positions += row->n_positions;
    }
}

int stage_publish(struct stage *s, uint64_t epoch, uint64_t incarnation,
    const struct stage_fill *fill, struct stage_token *token, struct err *e)
{
    struct input_descriptor d = {0};
    uint32_t k = 0;
    assert(fill->n_rows > 0);
    int rc = count_fill(fill, &d, e, &s->config);
    while (k < s->config.n_slots && s->slots[k].taken)
        k++;
    if (rc != 0 || k == s->config.n_slots)
        return rc;
    struct slot *slot = &s->slots[k];
    uint8_t *at = s->input + PAGE + k * s->layout.input_slot_bytes;
    d.token =
        (struct stage_token){epoch, incarnation, ++s->sequence, k, slot->token.generation + 1};
    copy_arrays(s, at, fill);
    memcpy(at, &d, sizeof d);
    __atomic_store_n(
        &((struct input_descriptor *)at)->sequence, d.token.sequence, __ATOMIC_RELEASE);
    slot->taken = 1;
    slot->n_values = d.n_values;
    *token = slot->token = d.token;
    return 1;
}

/* Returns the slot that this token holds now, or NULL. */
static struct slot *find_slot(struct stage *s, const struct stage_token *token)
{
    if (token->slot >= s->config.n_slots)
        return NULL;
    struct slot *slot = &s->slots[token->slot];
    return slot->taken && stage_token_equal(&slot->token, token) ? slot : NULL;
}

int stage_collect(struct stage *s, const struct stage_token *token, float **values,
    uint32_t *n_values, struct err *e)
{
    const struct slot *slot = find_slot(s, token);
    struct output_descriptor d;
    if (!slot)
        return err_set(
            e, ASSAY_EFORMAT, "result for slot %u, which that token does not hold", token->slot);
    const uint8_t *at = s->output + OUTPUT_SLOTS_AT + token->slot * s->layout.output_slot_bytes;
    uint64_t sequence =
        __atomic_load_n(&((const struct output_descriptor *)at)->sequence, __ATOMIC_ACQUIRE);
    memcpy(&d, at, sizeof d);
    if (sequence != token->sequence || !stage_token_equal(&d.token, token))
        return err_set(
            e, ASSAY_EFORMAT, "output slot %u holds a result of another hand-over", token->slot);
    if (d.n_values != slot->n_values)
        return err_set(e, ASSAY_EFORMAT, "output slot %u: expected %u values, found %u",
            token->slot, slot->n_values, d.n_values);
    size_t bytes = (size_t)d.n_values * sizeof **values;
    if (!(*values = malloc(bytes + 1)))
        return err_set(e, ASSAY_ENOMEM, "no memory for %u values", d.n_values);
    memcpy(*values, at + s->layout.values_at, bytes);
    *n_values = d.n_values;
    return 0;
}

void stage_release(struct stage *s, const struct stage_token *token)
{
    struct slot *slot = find_slot(s, token);
    if (slot)
        slot->taken = 0;
}

void stage_revoke_all(struct stage *s)
{
    for (uint32_t k = 0; k < s->config.n_slots; k++) {
        s->slots[k].taken = 0;
        s->slots[k].token.generation++;
    }
}

uint32_t stage_free_slots(const struct stage *s)
{
    uint32_t n = 0;
    for (uint32_t k = 0; k < s->config.n_slots; k++)
        n += !s->slots[k].taken;
    return n;
}

uint64_t stage_progress(const struct stage *s, uint32_t rank)
{
    return __atomic_load_n(
        (const uint64_t *)(s->output + PROGRESS_AT + 64 * rank), __ATOMIC_RELAXED);
}

/* ---- rank side ---- */

struct stage_view {
    struct stage_config config;
    struct layout layout;
    const uint8_t *input;
    uint8_t *output;
    uint64_t *progress;
    struct stage_row *rows; /* private copies */
    int32_t *ids, *positions;
    uint32_t *cu_seqlens;
};

/* Maps a segment and checks its head. The first segment fills *config, the second must equal it. */
static void *attach_segment(
    int fd, int protection, struct stage_config *config, int is_output, struct err *e)
{
    struct stat st;
    struct segment_head head;
    if (fstat(fd, &st) != 0)
        return err_errno(e, ASSAY_EIO, "staging segment: descriptor %d", fd), NULL;
    if (st.st_size < (off_t)OUTPUT_SLOTS_AT)
        return err_set(e, ASSAY_EFORMAT, "staging segment: expected at least %u bytes, found %lld",
                   OUTPUT_SLOTS_AT, (long long)st.st_size),
               NULL;
    uint8_t *at = mmap(NULL, (size_t)st.st_size, protection, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return err_errno(e, ASSAY_EIO, "staging segment: cannot map"), NULL;
    memcpy(&head, at, sizeof head);
    struct layout l = make_layout(&head.config);
    if (head.magic != MAGIC || head.version != FORMAT_VERSION || !config_is_sane(&head.config) ||
        (uint64_t)st.st_size != (is_output ? l.output_bytes : l.input_bytes) ||
        (is_output && memcmp(&head.config, config, sizeof *config) != 0)) {
        err_set(e, ASSAY_EFORMAT, "staging segment: bad head (version %u, %u slots, %lld bytes)",
            head.version, head.config.n_slots, (long long)st.st_size);
        munmap(at, (size_t)st.st_size);
        return NULL;
    }
    *config = head.config;
    return at;
}

static int allocate_copies(struct stage_view *v, struct err *e)
{
    v->rows = malloc((size_t)v->config.max_rows * sizeof *v->rows);
    v->ids = malloc((size_t)v->config.max_tokens * sizeof *v->ids);
    v->positions = malloc(
        (size_t)(v->config.max_positions ? v->config.max_positions : 1) * sizeof *v->positions);
    v->cu_seqlens = malloc(((size_t)v->config.max_rows + 1) * sizeof *v->cu_seqlens);
    if (v->rows && v->ids && v->positions && v->cu_seqlens)
        return 0;
    return err_set(e, ASSAY_ENOMEM, "staging: no memory for %u rows and %u tokens",
        v->config.max_rows, v->config.max_tokens);
}

int stage_attach(struct stage_view **out, int input_fd, int output_fd, uint32_t rank, struct err *e)
{
    struct stage_view *v = xcalloc(1, sizeof *v);
    int rc = rank < STAGE_MAX_RANKS
                 ? 0
                 : err_set(e, ASSAY_EFORMAT, "rank %u: expected below %d", rank, STAGE_MAX_RANKS);
    if (rc == 0 && !(v->input = attach_segment(input_fd, PROT_READ, &v->config, 0, e)))
        rc = ASSAY_EFORMAT;
    if (rc == 0 &&
        !(v->output = attach_segment(output_fd, PROT_READ | PROT_WRITE, &v->config, 1, e)))
        rc = ASSAY_EFORMAT;
    v->layout = make_layout(&v->config);
    if (rc == 0)
        rc = allocate_copies(v, e);
    if (rc == 0)
        v->progress = (uint64_t *)(v->output + PROGRESS_AT + 64 * rank);
    *out = v;
    if (rc != 0)
        stage_detach(out);
    return rc;
}

void stage_detach(struct stage_view **out)
{
    struct stage_view *v = *out;
    if (!v)
        return;
    if (v->input)
        munmap((void *)v->input, v->layout.input_bytes);
    if (v->output)
        munmap(v->output, v->layout.output_bytes);
    free(v->rows);
    free(v->ids);
    free(v->positions);
    free(v->cu_seqlens);
    free(v);
    *out = NULL;
}

static int off(struct err *e, const char *what, uint64_t expected, uint64_t found)
{
    return err_set(e, ASSAY_EFORMAT, "staged batch: %s: expected %llu, found %llu", what,
        (unsigned long long)expected, (unsigned long long)found);
}

/* Checks how many explicit positions a row has for its pool type (stage.h, struct stage_row). */
static int positions_fit(const struct stage_row *row)
{
    if (row->pool.type == POOL_POSITIONS)
        return row->n_positions > 0;
    return row->n_positions <= (row->pool.type == POOL_LAST);
}

/* Checks that the tokens a row leaves out begin its owner, and are as many as for the owner's other
 * rows. before: the row before it, NULL for the first. */
static int check_shared(const struct stage_row *row, const struct stage_row *before,
    const struct stage_row *owner, struct err *e)
{
    if (row->n_shared == 0)
        return 0;
    if (!owner || row->n_shared > owner->n_tokens)
        return off(e, "shared tokens, at most", owner ? owner->n_tokens : 0, row->n_shared);
    if (row->adapter != owner->adapter)
        return off(e, "adapter of a row that shares, as its owner's", owner->adapter, row->adapter);
    if (row->n_shared >= row->n_tokens)
        return off(e, "shared tokens of a row, at most", row->n_tokens - 1, row->n_shared);
    if (before != owner && row->n_shared != before->n_shared)
        return off(e, "shared tokens, as of the row before", before->n_shared, row->n_shared);
    return 0;
}

static int check_row(const struct stage_row *row, struct err *e)
{
    if (row->n_tokens == 0)
        return off(e, "tokens of a row", 1, 0);
    if (row->pool.type < POOL_LAST || row->pool.type > POOL_POSITIONS)
        return off(e, "pool type", POOL_LAST, (uint32_t)row->pool.type);
    if (row->pool.activation < ACTIVATION_NONE || row->pool.activation > ACTIVATION_CLASS1)
        return off(e, "activation", ACTIVATION_NONE, (uint32_t)row->pool.activation);
    if (!positions_fit(row))
        return off(e, "positions of a row", row->pool.type == POOL_POSITIONS, row->n_positions);
    return 0;
}

/* Checks the copied rows against the copied descriptor; fills cu_seqlens. */
static int check_rows(struct stage_view *v, const struct input_descriptor *d, struct err *e)
{
    uint64_t tokens = 0, positions = 0, values = 0;
    const struct stage_row *owner = NULL;
    v->cu_seqlens[0] = 0;
    for (uint32_t i = 0; i < d->n_rows; i++) {
        const struct stage_row *row = &v->rows[i];
        int rc = check_row(row, e);
        if (rc == 0)
            rc = check_shared(row, i > 0 ? row - 1 : NULL, owner, e);
        if (rc != 0)
            return rc;
        if (row->n_shared == 0)
            owner = row;
        tokens += row->n_tokens - row->n_shared;
        values += row->n_values;
        for (uint32_t k = 0; k < row->n_positions; k++, positions++) {
            if (positions >= d->n_positions)
                return off(e, "sum of the rows' positions", d->n_positions, positions + 1);
            if ((uint32_t)v->positions[positions] >= row->n_tokens)
                return err_set(e, ASSAY_EFORMAT,
                    "staged batch: position in a row of %u tokens: found %d", row->n_tokens,
                    v->positions[positions]);
        }
        v->cu_seqlens[i + 1] = (uint32_t)tokens;
    }
    if (tokens != d->n_tokens)
        return off(e, "sum of the rows' tokens", d->n_tokens, tokens);
    if (positions != d->n_positions)
        return off(e, "sum of the rows' positions", d->n_positions, positions);
    return values == d->n_values ? 0 : off(e, "sum of the rows' values", d->n_values, values);
}

static int check_counts(
    const struct input_descriptor *d, const struct stage_config *c, struct err *e)
{
    if (d->n_rows == 0 || d->n_rows > c->max_rows)
        return off(e, "rows, at most", c->max_rows, d->n_rows);
    if (d->n_tokens > c->max_tokens)
        return off(e, "tokens, at most", c->max_tokens, d->n_tokens);
    if (d->n_positions > c->max_positions)
        return off(e, "positions, at most", c->max_positions, d->n_positions);
    if (d->n_values > c->max_values)
        return off(e, "values, at most", c->max_values, d->n_values);
    return 0;
}

int stage_read(
    struct stage_view *v, const struct stage_token *token, struct stage_batch *batch, struct err *e)
{
    struct input_descriptor d;
    if (token->slot >= v->config.n_slots)
        return off(e, "slot, at most", v->config.n_slots - 1, token->slot);
    const uint8_t *at = v->input + PAGE + token->slot * v->layout.input_slot_bytes;
    uint64_t sequence =
        __atomic_load_n(&((const struct input_descriptor *)at)->sequence, __ATOMIC_ACQUIRE);
    memcpy(&d, at, sizeof d);
    if (sequence != token->sequence || !stage_token_equal(&d.token, token))
        return off(e, "hand-over", token->sequence, d.token.sequence);
    int rc = check_counts(&d, &v->config, e);
    if (rc != 0)
        return rc;
    memcpy(v->rows, at + v->layout.rows_at, d.n_rows * sizeof *v->rows);
    memcpy(v->ids, at + v->layout.ids_at, (size_t)d.n_tokens * sizeof *v->ids);
    memcpy(v->positions, at + v->layout.positions_at, (size_t)d.n_positions * sizeof *v->positions);
    rc = check_rows(v, &d, e);
    *batch = (struct stage_batch){*token, d.n_rows, d.n_tokens, d.n_positions, d.n_values, v->rows,
        v->ids, (const int32_t *)(const void *)(at + v->layout.ids_at), v->positions,
        v->cu_seqlens};
    return rc;
}

int stage_write(struct stage_view *v, const struct stage_token *token, const float *values,
    uint32_t n_values, struct err *e)
{
    if (token->slot >= v->config.n_slots)
        return off(e, "slot, at most", v->config.n_slots - 1, token->slot);
    if (n_values > v->config.max_values)
        return off(e, "values of a result, at most", v->config.max_values, n_values);
    uint8_t *at = v->output + OUTPUT_SLOTS_AT + token->slot * v->layout.output_slot_bytes;
    struct output_descriptor d = {.token = *token, .n_values = n_values};
    memcpy(at + v->layout.values_at, values, (size_t)n_values * sizeof *values);
    memcpy(at, &d, sizeof d);
    __atomic_store_n(
        &((struct output_descriptor *)at)->sequence, token->sequence, __ATOMIC_RELEASE);
    return 0;
}

void stage_bump(struct stage_view *v)
{
    __atomic_fetch_add(v->progress, 1, __ATOMIC_RELAXED);
}

const struct stage_config *stage_view_config(const struct stage_view *v)
{
    return &v->config;
}

const void *stage_view_input(const struct stage_view *v, uint64_t *bytes)
{
    *bytes = v->layout.input_bytes;
    return v->input;
}
