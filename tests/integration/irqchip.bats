#!/usr/bin/env bats
# Interrupt controllers and timers that are not the kernel's, on a real KVM: all of them
# (kernel-irqchip=off), or all but the local APICs (split).
# prepare: tests/integration/linux-kit
# timeout: 600
# testbed: --memory 3G

bats_require_minimum_version 1.5.0
load linux

setup_file() {
	linux_kit
}

setup() {
	echo diskdata >"$dir/disk"
	truncate -s 1M "$dir/disk"
	disk=(-drive "file=$dir/disk,format=raw,if=none,id=d" -device "virtio-blk-pci,drive=d")
}

teardown() {
	ip link del revtest0 2>/dev/null || true
	linux_teardown
}

# boots KIND CPUS: to init, with a disk.
boots() {
	linux_machine=(-M "q35,kernel-irqchip=$1")
	linux 'head -n 1 /dev/vda; echo cpus $(grep -c ^processor /proc/cpuinfo); dd if=/dev/vda of=/dev/null bs=4k 2>/dev/null
		cat /proc/interrupts; dmesg | grep -i hpet' -smp "$2" "${disk[@]}"
	fine
	[[ $output == *diskdata*"cpus $2"*IO-APIC*"ACPI: HPET"*"3 comparators"* ]]
}

@test "kernel-irqchip=off: 1 and 4 CPUs" {
	for cpus in 1 4; do
		boots off $cpus
	done
}

@test "kernel-irqchip=split: 1 and 4 CPUs" {
	for cpus in 1 4; do
		boots split $cpus
	done
}

# in_mode WORDS [OPTION…]: a guest with these words on its command line.
in_mode() {
	linux_machine=(-M "q35,kernel-irqchip=off")
	linux_append=$1
	shift
	linux 'cat /proc/interrupts; dmesg | grep -i apic; sleep 1' "$@"
	fine
}

@test "xAPIC, one-shot timer, PICs alone: what Linux can be told to use" {
	in_mode "" -smp 2
	[[ $output == *"x2apic enabled"* ]]
	in_mode nox2apic -smp 2
	[[ $output != *"x2apic enabled"* ]]
	in_mode lapic=notscdeadline
	in_mode "lapic=notscdeadline nohz=off highres=off"
	in_mode noapic
	[[ $output == *XT-PIC* ]]
	in_mode "noapic nolapic"
	[[ $output == *XT-PIC* ]]
	in_mode "noapic nolapic" -no-hpet
}

@test "a backend without any short cuts" {
	linux_machine=(-M q35)
	linux 'head -n 1 /dev/vda; cat /sys/devices/system/clocksource/clocksource0/available_clocksource' \
		-smp 2 -accel kvm,kernel-irqchip=off,x-plain=on "${disk[@]}"
	fine
	[[ $output == *diskdata* && $output != *kvm-clock* ]]
}

@test "microvm, and level-triggered interrupts" {
	for irqchip in off split; do
		linux_machine=(-M "microvm,kernel-irqchip=$irqchip")
		linux 'head -n 1 /dev/vda' -smp 2 "${disk[@]}"
		fine
		[[ $output == *diskdata* ]]
		linux_machine=(-M "q35,kernel-irqchip=$irqchip") linux_append=pci=nomsi
		linux 'head -n 1 /dev/vda; dd if=/dev/vda of=/dev/null bs=4k 2>/dev/null; grep virtio /proc/interrupts' -smp 2 "${disk[@]}"
		fine
		[[ $output == *diskdata*fasteoi* ]]
		linux_append=
	done
}

