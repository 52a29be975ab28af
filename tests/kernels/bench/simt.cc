/* simt.cc - the bench's fibers (simt.h): one block at a time, each of its threads a fiber with a
 * stack of its own, and a scheduler that goes on with any fiber that does not wait.
 *
 * A fiber waits in two places. At a meeting of its warp: lanes leave deposits, the last one wakes
 * the rest. Deposits are kept twice, by turns: a lane can be one meeting ahead of another but not
 * two, so what a late lane still reads is not overwritten. And at the block's barrier. When no
 * fiber can run and not all have ended, the threads have diverged. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <utility>
#include <vector>

#include "cuda/simt.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define FIBER_ASAN 1
#else
#define FIBER_ASAN 0
#endif
#if !defined(__x86_64__)
#error "the fibers' switch is written for x86-64"
#endif

namespace
{

const size_t STACK_BYTES = 64 * 1024;
const uint32_t MAX_THREADS = 1024;
const size_t MAX_SHARED = 163 * 1024; /* what a block can have on sm_80; sm_90 has 227 KiB */

enum state { READY, AT_MEETING, AT_BARRIER, ENDED };

struct copy {
    void *to;
    const void *from;
    bool valid;
};

struct fiber {
    simt_self self;
    state where;
    simt_meeting meeting;
    uint32_t meetings; /* met so far */
    void *sp, *stack, *asan_stack;
    std::vector<std::vector<copy>> groups; /* of cp.async; the last is not committed */
};

struct warp {
    uint32_t arrived;
    simt_deposit deposits[2][WARP_LANES];
};

struct bench {
    uint64_t seed, random;
    const char *kernel;
    const std::function<void()> *body;
    uint32_t n_threads, at_barrier;
    std::vector<fiber> fibers;
    std::vector<warp> warps;
    std::vector<uint32_t> ready;
    fiber *running;
    void *scheduler_sp, *scheduler_asan;
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
    unsigned char *shared;
    size_t shared_bytes;
};
bench b;

uint32_t draw(uint32_t below)
{
    b.random ^= b.random << 13;
    b.random ^= b.random >> 7;
    b.random ^= b.random << 17;
    return static_cast<uint32_t>((b.random >> 20) % below);
}

/* ---- switching ---- */

extern "C" void simt_switch(void **save_sp, void *load_sp);
asm(".text\n"
    ".globl simt_switch\n"
    ".type simt_switch, @function\n"
    "simt_switch:\n"
    "    pushq %rbp\n    pushq %rbx\n    pushq %r12\n    pushq %r13\n    pushq %r14\n    pushq "
    "%r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n    popq %r14\n    popq %r13\n    popq %r12\n    popq %rbx\n    popq %rbp\n"
    "    ret\n"
    ".size simt_switch, .-simt_switch\n");

void to_scheduler(fiber *f)
{
#if FIBER_ASAN
    __sanitizer_start_switch_fiber(
        f->where == ENDED ? nullptr : &f->asan_stack, b.scheduler_stack, b.scheduler_stack_bytes);
#endif
    simt_switch(&f->sp, b.scheduler_sp);
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(f->asan_stack, &b.scheduler_stack, &b.scheduler_stack_bytes);
#endif
}

void to_fiber(fiber *f)
{
    b.running = f;
#if FIBER_ASAN
    __sanitizer_start_switch_fiber(&b.scheduler_asan, f->stack, STACK_BYTES);
#endif
    simt_switch(&b.scheduler_sp, f->sp);
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(b.scheduler_asan, nullptr, nullptr);
#endif
    b.running = nullptr;
}

void fiber_main()
{
    fiber *f = b.running;
#if FIBER_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &b.scheduler_stack, &b.scheduler_stack_bytes);
#endif
    (*b.body)();
    for (const std::vector<copy> &group : f->groups)
        if (!group.empty())
            simt_fault("ended with a cp.async that it never waited for");
    f->where = ENDED;
    to_scheduler(f);
    abort();
}

