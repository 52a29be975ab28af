/* test_gpu_memory.cc - host code that touches the device's memory is found, and what the device does
 * is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
extern "C" {
#include <cmocka.h>
}
#include <functional>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cuda_runtime_api.h>

namespace
{

struct device {
    cudaStream_t stream;
    void *memory, *pinned;
    device()
    {
        assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
        assert_int_equal(cudaMalloc(&memory, 100), cudaSuccess);
        assert_int_equal(cudaHostAlloc(&pinned, 100, 0), cudaSuccess);
    }
    ~device()
    {
        cudaFree(memory);
        cudaFreeHost(pinned);
        cudaStreamDestroy(stream);
    }
    void copy(enum cudaMemcpyKind kind)
    {
        bool there = kind == cudaMemcpyHostToDevice;
        assert_int_equal(
            cudaMemcpyAsync(there ? memory : pinned, there ? pinned : memory, 100, kind, stream),
            cudaSuccess);
    }
};

/* Does it end the process? */
bool ends(const std::function<void(device &d)> &run)
{
    int status;
    fflush(nullptr);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL); /* cmocka's would go on */
        signal(SIGABRT, SIG_DFL);
        device d;
        if (!freopen("/dev/null", "w", stderr))
            _exit(1);
        run(d);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status != 0;
}

volatile char seen;

void touch(void *at)
{
    seen = *static_cast<volatile char *>(at);
}

void test_the_host_may_not_touch_it(void **)
{
    assert_true(ends([](device &d) { touch(d.memory); }));
    assert_true(ends([](device &d) { *static_cast<volatile char *>(d.memory) = 1; }));
    assert_true(ends([](device &d) {
        d.copy(cudaMemcpyHostToDevice);
        cudaStreamSynchronize(d.stream);
        touch(d.memory);
    }));
    assert_true(ends([](device &d) {
        cudaLaunchHostFunc(d.stream, touch, d.memory);
        cudaStreamSynchronize(d.stream);
    }));
    assert_true(ends([](device &d) {
        void *at = d.memory;
        cudaFree(d.memory);
        d.memory = nullptr;
        touch(at);
    }));
}

void test_the_device_may(void **)
{
    assert_false(ends([](device &d) { touch(d.pinned); }));
    assert_false(ends([](device &d) {
        *static_cast<char *>(d.pinned) = 7;
        d.copy(cudaMemcpyHostToDevice);
        cudaMemsetAsync(static_cast<char *>(d.memory) + 1, 8, 99, d.stream);
        cudaLaunchHostFunc(d.stream, touch, d.pinned);
        d.copy(cudaMemcpyDeviceToHost);
        cudaStreamSynchronize(d.stream);
        const char *found = static_cast<const char *>(d.pinned);
        _exit(found[0] == 7 && found[1] == 8 && found[99] == 8 ? 0 : 1);
    }));
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_host_may_not_touch_it), cmocka_unit_test(test_the_device_may)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
