#!/usr/bin/env bats
# Is it an x86-64? Guests that take the processor apart, on the software backend; tests/guest/arch.h says how.
# timeout: 600
#
# GUEST_VMM names another monitor, to learn what the guests are worth. GUEST_ORACLE says what is known to be wrong of
# its processor (tcg, testbed, pvm); it is found out where GUEST_VMM or the place tells.

bats_require_minimum_version 1.5.0
load ../guest/guest
vmm=${GUEST_VMM:-$build/revirter -accel soft}

oracle() {
	if [ -n "${GUEST_ORACLE:-}" ]; then
		echo "$GUEST_ORACLE"
	elif [[ $vmm == *"-accel tcg"* ]]; then
		echo tcg
	elif [[ $vmm != *"-accel soft"* ]] && grep -q testbed /proc/cmdline; then
		echo testbed
	fi
}

# arch NAME [OPTION…]: runs a guest of cases, with $arch_params; and once more where all code is translated for speed.
arch_params=
arch() {
	local name=$1 words

	shift
	for words in "" "-accel soft,jit=eager"; do
		# shellcheck disable=SC2086
		guest "arch-$name" "oracle=$(oracle) $arch_params" -no-reboot "$@" $words
		passed
		[ -z "${GUEST_VMM:-}" ] || break
	done
}

@test "long mode: segments, gates, IRET, SYSCALL, canonical addresses" {
	arch long
}

@test "protected mode: limits, gates, tasks, I/O permission" {
	arch prot
}

@test "real mode: segments, interrupts, big segments" {
	arch real
}

@test "paging: every bit, every error code, look-aside buffers" {
	arch paging
}

@test "paging in legacy mode: two levels, PAE, big pages" {
	arch paging32
}

@test "exceptions: each vector, restart, double faults" {
	arch faults
}

@test "debugging: single step, breakpoint registers, interrupt shadow" {
	arch debug
}

@test "self-modifying code" {
	arch smc
}

@test "instructions of programs: integers, strings, extensions, what is undefined" {
	arch user
}

@test "x87, MMX, SSE, AES, SHA, FXSAVE, XSAVE" {
	arch fpu
}

@test "two processors: LOCK, memory order, code changed by the other" {
	arch_params="cpus=2"
	arch smp -smp 2
}

@test "four processors" {
	# One run in twenty-five ends in a triple fault at the start when sanitizers slow it: docs/soft-backend.md.
	[ -z "${SANITIZE:-}" ] || skip "not reliable with sanitizers yet"
	[ "$(oracle)" != testbed ] || skip "spinning on the testbed's two processors takes minutes"
	arch_params="cpus=4 rounds=2000"
	arch smp -smp 4
}

@test "triple faults end the machine, or reset it" {
	local name

	for name in no_idt no_gates no_stack no_pages; do
		guest arch-triple "case=$name" -no-reboot
		[ "$status" = 0 ]
		[[ $output == *faulting* ]]
		[[ $output != *"not ok"* && $output != *PASS* && $output != *FAIL* ]]
	done
}
