# Assay. `make help` lists the targets. One tree of objects per configuration under build/.
#
#   make [BUILD=cpu]          build/cpu/bin/{assayd,assay-worker,assay,assay-http}
#   make SANITIZE=1           the same under ASan and UBSan, in build/asan
#   make CC=clang BUILD=clang another compiler, in a tree of its own
#   make CC=aarch64-linux-gnu-gcc PKG_CONFIG=aarch64-linux-gnu-pkg-config BUILD=arm   for another machine
#   make CUDA=1               the same and assay-worker-cuda, in build/cuda (CUDA_HOME, CUDA_ARCH="sm_80 sm_90 sm_100")
.DELETE_ON_ERROR .SECONDARY:
.DEFAULT_GOAL := all

CC       := $(if $(filter default,$(origin CC)),gcc,$(CC))
CXX      := $(if $(filter default,$(origin CXX)),g++,$(CXX))
SANITIZE ?=
WERROR   ?=
CUDA     ?=
BUILD    ?= $(if $(SANITIZE),asan,$(if $(CUDA),cuda,cpu))
B        := build/$(BUILD)
PREFIX   ?= /usr/local
VENV     := build/venv
PYTHON   := $(VENV)/bin/python

PKG_CONFIG ?= pkg-config
LIB_NAMES := libzmq sqlite3 jansson libsodium libxxhash libutf8proc libpcre2-8 zlib libzstd
MSGPACK   := $(shell $(PKG_CONFIG) --exists msgpack-c 2>/dev/null && echo msgpack-c || echo msgpack)
override CPPFLAGS += -D_GNU_SOURCE -I. -I$(B)/gen $(shell $(PKG_CONFIG) --cflags $(LIB_NAMES) $(MSGPACK) 2>/dev/null)
# What builds needs them; what installs them, cleans or only tells does not. The GPU's kit takes fewer.
WITHOUT_LIBS := deps uninstall deb demo test check test-long reference evidence format help clean gpu-%
ifneq ($(filter-out $(WITHOUT_LIBS),$(or $(MAKECMDGOALS),all)),)
$(if $(shell $(PKG_CONFIG) --exists --print-errors $(LIB_NAMES) libmicrohttpd $(MSGPACK) && echo there),,\
  $(error libraries are missing: run `make deps` (Debian, Ubuntu), or install what .ci/deps names))
endif
CFLAGS   ?= -O2 -g
# -ffp-contract=off: a multiply and an add are fused only where the code says so, or scores would depend on the compiler.
override CFLAGS += -std=c11 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -ffp-contract=off \
            -fno-math-errno -Wno-psabi -fstack-protector-strong -pthread $(if $(WERROR),-Werror)
CXXFLAGS ?= -O2 -g
override CXXFLAGS += -std=c++17 -Wall -Wextra -Wshadow -ffp-contract=off -fno-math-errno -pthread $(if $(WERROR),-Werror)
LDFLAGS  ?= -Wl,-z,relro,-z,now
LDLIBS   += $(shell $(PKG_CONFIG) --libs $(LIB_NAMES) $(MSGPACK) 2>/dev/null) -lm -lrt -pthread
ifdef SANITIZE
# -O1 -g1: compiled in half the time, and the tests take as long as with -O2.
SANITIZERS := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
override CXXFLAGS += -g1 $(SANITIZERS)
override CFLAGS += -O1 -g1
override LDFLAGS += -fsanitize=address,undefined
endif

# A file named *_avx2.c holds what runs only on a CPU with AVX2 and FMA, *_avx512.c with AVX-512, *_avx512vnni.c with its VNNI too, *_avx512bf16.c
# with its BF16 as well; all else runs on any CPU.
X86       := $(findstring x86_64,$(shell $(CC) -dumpmachine))
AVX512    := -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl
ISA_FLAGS = $(if $(X86),$(if $(filter %_avx2.c,$<),-mavx2 -mfma) $(if $(filter %_avx512.c,$<),$(AVX512)) \
            $(if $(filter %_avx512vnni.c,$<),$(AVX512) -mavx512vnni) \
            $(if $(filter %_avx512bf16.c,$<),$(AVX512) -mavx512vnni -mavx512bf16)) \
            $(if $(filter worker/cpu/% schema/ids.c,$<),-O3)

