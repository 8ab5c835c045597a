#!/usr/bin/env bats
# Code that devices write must be what runs next, on the software backend; guests.bats has the same on KVM.
# timeout: 300

bats_require_minimum_version 1.5.0
load ../guest/guest
# shellcheck disable=SC2034 # guest.bash takes it
vmm=${GUEST_VMM:-$build/revirter -accel soft}

@test "code that a disk, an entropy source and a balloon write over" {
	dma
	passed
}

@test "the same with two processors, the other asleep" {
	dma -smp 2
	passed
}
