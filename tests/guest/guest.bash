# guest.bash: for .bats files that run the guests of tests/guest.
#
#	guest NAME CMDLINE [OPTION…]	runs it: $status, $output (the guest's console), $stderr (the monitor's)
#	dma [OPTION…]			the guest dma with the devices that it needs
#	passed				it ended with its own verdict, PASS
#
# GUEST_VMM is the monitor, with options: build/revirter here, any other that speaks QEMU's dialect elsewhere
# (GUEST_VMM='qemu-system-x86_64 -accel tcg' tells what the guests themselves are worth). GUEST_SECONDS is
# how long one may take.
# shellcheck shell=bash

build=${BUILD:-$BATS_TEST_DIRNAME/../../build}
vmm=${GUEST_VMM:-$build/revirter}
guests=$build/tests/guest

# guest_command NAME CMDLINE [OPTION…]: the command line, in $command.
guest_command() {
	local name=$1 cmdline=$2

	shift 2
	read -ra command <<<"$vmm"
	command+=(-nodefaults -display none -serial stdio -monitor none -M q35 -m 64
		-device isa-debug-exit -kernel "$guests/$name" -append "$cmdline" "$@")
}

guest() {
	guest_command "$@"
	run --separate-stderr timeout -k 5 "${GUEST_SECONDS:-120}" "${command[@]}" </dev/null
}

dma() {
	truncate -s 1M "$BATS_TEST_TMPDIR/disk"
	guest dma "" -drive "file=$BATS_TEST_TMPDIR/disk,format=raw,if=none,id=d" -device virtio-blk-pci,drive=d \
		-device virtio-rng-pci -device virtio-balloon-pci "$@"
}

# shellcheck disable=SC2154 # what run sets
passed() {
	[ "$status" = 3 ] && [[ $output == *PASS* ]] && return
	echo "status $status" >&2
	echo "$output" | tail -n 40 >&2
	echo "$stderr" | tail -n 40 >&2
	return 1
}
