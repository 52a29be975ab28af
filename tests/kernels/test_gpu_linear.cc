/* test_gpu_linear.cc - the large products on the GPU's table of operations: matrices brought to the
 * device (prepare_weights.c), in their own type or quantized there, times inputs of several types,
 * with and without bias, against double precision from the very numbers that the device multiplied.
 * CUDA's libraries are checking doubles, or with make gpu-check the real ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>
extern "C" {
#include <cmocka.h>
}

#include "cuda/gpu.h"
#include "tests/kernels/doubles/controls.h"
#include "tests/kernels/tensors.h"

extern "C" {
#include "schema/log.h"
}

namespace
{

struct setup {
    enum dtype stored, held,
        activation;      /* matrix in the file, on the device; what goes in and out */
    int64_t in, rows[3]; /* of up to three parts, 0: fewer */
    bool bias;
};

/* A copy of device memory. */
struct fetched {
    uint8_t *data;

    fetched(struct device *d, const void *from, size_t bytes)
    {
        assert_int_equal(cudaHostAlloc(reinterpret_cast<void **>(&data), bytes, 0), cudaSuccess);
        assert_int_equal(
            cudaMemcpyAsync(data, from, bytes, cudaMemcpyDeviceToHost, d->compute), cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(d->compute), cudaSuccess);
    }
    fetched(const fetched &) = delete;
    fetched &operator=(const fetched &) = delete;
    ~fetched()
    {
        cudaFreeHost(data);
    }
};

struct model {
    struct device *d;
    std::vector<owned_tensor *> files;
    struct weight parts[3];
    int n_parts;
    int64_t out;
    std::vector<double> bias, held; /* [out], [out][in]: the matrix as the device has it */
    void *device_bias;
    int64_t in;

    model(const setup &s, random_numbers &r, int64_t tokens)
        : d(nullptr), n_parts(0), out(0), in(s.in)
    {
        struct device_options o = {};
        struct err e = {};
        for (; n_parts < 3 && s.rows[n_parts] > 0; n_parts++)
            add_part(s, r);
        o.arena_bytes = 1 << 20;
        o.input_bytes = 1 << 16;
        o.output_bytes = 1 << 20;
        o.quant = dtype_bytes(s.held) == 1 ? s.held : DTYPE_F32;
        o.quant_rows = tokens;
        o.quant_in = s.in;
        o.quant_out = out;
        assert_int_equal(gpu_ops.device->open(&d, &o, &e), 0);
        struct weight_stack stack = {parts, n_parts, s.held};
        assert_int_equal(gpu_ops.device->prepare_weights(d, &stack, 1, &e), 0);
        for (int p = 0; p < n_parts; p++)
            fetch_part(parts[p]);
        device_bias = s.bias ? add_bias(s, r) : nullptr;
    }
    ~model()
    {
        for (owned_tensor *t : files)
            delete t;
        gpu_ops.device->close(&d);
    }
    void add_part(const setup &s, random_numbers &r)
    {
        auto *t = new owned_tensor(s.stored, s.rows[n_parts], s.in, 3);
        t->fill(r, n_parts + 1);
        t->set(0, 1, 7); /* rows have scales of their own */
        files.push_back(t);
        parts[n_parts] = {
            t->t.data, s.stored, t->t.rows, s.in, t->t.stride, nullptr, DTYPE_F32, nullptr};
        out += t->t.rows;
    }
    void *add_bias(const setup &s, random_numbers &r)
    {
        owned_tensor host(s.activation, 1, out);
        host.fill(r, 4);
        for (int64_t j = 0; j < out; j++)
            bias.push_back(host.at(0, j));
        size_t bytes = static_cast<size_t>(out * dtype_bytes(s.activation));
        void *at = gpu_ops.device->alloc(d, bytes);
        gpu_ops.device->upload(d, at, host.t.data, bytes);
        return at;
    }
    void fetch_part(const struct weight &w)
    {
        size_t elements = static_cast<size_t>((w.rows - 1) * w.stride + w.cols);
        fetched matrix(d, w.data, elements * static_cast<size_t>(dtype_bytes(w.dtype)));
        std::vector<float> scale(static_cast<size_t>(w.rows), 1);
        if (w.scale)
            memcpy(scale.data(), fetched(d, w.scale, scale.size() * sizeof(float)).data,
                scale.size() * sizeof(float));
        for (int64_t j = 0; j < w.rows; j++)
            for (int64_t k = 0; k < w.cols; k++)
                held.push_back(element_at(matrix.data, w.dtype, j * w.stride + k) *
                               static_cast<double>(scale[static_cast<size_t>(j)]));
    }
    double weight(int64_t j, int64_t k) const
    {
        return held[static_cast<size_t>(j * in + k)];
    }
};

double scale_of(double largest, enum dtype t)
{
    return largest > 0 ? largest / (t == DTYPE_F8 ? 448 : 127) : 1;
}