# One short line a step; V=1 shows the commands.
say       = $(if $(V),,@$(if $(findstring s,$(firstword -$(MAKEFLAGS))),,echo '  $(1)  $(2)';))
objects   = $(patsubst %.c,$(B)/obj/%.o,$(1))
# Under sanitizers the inner loops take five times as long: the worker and tests of whole models have them without, their own tests not.
quick     = $(if $(SANITIZE),$(patsubst $(B)/obj/worker/cpu/kernels_%,$(B)/quick/worker/cpu/kernels_%,$(1)),$(1))
COMMON    := $(call objects,$(wildcard schema/*.c shm/*.c))
MODEL     := $(call objects,$(filter-out worker/main.c,$(wildcard worker/*.c worker/cpu/*.c)))
TEXT      := $(call objects,$(wildcard broker/text/*.c))
STORE     := $(call objects,broker/row.c $(wildcard broker/store/*.c))
BROKER    := $(sort $(STORE) $(call objects,$(filter-out broker/main.c,$(wildcard $(addprefix broker/,*.c api/*.c sched/*.c workers/*.c))))) $(TEXT)
CLI       := $(call objects,$(filter-out broker/cli/main.c,$(wildcard broker/cli/*.c broker/cli/input/*.c)))
BINS      := $(addprefix $(B)/bin/,assayd assay-worker assay assay-http)
CUDA_BINS := $(if $(CUDA),$(B)/bin/assay-worker-cuda)
UNIT      := $(patsubst tests/unit/%.c,$(B)/tests/%,$(wildcard tests/unit/test_*.c))
FUZZ      := $(patsubst tests/fuzz/%.c,$(B)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
KERNELS   := $(patsubst tests/kernels/%,$(B)/kernels/%,$(basename $(wildcard tests/kernels/test_*.cc tests/kernels/test_gpu_*.c)))
TOOLS     := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/chaos/*.c tests/clients/*.c tests/e2e/*.c tests/bench/*.c))

.PHONY: all deps demo test tests run-tests check lint format bench bench-compare bench-text quant-drift test-long reference reference-vllm compare-templates clients-check evidence gpu-programs gpu-check gpu-bench man clean help
all: $(BINS) $(CUDA_BINS) ## build the four programs; CUDA=1: and the worker for GPUs

$(B)/bin/assayd: $(call objects,broker/main.c) $(BROKER) $(COMMON)
$(B)/bin/assay-worker: $(call objects,worker/main.c) $(call quick,$(MODEL)) $(COMMON)
$(B)/bin/assay: $(call objects,broker/cli/main.c broker/options.c broker/http/options.c broker/data_dir.c broker/workers/spawn.c) $(STORE) $(CLI) $(TEXT) $(COMMON)
$(UNIT): $(B)/tests/%: $(B)/obj/tests/unit/%.o $(B)/lib/assay.a
$(UNIT): LDLIBS += -lcmocka
$(addprefix $(B)/tests/test_,model pipeline quantized reuse): $(call quick,$(filter $(B)/obj/worker/cpu/kernels_%,$(MODEL)))
$(FUZZ): $(B)/fuzz/%: $(B)/obj/tests/fuzz/%.o $(B)/obj/tests/fuzz/driver.o $(B)/obj/tests/fuzz/files.o $(B)/lib/assay.a
$(TOOLS): $(B)/tests/%: $(B)/obj/tests/%.o $(B)/lib/assay.a
$(B)/tests/bench/bench_blas: LDLIBS += -ldl
include broker/http/rules.mk tests/gpu/rules.mk tests/reference/rules.mk tests/clients/rules.mk

$(BINS) $(UNIT) $(FUZZ) $(TOOLS):
	@mkdir -p $(@D)
	$(call say,LD,$@)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

$(B)/lib/assay.a: $(COMMON) $(MODEL) $(BROKER) $(CLI)
	@mkdir -p $(@D)
	@rm -f $@
	$(call say,AR,$@)$(AR) rcs $@ $^

define compile
	@mkdir -p $(@D)
	$(call say,CC,$<)$(CC) $(CPPFLAGS) $(CFLAGS) $(1) $(ISA_FLAGS) -MMD -MP -c -o $@ $<
endef
$(B)/obj/%.o: %.c
	$(call compile,$(SANITIZERS))
$(B)/quick/%.o: %.c
	$(call compile)

# The SQL schema as a C string.
$(call objects,broker/store/schema.c): | $(B)/gen/jobs_sql.h
$(B)/gen/jobs_sql.h: schema/jobs.sql
	@mkdir -p $(@D)
	@sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$$/\\n"/' $< > $@

# Targets that install first start a make of their own: what is installed changes what this file finds.
deps: ## install what building and the demo need (apt); the targets that test install what they need themselves
	@.ci/deps build

demo: ## install, build, score a small model, show the job with SQL
	@.ci/deps build
	@$(MAKE) --no-print-directory all
	@BIN=$(B)/bin .ci/demo

test: ## install, build, run every test; ends with "N passed, N failed"
	@.ci/deps
	@$(MAKE) --no-print-directory -j2 all tests
	@$(MAKE) --no-print-directory run-tests

tests: $(UNIT) $(KERNELS) $(B)/kernels/assay-worker-cuda $(KIT) $(FUZZ) $(TOOLS)
COMPUTES := $(foreach t,model bf16 int8 quantized cpu_attention lora,$(B)/tests/test_$t) # and watch no clock
LONGEST  := $(wildcard tests/chaos/test_*.py) $(foreach t,tokenizer cli_again cli_unfinished quant dedupe gpu identity,tests/e2e/test_$t.py)
SECONDS  ?= 5
PATIENCE ?= $(if $(SANITIZE),4,1)
PYTEST   := ASSAY_BIN=$(CURDIR)/$(B)/bin ASSAY_PATIENCE=$(PATIENCE) $(CURDIR)/$(PYTHON) -m pytest -q -p no:cacheprovider
run-tests:
	@$(PYTHON) tests/run.py $(foreach t,$(sort $(KERNELS)) $(COMPUTES),--beside "$(notdir $(t))=$(t)") \
	  $(foreach f,$(FUZZ),--beside "$(notdir $(f))=$(f) $(SECONDS)") \
	  $(foreach t,$(LONGEST) $(filter-out $(LONGEST),$(sort $(wildcard tests/e2e/test_*.py))),--beside "$(t)=env $(PYTEST) $(t)") \
	  $(foreach t,$(filter-out $(COMPUTES),$(UNIT)),"$(notdir $(t))=$(t)")

check: ## the tests under ASan and UBSan
	@$(MAKE) --no-print-directory test SANITIZE=1

test-long: ## the tokenizers against their reference on a million strings each
	@.ci/deps
	@$(MAKE) --no-print-directory -j2 all
	@ASSAY_STRINGS=1000000 $(PYTEST) tests/e2e/test_tokenizer.py tests/e2e/test_patterns.py

lint: $(B)/gen/jobs_sql.h ## cppcheck, and clang-format without changing anything
	cppcheck -q --std=c11 --language=c --enable=warning,performance,portability --error-exitcode=1 --inline-suppr \
	  --suppress=missingIncludeSystem -I. -I$(B)/gen -Itests/kernels/include -D__x86_64__ schema shm worker broker cuda
	clang-format --dry-run -Werror $(shell git ls-files '*.c' '*.h' '*.cc' '*.cu')

format: ## put every C file into the house format
	clang-format -i $(shell git ls-files '*.c' '*.h' '*.cc' '*.cu')

OUT ?= build/bench/out
bench: ## measure: a table of ratios, plots in OUT (default build/bench/out); WHAT="b1 c1" for some of it
	@.ci/deps
	@$(MAKE) --no-print-directory -j2 all tests
	@ASSAY_BIN=$(CURDIR)/$(B)/bin $(PYTHON) tests/bench/bench.py --out $(OUT) $(WHAT)

bench-compare: ## BASE=<commit>: this tree's speed to that commit's, in paired runs (PAIRS=7 FAIL_BELOW=0.97 WHAT="forward submit")
	@.ci/deps
	@$(if $(BASE),,echo 'make bench-compare: expected BASE=<commit>' >&2; exit 64;) \
	  ASSAY_BIN=$(CURDIR)/build/cpu/bin $(PYTHON) tests/bench/compare.py --pairs $(or $(PAIRS),7) --fail-below $(or $(FAIL_BELOW),0.97) $(BASE) $(WHAT)

quant-drift: ## how far --quant int8 and --dtype bf16 move scores (worker/README.md)
	@.ci/deps
	@$(MAKE) --no-print-directory -j2 all
	@ASSAY_BIN=$(CURDIR)/$(B)/bin $(PYTHON) tests/bench/quant_drift.py

evidence: ## write cuda/EVIDENCE.md: what the toolkit says of each kernel (needs nvcc; cuobjdump and nvdisasm for the instructions)
	python3 tests/kernels/evidence.py --nvcc $(NVCC) > cuda/EVIDENCE.md.new
	mv cuda/EVIDENCE.md.new cuda/EVIDENCE.md

bench-text: ## measure the tokenizer alone
	@.ci/deps
	@$(MAKE) --no-print-directory -j2 all tests
	@ASSAY_BIN=$(CURDIR)/$(B)/bin $(PYTHON) tests/bench/bench.py --out $(OUT) t1

# Built for another machine, the program cannot run here: HOST_ASSAY is one that can, of the same version.
HOST_ASSAY ?= $(B)/bin/assay
man: $(HOST_ASSAY) ## man pages and shell completion, made by the program itself, in build/cpu/{man,completion}
	@mkdir -p $(B)/man $(B)/completion
	@$(HOST_ASSAY) --version > /dev/null 2>&1 || \
	  { echo 'make man: $(HOST_ASSAY) does not run here; expected HOST_ASSAY=PATH of a build that does' >&2; exit 69; }
	@$(HOST_ASSAY) man --dir $(B)/man
	@for shell in bash zsh fish; do $(HOST_ASSAY) completion $$shell > $(B)/completion/$$shell || exit 1; done

include broker/install.mk

clean: ## remove what was built (build/venv too)
	rm -rf build

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile broker/install.mk tests/gpu/rules.mk tests/reference/rules.mk tests/clients/rules.mk broker/http/rules.mk | expand -t 20
-include $(shell find $(B)/obj $(B)/quick -name '*.d' 2>/dev/null)