/* A stack on which a switch returns into fiber_main. */
void prepare(fiber *f)
{
    if (!f->stack)
        f->stack =
            mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    void **top = reinterpret_cast<void **>(static_cast<char *>(f->stack) + STACK_BYTES) - 3;
    top[0] = nullptr; /* fiber_main's return address; keeps the stack aligned as after a call */
    *--top = reinterpret_cast<void *>(fiber_main);
    for (int i = 0; i < 6; i++)
        *--top = nullptr;
    f->sp = top;
    f->where = READY;
    f->meetings = 0;
    f->asan_stack = nullptr;
    f->groups.assign(1, {});
}

/* ---- faults ---- */

const char *place_of(const fiber &f)
{
    static const char *const meetings[] = {"__syncwarp", "a shuffle", "a vote", "ldmatrix", "mma"};
    switch (f.where) {
    case AT_MEETING:
        return meetings[f.meeting];
    case AT_BARRIER:
        return "__syncthreads";
    case ENDED:
        return "its end";
    default:
        return "no wait";
    }
}

void print_threads()
{
    uint32_t i = 0;
    while (i < b.n_threads) {
        uint32_t first = i;
        const char *where = place_of(b.fibers[i]);
        while (i < b.n_threads && place_of(b.fibers[i]) == where)
            i++;
        fprintf(stderr, "  threads %u to %u: at %s\n", first, i - 1, where);
    }
}

[[noreturn]] void fault(const simt_self &self, const char *what)
{
    fprintf(stderr, "kernel %s, block (%u, %u, %u), thread %u: %s\n", b.kernel, self.block.x,
        self.block.y, self.block.z, self.thread.x, what);
    print_threads();
    abort();
}

/* ---- blocks ---- */

void wake(uint32_t from, uint32_t n)
{
    for (uint32_t i = from; i < from + n; i++) {
        b.fibers[i].where = READY;
        b.ready.push_back(i);
    }
}

void schedule()
{
    while (!b.ready.empty()) {
        uint32_t i = b.seed ? draw(static_cast<uint32_t>(b.ready.size())) : 0;
        uint32_t next = b.ready[i];
        if (b.seed) {
            b.ready[i] = b.ready.back();
            b.ready.pop_back();
        } else {
            b.ready.erase(b.ready.begin());
        }
        to_fiber(&b.fibers[next]);
    }
    for (const fiber &f : b.fibers)
        if (&f < &b.fibers[b.n_threads] && f.where != ENDED)
            fault(f.self, "waits for threads that do not come");
}

void take_shared(size_t bytes)
{
    b.shared_bytes = bytes;
    void *memory = nullptr;
    if (posix_memalign(&memory, 128, bytes) != 0)
        abort();
    b.shared = static_cast<unsigned char *>(memory);
    memset(b.shared, 0xff, bytes);
}

void run_block(dim3 grid, dim3 block, simt_index index, size_t shared_bytes)
{
    take_shared(shared_bytes);
    b.at_barrier = 0;
    b.warps.assign((b.n_threads + WARP_LANES - 1) / WARP_LANES, {});
    b.ready.clear();
    for (uint32_t i = 0; i < b.n_threads; i++) {
        fiber *f = &b.fibers[i];
        prepare(f);
        f->self = {{i % block.x, i / block.x % block.y, i / block.x / block.y}, index, block, grid,
            i % WARP_LANES};
    }
    wake(0, b.n_threads);
    schedule();
    free(b.shared);
    b.shared = nullptr;
}

/* ---- tensor cores ---- */

uint16_t element(const void *row, uint32_t column)
{
    uint16_t x;
    memcpy(&x, static_cast<const char *>(row) + 2 * column, sizeof x);
    return x;
}

/* Lane l of the warp gets, of each matrix, elements (l / 4, 2 (l % 4)) and the one after; of the
 * transposed matrix likewise. Deposits become results. */
