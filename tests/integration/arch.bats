#!/usr/bin/env bats
# Is it an x86-64? Guests that take the processor apart; tests/guest/arch.h says how.
# timeout: 600
#
# GUEST_ORACLE names what is known to be wrong of the processor (tcg, testbed, pvm); it is found out where
# GUEST_VMM or the place tells.

bats_require_minimum_version 1.5.0
load ../guest/guest

oracle() {
	if [ -n "${GUEST_ORACLE:-}" ]; then
		echo "$GUEST_ORACLE"
	elif [[ $vmm == *"-accel tcg"* ]]; then
		echo tcg
	elif [[ $vmm != *"-accel soft"* ]] && grep -q testbed /proc/cmdline; then
		echo testbed
	fi
}

# arch NAME [OPTION…]: runs a guest of cases.
arch() {
	local name=$1

	shift
	guest "arch-$name" "oracle=$(oracle)" -no-reboot "$@"
	passed
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