/* The prepared matrix is the file's, within half a step of its type. */
void check_prepared(const model &m, const setup &s)
{
    int64_t j = 0;
    for (size_t p = 0; p < m.files.size(); p++)
        for (int64_t i = 0; i < m.files[p]->t.rows; i++, j++) {
            double largest = 0;
            for (int64_t k = 0; k < s.in; k++)
                largest = fmax(largest, fabs(m.files[p]->at(i, k)));
            for (int64_t k = 0; k < s.in; k++) {
                double x = m.files[p]->at(i, k), step = fabs(x) * unit_of(s.held);
                if (s.held == DTYPE_I8)
                    step = scale_of(largest, s.held) * 0.501;
                if (s.held == DTYPE_F8)
                    step = fmax(fabs(x) / 16, scale_of(largest, s.held) / 512) * 1.01;
                if (!(fabs(m.weight(j, k) - x) <= step))
                    fail_msg("row %d column %d: %g became %g", static_cast<int>(j),
                        static_cast<int>(k), x, m.weight(j, k));
            }
        }
}

struct device_tensor {
    struct tensor t;

    device_tensor(model &m, enum dtype type, int64_t rows, int64_t cols)
    {
        t = tensor_shaped(nullptr, type, rows, cols);
        t.data =
            gpu_ops.device->alloc(m.d, tensor_bytes(tensor_rows(t, 0, round_up(rows, QUANT_ROWS))));
        assert_non_null(t.data);
        if (dtype_bytes(type) == 1)
            t.scale = static_cast<float *>(
                gpu_ops.device->alloc(m.d, static_cast<size_t>(rows) * sizeof(float)));
    }
};

/* What a row of x is once it is quantized as the matrix is. */
std::vector<double> quantized_row(const owned_tensor &x, int64_t row, enum dtype t)
{
    std::vector<double> v(static_cast<size_t>(x.t.cols));
    double largest = 0;
    for (int64_t k = 0; k < x.t.cols; k++)
        largest = fmax(largest, fabs(x.at(row, k)));
    float scale = static_cast<float>(largest) / (t == DTYPE_F8 ? 448.0f : 127.0f);
    owned_tensor one(t, 1, x.t.cols);
    for (int64_t k = 0; k < x.t.cols; k++) {
        one.set(0, k, static_cast<double>(static_cast<float>(x.at(row, k)) / scale));
        v[static_cast<size_t>(k)] = one.at(0, k) * static_cast<double>(scale);
    }
    return v;
}

void check_product(model &m, const setup &s, int64_t tokens, random_numbers &r)
{
    owned_tensor host(s.activation, tokens, s.in, (16 - s.in % 16) % 16);
    device_tensor x(m, s.activation, tokens, s.in), out(m, s.activation, tokens, m.out);
    host.fill(r, 2);
    gpu_ops.device->upload(m.d, x.t.data, host.t.data,
        static_cast<size_t>(((tokens - 1) * x.t.stride + s.in) * dtype_bytes(s.activation)));
    gpu_ops.device->begin(m.d);
    gpu_ops.linear(m.d, out.t, x.t, m.parts, m.n_parts, m.device_bias);
    float unused;
    void *last = gpu_ops.device->alloc(m.d, sizeof unused);
    gpu_ops.device->finish(m.d, &unused, last, sizeof unused);
    assert_int_equal(gpu_ops.device->poll(m.d, 1), 1);
    fetched result(m.d, out.t.data,
        static_cast<size_t>(((tokens - 1) * out.t.stride + m.out) * dtype_bytes(s.activation)));
    for (int64_t i = 0; i < tokens; i++) {
        std::vector<double> row(static_cast<size_t>(s.in));
        for (int64_t k = 0; k < s.in; k++)
            row[static_cast<size_t>(k)] = host.at(i, k);
        if (dtype_bytes(s.held) == 1)
            row = quantized_row(host, i, s.held);
        for (int64_t j = 0; j < m.out; j++) {
            double sum = s.bias ? m.bias[static_cast<size_t>(j)] : 0, size = fabs(sum);
            for (int64_t k = 0; k < s.in; k++) {
                double p = row[static_cast<size_t>(k)] * m.weight(j, k);
                sum += p;
                size += fabs(p);
            }
            double found = element_at(result.data, s.activation, i * out.t.stride + j);
            double size_before = fabs(sum - (s.bias ? m.bias[static_cast<size_t>(j)] : 0));
            double rounded = fabs(sum) * unit_of(s.activation);
            if (s.bias && s.held == DTYPE_F8) /* the bias is added to the rounded sum */
                rounded += size_before * unit_of(s.activation);
            if (!(fabs(found - sum) <= rounded + size * 1e-5))
                fail_msg("%d tokens, row %d column %d: expected %.9g, found %.9g",
                    static_cast<int>(tokens), static_cast<int>(i), static_cast<int>(j), sum, found);
        }
    }
}

