#!/usr/bin/env bats
# The platform, from within: tiny guests that look at what a PC has, and leave by each door.
# timeout: 600

bats_require_minimum_version 1.5.0
load ../guest/guest

@test "a guest says hello and ends with its own status" {
	guest hello "one two=3"
	passed
	[[ $output == *"hello from a guest"* ]]
	[[ $output == *"cmdline: "*"one two=3"* ]]
}

@test "multiboot: registers and memory map" {
	guest regs ram=64
	passed
	[[ $output == *"protocol multiboot"* ]]
}

@test "PVH: registers and memory map" {
	guest regs-pvh ram=64
	passed
	[[ $output == *"protocol pvh"* ]]
}

@test "the memory map of 3 GiB has RAM above 4 GiB" {
	guest regs-pvh ram=3072 -m 3G
	passed
	[[ $output == *": 100000000-140000000 type 1"* ]]
}

@test "PCI, clock and keyboard controller" {
	guest ports ""
	passed
	[[ $output == *"pci 00:00.0 8086:29c0"* ]]
}

@test "a device behind a root port" {
	guest ports "" -device pcie-root-port,id=rp,chassis=1,slot=1 -device virtio-rng-pci,bus=rp
	passed
	[[ $output == *"1b36:000c class 060400"* ]]
	[[ $output == *"pci 01:00.0 1af4:1044"* ]]
}

@test "power off through the ACPI block" {
	guest ports end=poweroff
	[ "$status" = 0 ]
	[[ $output == *"powering off" ]]
}

@test "the power button" {
	local dir=$BATS_TEST_TMPDIR pid

	guest_command ports wait=button -qmp "unix:$dir/qmp,server=on,wait=off"
	timeout 60 "${command[@]}" </dev/null >"$dir/out" 3>&- &
	pid=$!
	for _ in {1..200}; do
		grep -q waiting "$dir/out" && break
		sleep 0.1
	done
	printf '%s\n' '{"execute":"qmp_capabilities"}' '{"execute":"system_powerdown"}' |
		socat -t 30 - "UNIX-CONNECT:$dir/qmp,shut-none" >"$dir/qmp.out"
	wait "$pid"
	grep -q "power button pressed" "$dir/out"
	grep -q '"POWERDOWN"' "$dir/qmp.out"
}

@test "every way to reset, in a row" {
	guest reset ""
	passed
	[ "$(grep -c "^reset by" <<<"$output")" = 6 ]
	[[ $output == *"6 resets"* ]]
}

@test "with -no-reboot each way to reset ends the machine" {
	for path in 0 1 2 3 4 5; do
		guest reset "path=$path" -no-reboot
		[ "$status" = 0 ]
		[ "$(grep -c "^reset by" <<<"$output")" = 1 ]
		[[ $output != *FAIL* ]]
	done
}

@test "a guest that panics is reported and ended" {
	local dir=$BATS_TEST_TMPDIR

	guest_command ports end=panic -device pvpanic -qmp "unix:$dir/qmp,server=on,wait=on"
	timeout 60 "${command[@]}" </dev/null >"$dir/out" 3>&- &
	for _ in {1..100}; do
		[ -S "$dir/qmp" ] && break
		sleep 0.1
	done
	# What the monitor says is read until it closes the socket.
	echo '{"execute":"qmp_capabilities"}' |
		socat -t 30 - "UNIX-CONNECT:$dir/qmp,shut-none" >"$dir/qmp.out"
	wait $!
	grep -q '"GUEST_PANICKED"' "$dir/qmp.out"
	grep -q '"guest-panic"' "$dir/qmp.out"
}

@test "microvm runs a guest" {
	guest regs-pvh "" -M microvm
	passed
}

@test "four CPUs, the others asleep" {
	guest hello "" -smp 4
	passed
}

@test "code that devices write is what runs next" {
	dma
	passed
}