@test "virtio-net over tap" {
	modprobe tun 2>/dev/null || true
	ip tuntap add dev revtest0 mode tap vnet_hdr
	ip addr add 10.9.8.1/24 dev revtest0
	ip link set revtest0 up
	head -c 2M /dev/urandom >"$dir/data"
	(cd "$dir" && exec timeout 300 busybox httpd -f -p 10.9.8.1:8000) 3>&- &
	helpers+=($!)
	for irqchip in off split; do
		linux_machine=(-M "q35,kernel-irqchip=$irqchip")
		linux 'ip link set eth0 up; ip addr add 10.9.8.2/24 dev eth0; ping -c 3 -W 5 10.9.8.1
			wget -q -O /tmp/x http://10.9.8.1:8000/data; sha1sum /tmp/x' -smp 2 \
			-netdev tap,id=n,ifname=revtest0,script=no,downscript=no -device virtio-net-pci,netdev=n
		fine
		[[ $output == *"3 packets received"*"$(sha1sum <"$dir/data" | cut -d ' ' -f 1)"* ]]
	done
}

@test "reboots, with two CPUs" {
	for irqchip in off split; do
		truncate -s 0 "$dir/disk"
		truncate -s 1M "$dir/disk"
		linux_machine=(-M "q35,kernel-irqchip=$irqchip")
		linux 'read -r n </dev/vda || true; n=$((${n:-0} + 1)); echo "start $n"; echo $n | dd of=/dev/vda conv=fsync 2>/dev/null
			[ $n -ge 3 ] || reboot -f' -smp 2 "${disk[@]}"
		fine
		[[ $output == *"start 1"*"start 2"*"start 3"* ]]
	done
}

# ticks PID: what it has used of processors, in hundredths of a second.
ticks() {
	awk '{ print $14 + $15 }' "/proc/$1/stat"
}

# idles KIND: what an idle guest uses in 15 seconds, in $used.
idles() {
	local before pid

	linux_machine=(-M "q35,kernel-irqchip=$1")
	linux_start 'echo idle; sleep 25' -smp 2
	linux_await idle
	pid=$(pgrep -P "$vm")
	sleep 4
	before=$(ticks "$pid")
	sleep 15
	used=$(($(ticks "$pid") - before))
	echo "$1: $used of 1500"
	linux_wait
	fine
}

# On an emulated processor, as in the testbed, each system call is some 30 times as dear: there what the
# kernel's own controllers take is the measure.
@test "an idle guest uses under 2 % of a processor" {
	[ -n "${MEASURE:-}" ] || skip "a measurement, for calm machines: MEASURE=1"
	local limit=30

	if [ "$(hostname)" = testbed ]; then
		idles on
		limit=$((30 + 4 * used))
	fi
	for irqchip in off split; do
		idles $irqchip
		[ "$used" -lt $limit ]
	done
}

# tell COMMAND: by QMP, without Python, whose start alone takes seconds here.
tell() {
	local line

	coproc QMP { exec timeout 60 socat - "UNIX-CONNECT:$dir/qmp" 3>&-; }
	printf '{"execute":"%s"}\n' qmp_capabilities "$1" >&"${QMP[1]}"
	for _ in 1 2; do
		until read -r -t 60 line <&"${QMP[0]}" && [[ $line == *'"return"'* ]]; do
			[ -n "$line" ] || return 1
		done
	done
	kill "$QMP_PID" 2>/dev/null || true
	wait "$QMP_PID" 2>/dev/null || true
}

beats() {
	grep -c beat "$dir/console"
}

@test "time stands still while the VM does" {
	local n

	for irqchip in off split; do
		linux_machine=(-M "q35,kernel-irqchip=$irqchip")
		linux_start 'i=0; while [ $i -lt 300 ]; do i=$((i + 1)); echo "beat $i"; sleep 1; done' -smp 2 \
			-qmp "unix:$dir/qmp,server=on,wait=off"
		linux_await "beat 2"
		tell stop
		n=$(beats)
		sleep 5
		[ "$(beats)" = "$n" ]
		tell cont
		linux_await "beat $((n + 2))"
		# Beats that were missed are not made up for.
		[ "$(beats)" -lt $((n + 5)) ]
		tell quit
		linux_wait
		[ -z "$stderr" ]
	done
}
