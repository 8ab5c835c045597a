# Thin over meson. Each target installs the Debian packages it needs first (tools/setup).
#
#	make VARIABLE=value TARGET
#
#	SANITIZE=1	build with ASan and UBSan, in build-asan
#	PREFIX, DESTDIR	where `make install` puts things (/usr/local, none)
#	ARGS		more words for `make run`: ARGS="-smp 2 -m 1G"
#	PHASES		what `make check` runs: PHASES="unit cli" (all; see tests/run-all)
#	CASES		what `make bench` runs: CASES=boot (all of tests/bench); how many cases `make check-diff`
#			tries (10000000)
#	BOOTS		how often `make check-soft` boots (200)
#	SEED		where the cases of `make check-diff` come from (the clock); its ARGS: --backend, --class …

SANITIZE ?=
ifneq ($(filter-out 0,$(SANITIZE)),)
BUILD ?= build-asan
meson_options := -Db_sanitize=address,undefined -Db_lundef=false
else
BUILD ?= build
endif
PREFIX ?=
CASES ?= $(notdir $(shell find tests/bench -maxdepth 1 -type f -executable | sort))
FUZZ_SECONDS ?= 60
clang_format := $(shell command -v clang-format-14 || echo clang-format)
export BUILD

.PHONY: all run check check-diff check-guest check-soft bench install clean distclean format format-check fuzz help

all:  ## build everything, into build/
	@tools/setup build
	@[ -e $(BUILD)/build.ninja ] || meson setup $(BUILD) $(meson_options)
	@ninja -C $(BUILD)

run: all  ## boot a small Linux guest and, on a terminal, give you its shell
	@tools/setup run
	@tools/run $(ARGS)

check:  ## run all tests; the last line is "N passed, N failed"
	@tools/setup build check || true  # run-all counts it
	@SANITIZE=$(SANITIZE) tests/run-all $(PHASES)

check-guest: all  ## let a Debian guest with four processors work hard, and reboot; long where KVM is emulated
	@tests/long/guest

check-soft: all  ## let Debian work on the software backend: apt, gcc, Python, openssl, stress-ng; and boot it BOOTS times
	@tests/long/soft $(if $(BOOTS),--boots $(BOOTS))

check-diff: all  ## random instructions on the processor itself and in the software backend, compared
	@$(BUILD)/tests/diff/diff $(if $(SEED),--seed $(SEED)) \
		--cases $(if $(filter command environment,$(origin CASES)),$(CASES),10000000) $(ARGS)

bench: all  ## measure, against other monitors where that says something
	@tools/setup bench
	@set -e; for case in $(CASES); do tests/bench/$$case; done

install: all  ## install to $(DESTDIR)$(PREFIX)
	@[ -z "$(PREFIX)" ] || meson configure $(BUILD) -Dprefix=$(PREFIX)
	@meson install -C $(BUILD)

format:  ## let clang-format rewrite the C files
	@tools/setup check
	@git ls-files '*.c' '*.h' | xargs $(clang_format) -i

format-check:  ## say where clang-format disagrees
	@tools/setup check
	@git ls-files '*.c' '*.h' | xargs $(clang_format) --dry-run --Werror

fuzz:  ## feed the parsers of hostile data for FUZZ_SECONDS each
	@tools/setup build fuzz
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz/run

clean:  ## remove what was compiled; kernels and guests that were fetched stay
	@for dir in build build-asan build-fuzz; do \
		[ ! -e $$dir/build.ninja ] || ninja -C $$dir -t clean; rm -rf $$dir/test-logs; done

distclean:  ## remove everything that was made or fetched
	rm -rf build build-asan build-fuzz

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo; sed -n '/^#	/s/^#	/  /p' $(MAKEFILE_LIST) | expand -t 8