void load_matrices(simt_deposit *all, bool transposed)
{
    const void *rows[WARP_LANES];
    for (uint32_t lane = 0; lane < WARP_LANES; lane++)
        rows[lane] = simt_value_of<const void *>(all[lane]);
    for (uint32_t lane = 0; lane < WARP_LANES; lane++) {
        uint32_t r[4], i = lane / 4, j = lane % 4 * 2;
        for (uint32_t m = 0; m < 4; m++) {
            uint32_t low = transposed ? element(rows[m * 8 + j], i) : element(rows[m * 8 + i], j);
            uint32_t high =
                transposed ? element(rows[m * 8 + j + 1], i) : element(rows[m * 8 + i], j + 1);
            r[m] = low | high << 16;
        }
        memcpy(all[lane].bytes, r, sizeof r);
    }
}

void load_plain(simt_deposit *all)
{
    load_matrices(all, false);
}

void load_transposed(simt_deposit *all)
{
    load_matrices(all, true);
}

void check_shared(const void *p)
{
    const unsigned char *at = static_cast<const unsigned char *>(p);
    simt_check_aligned(p);
    if (at < b.shared || at + 16 > b.shared + b.shared_bytes)
        simt_fault("an address outside the block's shared memory");
}

void ldmatrix(uint32_t r[4], const void *row, void (*all)(simt_deposit *))
{
    check_shared(row);
    const simt_deposit *d = simt_meet(SIMT_LDMATRIX, &row, sizeof row, all);
    memcpy(r, d[simt_me().lane].bytes, 4 * sizeof *r);
}

/* Fragments of m16n8k16, g = lane / 4, t = lane % 4. a: registers 0 to 3 hold rows g, g + 8, g,
 * g + 8 and columns 2t, 2t + 1, the last two 8 further right. b: registers 0, 1 hold rows 2t,
 * 2t + 1, and 8 further down, of column g. d: rows g, g, g + 8, g + 8, columns 2t, 2t + 1, .. */
struct fragments {
    uint32_t ab[6];
    float d[4];
};
static_assert(sizeof(fragments) <= sizeof(simt_deposit), "fits");

/* d += a b for the whole warp, deposits become results. Products are added one by one in order of
 * k, each sum rounded: a tensor core rounds otherwise. */
template <typename Widen> void multiply_fragments(simt_deposit *all, Widen widen)
{
    float a[16][16], b_matrix[16][8], d[16][8];
    fragments f[WARP_LANES];
    for (uint32_t lane = 0; lane < WARP_LANES; lane++) {
        uint32_t g = lane / 4, t = lane % 4;
        f[lane] = simt_value_of<fragments>(all[lane]);
        for (uint32_t i = 0; i < 8; i++)
            a[g + i / 2 % 2 * 8][2 * t + i % 2 + i / 4 * 8] =
                widen(f[lane].ab[i / 2] >> i % 2 * 16 & 0xffff);
        for (uint32_t i = 0; i < 4; i++) {
            b_matrix[2 * t + i % 2 + i / 2 * 8][g] =
                widen(f[lane].ab[4 + i / 2] >> i % 2 * 16 & 0xffff);
            d[g + i / 2 * 8][2 * t + i % 2] = f[lane].d[i];
        }
    }
    for (uint32_t row = 0; row < 16; row++)
        for (uint32_t k = 0; k < 16; k++)
            for (uint32_t column = 0; column < 8; column++)
                d[row][column] += a[row][k] * b_matrix[k][column];
    for (uint32_t lane = 0; lane < WARP_LANES; lane++) {
        for (uint32_t i = 0; i < 4; i++)
            f[lane].d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
        memcpy(all[lane].bytes, &f[lane], sizeof f[lane]);
    }
}

void make_copy(const copy &c)
{
    if (c.valid)
        memcpy(c.to, c.from, 16);
    else
        memset(c.to, 0, 16);
}

} // namespace

const simt_self &simt_me()
{
    return b.running->self;
}

void *simt_shared()
{
    return b.shared;
}

void simt_fault(const char *what)
{
    fault(b.running->self, what);
}

void simt_set_seed(uint64_t seed)
{
    b.seed = seed;
    b.random = seed * 0x9e3779b97f4a7c15u + 0x1234567;
}