void check_setup(const setup &s)
{
    random_numbers r = {static_cast<uint64_t>(s.in) * 31 + static_cast<uint64_t>(s.held)};
    model m(s, r, 40);
    check_prepared(m, s);
    for (int64_t tokens : {1, 2, 37})
        check_product(m, s, tokens, r);
}

void test_float_matrices(void **)
{
    for (bool bias : {false, true})
        for (enum dtype t : {DTYPE_F32, DTYPE_F16, DTYPE_BF16}) {
            check_setup({t, t, t, 64, {48, 16, 16}, bias});
            check_setup({t, t, t, 33, {7, 0, 0}, bias});
            check_setup({DTYPE_BF16, DTYPE_F32, DTYPE_F32, 40, {5, 3, 0}, bias});
        }
}

void test_quantized_matrices(void **)
{
    for (bool bias : {false, true})
        for (enum dtype held : {getenv("ASSAY_NO_FP8") ? DTYPE_I8 : DTYPE_F8, DTYPE_I8})
            for (enum dtype t : {DTYPE_F16, DTYPE_BF16}) {
                check_setup({t, held, t, 64, {48, 16, 16}, bias});
                check_setup({DTYPE_F32, held, t, 96, {32, 0, 0}, bias});
            }
}

/* More rows than sums are held for at a time. */
void test_many_rows_of_integers(void **)
{
    setup s = {DTYPE_BF16, DTYPE_I8, DTYPE_BF16, 16, {16, 0, 0}, true};
    random_numbers r = {5};
    model m(s, r, 1500);
    check_product(m, s, 1500, r);
}

/* More rows than a product is given at a time. */
void test_many_rows_of_floats(void **)
{
    setup s = {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16, 16, {16, 0, 0}, true};
    random_numbers r = {6};
    model m(s, r, 10000);
    check_product(m, s, 10000, r);
}

#ifdef ASSAY_SIMT_BENCH
/* ---- which algorithms are taken: the double offers what must not be ---- */

int exit_code_of(
    const setup &s, const char *offer, const char *variable = "", const char *value = "")
{
    int status;
    fflush(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("ASSAY_DOUBLE_OFFER", offer, 1);
        if (*variable)
            setenv(variable, value, 1);
        random_numbers r = {7};
        model m(s, r, 40);
        check_product(m, s, 37, r);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void test_algorithms_that_are_wrong_are_refused(void **)
{
    for (enum dtype held : {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_F8, DTYPE_I8}) {
        enum dtype t = dtype_bytes(held) == 1 ? DTYPE_BF16 : held;
        for (bool bias : {false, true}) {
            setup s = {t, held, t, 256, {32, 16, 0}, bias};
            assert_int_equal(exit_code_of(s, "DROPS GOOD"), 0);
            assert_int_equal(exit_code_of(s, "DROPS"), EX_CONFIG);
            assert_int_equal(exit_code_of(s, "MUTE"), 0);
        }
    }
    setup f8 = {DTYPE_BF16, DTYPE_F8, DTYPE_BF16, 64, {32, 0, 0}, true},
          f16 = {DTYPE_F16, DTYPE_F16, DTYPE_F16, 64, {32, 0, 0}, true};
    assert_int_equal(exit_code_of(f8, "BLIND GOOD"), 0);
    assert_int_equal(exit_code_of(f8, "BLIND"), EX_CONFIG);
    for (const char *offer : {"SHY", "GREEDY", "LATE", "SPLIT", "BROKEN", "FUSSY", "LARGE"})
        assert_int_equal(exit_code_of(f16, offer), EX_CONFIG);
}

void test_a_trial_without_room_is_refused(void **)
{
    setup s = {DTYPE_F16, DTYPE_F16, DTYPE_F16, 64, {32, 0, 0}, false};
    assert_int_equal(exit_code_of(s, "GOOD", "ASSAY_DOUBLE_FREE", "1"), EX_CONFIG);
}
#endif

/* A matrix larger than the chunks that it goes through. */
void test_a_matrix_in_several_chunks(void **)
{
    for (enum dtype held : {DTYPE_BF16, DTYPE_I8}) {
        setup s = {DTYPE_F32, held, DTYPE_BF16, 8192, {530, 0, 0}, false};
        random_numbers r = {11};
        model m(s, r, 1);
        check_prepared(m, s);
    }
}

int check_nothing_left(void **)
{
    return double_live_allocations() == 0 ? 0 : -1;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    log_init("test", -1, LOG_LEVEL_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_float_matrices, check_nothing_left),
        cmocka_unit_test_teardown(test_quantized_matrices, check_nothing_left),
        cmocka_unit_test_teardown(test_many_rows_of_integers, check_nothing_left),
        cmocka_unit_test_teardown(test_many_rows_of_floats, check_nothing_left),
#ifdef ASSAY_SIMT_BENCH
        cmocka_unit_test(test_algorithms_that_are_wrong_are_refused),
        cmocka_unit_test(test_a_trial_without_room_is_refused),
#endif
        cmocka_unit_test_teardown(test_a_matrix_in_several_chunks, check_nothing_left)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
