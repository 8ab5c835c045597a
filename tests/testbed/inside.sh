#!/bin/busybox sh
# inside.sh RUN: the testbed's PID 1 after init.sh; the host's files are its root. Makes the rest of a
# system, runs RUN/command with its output going to the virtio-serial ports, reports the exit status.
# On the port "status" it says two lines: "up" and, when all output is delivered, "exit N".
run=$1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,gid=5,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
hostname testbed
ip link set lo up

# port NAME: prints the device of the virtio-serial port.
port() {
	local dir

	for dir in /sys/class/virtio-ports/*; do
		if [ "$(cat "$dir/name")" = "$1" ]; then
			echo "/dev/${dir##*/}"
			return
		fi
	done
	echo "testbed: no port $1" >/dev/kmsg
	poweroff -f
}

# node NAME MAJOR MINOR: a device whose driver the kernel loads when somebody opens it.
node() {
	[ -e "/dev/$1" ] || mknod -m 666 "/dev/$1" c "$2" "$3"
}

# hold_kvm: keeps two idle VMs, so that KVM's static keys (preempt_notifier_key, apic_sw_disabled,
# kvm_has_noapic_vcpu) never change again. With the first VM, and with the last, the kernel rewrites code
# by way of breakpoints; a processor that translates such a breakpoint while another takes it away may keep
# it in TCG's cache (up to QEMU 8.0), and the kernel then returns to it for ever. That is also why the
# kernel starts with one processor: all that is rewritten at start-up is done when the others come.
hold_kvm() {
	# shellcheck disable=SC2016
	setsid perl -e '
		my ($create_vm, $create_irqchip, $create_vcpu) = (0xae01, 0xae60, 0xae41);
		open my $kvm, "+<", "/dev/kvm" or die;
		for my $irqchip (0, 1) {
			my $fd = ioctl($kvm, $create_vm, 0) or die;
			open my $vm, "+<&=", 0 + $fd or die;
			!$irqchip || ioctl($vm, $create_irqchip, 0) or die;
			ioctl($vm, $create_vcpu, 0) or die;
			push @held, $vm;
		}
		fork or sleep;' </dev/null >/dev/null 2>/dev/kmsg 3>&-
}

# last_words SECONDS: shortly before the time is up, where every thread is goes to the console, as the command
# may hang.
last_words() {
	local task

	[ "$1" -gt 60 ] || return
	sleep $(($1 - 20))
	echo 8 >/proc/sys/kernel/printk
	echo on >/proc/sys/kernel/printk_devkmsg
	for task in /proc/[0-9]*/task/*; do
		readlink "$task/exe" >/dev/null || continue
		echo "$task $(cat "$task/comm"): $(cut -d ' ' -f 3,14,15 "$task/stat") in $(cat "$task/wchan"), $(cat "$task/syscall")"
	done 2>/dev/null >/dev/kmsg
	echo w >/proc/sysrq-trigger
	echo l >/proc/sysrq-trigger
}

ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mkdir -p /dev/net /dev/vfio /dev/mapper
node net/tun 10 200
node vhost-net 10 238
node vhost-vsock 10 241
node vfio/vfio 10 196
node fuse 10 229
node loop-control 10 237
node mapper/control 10 236

. "$run/settings"
mkdir -p "/lib/modules"
ln -sfn "$modules" "/lib/modules/${modules##*/}"
if [ -n "$out" ]; then
	mkdir -p "$out"
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap out "$out"
	echo "$out/core.%e.%p" >/proc/sys/kernel/core_pattern
	ulimit -c unlimited
fi

status=$(port status)
mkfifo /run/testbed.out /run/testbed.err
cat /run/testbed.out >"$(port out)" &
cat_out=$!
cat /run/testbed.err >"$(port err)" &
cat_err=$!
exec 3>"$status"
until [ -e /dev/kvm ]; do usleep 10000; done
chmod 666 /dev/kvm
hold_kvm || echo "testbed: cannot hold KVM's code still" >/dev/kmsg
for cpu in /sys/devices/system/cpu/cpu*/online; do
	[ ! -e "$cpu" ] || echo 1 >"$cpu"
done
last_words "$timeout" </dev/null >/dev/null 2>&1 3>&- &
echo up >&3
input=/dev/null
[ -z "$stdin" ] || input=$(port in)
# The full path: busybox would take a bare sh for itself, and its own applets for the host's programs.
/bin/sh "$run/command" <"$input" >/run/testbed.out 2>/run/testbed.err 3>&-
code=$?
wait $cat_out $cat_err
sync
echo "exit $code" >&3
# run ends QEMU now.
sleep 10
poweroff -f
