#!/usr/bin/env bats
# What a guest does to virtio devices against all rules must not take the monitor down, nor leave a
# device that a reset does not cure.
# timeout: 600

bats_require_minimum_version 1.5.0
load ../guest/guest

setup() {
	declare -gA device
	disk=$BATS_TEST_TMPDIR/disk
	truncate -s 1M "$disk"
	echo "not empty" | dd of="$disk" bs=1 seek=500 conv=notrunc status=none
	device[blk]="-drive file=$disk,format=raw,if=none,id=d -device virtio-blk-pci,drive=d"
	device[net]="-netdev ${GUEST_NETDEV:-stream,id=n,server=on,addr.type=unix,addr.path=$BATS_TEST_TMPDIR/n} -device virtio-net-pci,netdev=n"
	device[console]="-chardev null,id=c -device virtio-serial-pci -device virtconsole,chardev=c"
	device[rng]="-device virtio-rng-pci"
	device[balloon]="-device virtio-balloon-pci,free-page-reporting=on"
}

# hostile DEVICE CMDLINE
hostile() {
	local options

	read -ra options <<<"${device[$1]}"
	guest hostile "dev=$1 ${GUEST_PARAMS:-} $2" "${options[@]}"
	passed
	[[ $output != *"not ok"* ]]
	[[ $output == *"0 failures"* ]]
	quiet
}

# The log tells of it, but a guest cannot fill a disk with it; sanitizers found nothing.
quiet() {
	[[ $stderr != *"runtime error"* && $stderr != *Sanitizer* ]]
	# shellcheck disable=SC2154
	[ "${#stderr_lines[@]}" -le 200 ]
}

# noise DEVICE: a few seeds; PCI around it too.
noise() {
	for seed in 1 2 3; do
		hostile "$1" "noise=3000 seed=$seed"
	done
}

@test "virtio-blk: broken rings, requests, configuration" {
	hostile blk ""
	[[ $stderr == *virtio-blk-pci* ]]
}

@test "virtio-net: broken rings, requests, configuration" {
	hostile net ""
	[[ $stderr == *virtio-net-pci* ]]
}

@test "virtio-console: broken rings, requests, configuration" {
	hostile console ""
	[[ $stderr == *virtio-serial-pci* ]]
}

@test "virtio-rng: broken rings, requests, configuration" {
	hostile rng ""
	[[ $stderr == *virtio-rng-pci* ]]
}

@test "virtio-balloon: broken rings, requests, configuration" {
	hostile balloon ""
	[[ $stderr == *virtio-balloon-pci* ]]
}

@test "virtio-blk: noise" {
	noise blk
}

@test "virtio-net: noise" {
	noise net
}

@test "virtio-console: noise" {
	noise console
}

@test "virtio-rng: noise" {
	noise rng
}

@test "virtio-balloon: noise" {
	noise balloon
}

@test "noise over all devices at once, behind root ports too" {
	local options

	read -ra options <<<"${device[blk]} ${device[net]} ${device[console]} ${device[rng]}"
	for seed in 11 12 13; do
		guest hostile "dev=rng nth=1 noise=5000 seed=$seed ${GUEST_PARAMS:-}" "${options[@]}" \
			-device pcie-root-port,id=rp,chassis=1,slot=1 -device virtio-rng-pci,bus=rp
		passed
		quiet
	done
}
