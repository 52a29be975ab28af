# Included by the Makefile: the kernels on the CPU's bench, the GPU's worker by the toolkit, and the programs that check and time
# it on a machine with a GPU.

# The kernels for the CPU: the same .cu files, read by the host's compiler, run by the bench (tests/kernels/README.md).
# test_gpu_* have the GPU's host code too, on doubles of CUDA's libraries; so has an assay-worker-cuda for the tests end to end.
BENCH   := $(B)/obj/tests/kernels/bench/simt.o $(patsubst %.cu,$(B)/obj/%.cu.o,$(wildcard cuda/*.cu))
DOUBLES := $(patsubst %.cc,$(B)/obj/%.o,$(wildcard tests/kernels/doubles/*.cc))
GPU     := $(call objects,$(filter-out cuda/main.c,$(wildcard cuda/*.c)))
# As on the CPU (Makefile, quick): under sanitizers whole models have the kernels without them, the kernels' own tests with them.
QUICK_BENCH := $(if $(SANITIZE),$(patsubst $(B)/obj/%,$(B)/quick/%,$(BENCH)),$(BENCH))
# Half precision and fused multiply-adds by the CPU where it has them, or the compiler's library does both, more slowly.
HOST_HAS    = $(shell grep -qsw $(1) /proc/cpuinfo && echo -m$(1))
BENCH_FLAGS := $(if $(X86),$(call HOST_HAS,f16c) $(call HOST_HAS,fma)) -Wno-unknown-pragmas -DASSAY_SIMT_BENCH='"tests/kernels/bench/simt.h"' -Itests/kernels/include
define compile_bench
	@mkdir -p $(@D)
	$(call say,CXX,$<)$(CXX) $(CPPFLAGS) $(BENCH_FLAGS) $(1) -MMD -MP -x c++ -c -o $@ $<
endef
$(B)/obj/%.o: %.cc
	$(call compile_bench,$(CXXFLAGS))
$(B)/obj/%.cu.o: %.cu
	$(call compile_bench,$(CXXFLAGS))
$(B)/quick/%.o: %.cc
	$(call compile_bench,$(filter-out $(SANITIZERS),$(CXXFLAGS)))
$(B)/quick/%.cu.o: %.cu
	$(call compile_bench,$(filter-out $(SANITIZERS),$(CXXFLAGS)))
$(DOUBLES): CXXFLAGS += -O3
$(GPU) $(call objects,$(wildcard cuda/main.c tests/kernels/*.c tests/gpu/*.c)): override CPPFLAGS += -Itests/kernels/include
$(KERNELS): LDLIBS += -lcmocka
$(filter-out $(B)/kernels/test_gpu_%,$(KERNELS)): $(B)/obj/tests/kernels/bench/submit.o
$(filter $(B)/kernels/test_gpu_%,$(KERNELS)): $(GPU) $(DOUBLES) $(B)/obj/tests/kernels/check_headers.o
MODEL_TEST := $(addprefix $(B)/kernels/test_gpu_,model lora quantized reuse pipeline)
$(B)/kernels/assay-worker-cuda: $(call objects,cuda/main.c) $(GPU) $(DOUBLES) $(QUICK_BENCH) $(B)/lib/assay.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS)
$(MODEL_TEST): $(QUICK_BENCH)
$(filter-out $(MODEL_TEST),$(KERNELS)): $(BENCH)
$(KERNELS): $(B)/kernels/%: $(B)/obj/tests/kernels/%.o $(B)/lib/assay.a
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CXX) $(LDFLAGS) -o $@ $(filter %.o,$^) $(B)/lib/assay.a $(LDLIBS)

# The GPU's worker, by the toolkit: code for those of these architectures that it has, and for newer ones what their driver compiles.
# -fmad=false: a multiply and an add are fused only where the code says so.
CUDA_HOME ?= /usr/local/cuda
NVCC      ?= $(CUDA_HOME)/bin/nvcc
CUDA_ARCH ?= $(if $(CUDA),$(or $(filter sm_80 sm_90 sm_100,$(shell $(NVCC) --list-gpu-code 2>/dev/null)),sm_80 sm_90))
NVCCFLAGS ?= -O3 -lineinfo
NVCCFLAGS += -std=c++17 -fmad=false -I. $(foreach a,$(CUDA_ARCH),-gencode arch=$(a:sm_%=compute_%),code=$(a)) \
             $(foreach a,$(lastword $(CUDA_ARCH)),-gencode arch=$(a:sm_%=compute_%),code=$(a:sm_%=compute_%)) \
             -Xcompiler -Wall,-Wextra,-Wshadow $(if $(WERROR),-Werror all-warnings)
$(B)/nvcc/%.o: %.cu
	@mkdir -p $(@D)
	$(call say,NVCC,$<)$(NVCC) $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(B)/nvcc/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CPPFLAGS) -isystem $(CUDA_HOME)/include $(CFLAGS) -MMD -MP -c -o $@ $<
$(B)/bin/assay-worker-cuda: $(patsubst %,$(B)/nvcc/%.o,$(basename $(wildcard cuda/*.cu cuda/*.c))) $(MODEL) $(COMMON) \
                             | $(B)/nvcc/tests/kernels/check_headers.o
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CXX) $(LDFLAGS) -o $@ $^ -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudart -lcublasLt -lnccl $(LDLIBS)

# For the first day on a GPU: the kernels' and the model's tests on the device, and benchmarks. Needs no ZeroMQ. $(B)/kit has
# the same programs on the doubles, so that the tests see them work.
KIT_TESTS := test_elementwise test_attention test_adapters test_unpack test_rounding test_gpu_linear test_gpu_model test_gpu_lora test_gpu_quantized test_gpu_reuse test_gpu_pipeline
KIT_TOOLS := $(basename $(notdir $(wildcard tests/gpu/*.c)))
KIT_HOST  := $(call objects,$(filter-out worker/main.c worker/serve.c worker/describe.c,$(wildcard worker/*.c worker/cpu/*.c))) \
             $(call objects,schema/alloc.c schema/clock.c schema/cores.c schema/err.c schema/log.c schema/log_line.c schema/identity.c schema/json.c schema/regular.c schema/model_path.c schema/pooling.c schema/utf8.c shm/stage.c)
KIT_LIB   := $(KIT_HOST) $(patsubst %,$(B)/nvcc/%.o,$(filter-out cuda/main,$(basename $(wildcard cuda/*.cu cuda/*.c))))
KIT_LIBS  := -lcmocka -ljansson -lpcre2-8 -lsodium -lm -pthread
$(patsubst %,$(B)/nvcc/tests/kernels/%.o,test_gpu_model test_gpu_reuse test_gpu_pipeline): override CPPFLAGS += -DASSAY_ON_DEVICE
$(B)/nvcc/%.o: %.cc
	@mkdir -p $(@D)
	$(call say,NVCC,$<)$(NVCC) -x cu $(NVCCFLAGS) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$(addprefix $(B)/gpu/,$(KIT_TESTS)): $(B)/gpu/%: $(B)/nvcc/tests/kernels/%.o $(B)/nvcc/tests/kernels/on_device.o $(KIT_LIB)
$(addprefix $(B)/gpu/,$(KIT_TOOLS)): $(B)/gpu/%: $(B)/nvcc/tests/gpu/%.o $(KIT_LIB)
$(addprefix $(B)/gpu/,$(KIT_TESTS) $(KIT_TOOLS)):
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CXX) $(LDFLAGS) -o $@ $^ -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudart -lcublasLt -lnccl $(KIT_LIBS)
KIT := $(addprefix $(B)/kit/,$(KIT_TOOLS))
$(KIT): $(B)/kit/%: $(B)/obj/tests/gpu/%.o $(GPU) $(DOUBLES) $(BENCH) $(KIT_HOST)
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CXX) $(LDFLAGS) -o $@ $^ $(KIT_LIBS)
gpu-programs: $(addprefix $(B)/gpu/,$(KIT_TESTS) $(KIT_TOOLS))
gpu-check: ## on a machine with a GPU: kernels, products and the model on it, compute-sanitizer (tests/gpu/check.py)
	@$(MAKE) --no-print-directory CUDA=1 -j4 gpu-programs
	@python3 tests/gpu/check.py --bin build/cuda/gpu
gpu-bench: ## on a machine with a GPU: a table of ratios (tests/gpu/bench.py)
	@$(MAKE) --no-print-directory CUDA=1 -j4 gpu-programs
	@python3 tests/gpu/bench.py --bin build/cuda/gpu
