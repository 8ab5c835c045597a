#!/usr/bin/env bats
# libhav: its calls on KVM, and the example as a user would run it.
# timeout: 300

bats_require_minimum_version 1.5.0

@test "every call of the API on KVM" {
	run "$BUILD/tests/integration/test_hav" kvm
	echo "$output"
	[ "$status" = 0 ]
}

@test "the example: two VMs in a process, each exit told" {
	run -0 "$BUILD/examples/two-vms"
	echo "$output"
	[[ $output == *"real mode: IO write port 0x10: 0x48"* ]]
	[[ $output == *"real mode: IO read port 0x11: 0x55"* ]]
	[[ $output == *"real mode: MMIO write 0xf0000, 1 byte(s): 0x55"* ]]
	[[ $output == *"long mode: DEBUG one step, at 0x800a"* ]]
	[[ $output == *"long mode: MMIO write 0x200000, 8 byte(s): 0x08"* ]]
	[[ $output == *"long mode: INTERRUPTED (kicked)"* ]]
	[[ $output == *"long mode: SHUTDOWN (triple fault)"* ]]
	[ "$(grep -c HLT <<<"$output")" = 2 ]
}