const simt_deposit *simt_meet(
    simt_meeting kind, const void *value, size_t bytes, void (*all)(simt_deposit *))
{
    fiber *f = b.running;
    uint32_t index = static_cast<uint32_t>(f - &b.fibers[0]),
             first = index / WARP_LANES * WARP_LANES;
    warp *w = &b.warps[index / WARP_LANES];
    simt_deposit *deposits = w->deposits[f->meetings++ % 2];
    if (bytes > 0)
        memcpy(deposits[f->self.lane].bytes, value, bytes);
    f->where = AT_MEETING;
    f->meeting = kind;
    if (first + WARP_LANES > b.n_threads)
        simt_fault("the whole warp must take part, and this block's last warp is not whole");
    for (uint32_t i = first; i < first + WARP_LANES; i++)
        if (b.fibers[i].where == AT_MEETING && b.fibers[i].meeting != kind)
            simt_fault("the warp's lanes meet at different places");
    if (++w->arrived < WARP_LANES) {
        to_scheduler(f);
        return deposits;
    }
    w->arrived = 0;
    if (all)
        all(deposits);
    wake(first, WARP_LANES);
    to_scheduler(f);
    return deposits;
}

void simt_barrier()
{
    fiber *f = b.running;
    f->where = AT_BARRIER;
    if (++b.at_barrier == b.n_threads) {
        b.at_barrier = 0;
        wake(0, b.n_threads);
    }
    to_scheduler(f);
}

void cp_async_16(void *shared, const void *global, bool valid)
{
    check_shared(shared);
    if (valid)
        simt_check_aligned(global);
    copy c = {shared, global, valid};
    if (b.seed && draw(4) == 0)
        make_copy(c); /* at once; else when it is waited for */
    else
        b.running->groups.back().push_back(c);
}

void cp_async_commit()
{
    b.running->groups.push_back({});
}

/* Groups in order of age; the last of the list is the one being filled. */
void simt_cp_async_wait(unsigned newest)
{
    std::vector<std::vector<copy>> &groups = b.running->groups;
    while (groups.size() > newest + 1) {
        for (const copy &c : groups.front())
            make_copy(c);
        groups.erase(groups.begin());
    }
}

void ldmatrix_x4(uint32_t r[4], const void *row)
{
    ldmatrix(r, row, load_plain);
}

void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
    ldmatrix(r, row, load_transposed);
}

void simt_mma_16816(
    float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, void (*all)(simt_deposit *))
{
    fragments mine = {{a[0], a[1], a[2], a[3], b0, b1}, {d[0], d[1], d[2], d[3]}};
    const simt_deposit *results = simt_meet(SIMT_MMA, &mine, sizeof mine, all);
    fragments got = simt_value_of<fragments>(results[simt_me().lane]);
    memcpy(d, got.d, sizeof got.d);
}

void simt_mma_bf16(simt_deposit *all)
{
    multiply_fragments(all, [](uint32_t bits) { return float_from_bits(bits << 16); });
}

void simt_mma_f16(simt_deposit *all)
{
    multiply_fragments(
        all, [](uint32_t bits) { return to_float(f16_t{static_cast<uint16_t>(bits)}); });
}

cudaError_t simt_check_launch(dim3 grid, dim3 block, size_t shared_bytes)
{
    uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    bool grid_fits = grid.x > 0 && grid.x <= 0x7fffffff && grid.y > 0 && grid.y <= 65535 &&
                     grid.z > 0 && grid.z <= 65535;
    bool fits = threads > 0 && threads <= MAX_THREADS && block.z <= 64 && grid_fits &&
                shared_bytes <= MAX_SHARED;
    return fits ? cudaSuccess : cudaErrorInvalidConfiguration;
}

void simt_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
    const std::function<void()> &thread)
{
    b.kernel = kernel;
    b.body = &thread;
    b.n_threads = block.x * block.y * block.z;
    if (b.fibers.size() < MAX_THREADS)
        b.fibers.resize(MAX_THREADS);
    std::vector<uint32_t> order(grid.x * grid.y * grid.z);
    for (uint32_t i = 0; i < order.size(); i++) {
        order[i] = i;
        if (b.seed)
            std::swap(order[i], order[draw(i + 1)]);
    }
    for (uint32_t i : order)
        run_block(
            grid, block, {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y}, shared_bytes);
}
