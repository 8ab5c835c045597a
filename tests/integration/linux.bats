#!/usr/bin/env bats
# A real Linux as guest: it boots by each way in, finds its devices working, and leaves by each way out.
# prepare: tests/integration/linux-kit
# timeout: 600
# testbed: --memory 3G

bats_require_minimum_version 1.5.0
load linux

setup_file() {
	linux_kit
}

teardown() {
	local link

	for link in revtest0 revdummy; do
		ip link del $link 2>/dev/null || true
	done
	linux_teardown
}

@test "bzImage boots to init and powers off" {
	linux 'uname -m; grep -c ^processor /proc/cpuinfo; dmesg | grep -i hypervisor'
	fine
	[[ $output == *x86_64*"Hypervisor detected: KVM"* ]]
}

@test "vmlinux boots by PVH, with four CPUs" {
	linux_image=vmlinux
	linux 'echo cpus $(grep -c ^processor /proc/cpuinfo)' -smp 4
	fine
	[[ $output == *"cpus 4"* ]]
}

@test "four CPUs in the topology asked for" {
	linux 'cd /sys/devices/system/cpu; echo cpus $(grep -c ^processor /proc/cpuinfo)
		cat cpu*/topology/core_cpus_list cpu*/topology/physical_package_id | tr "\n" " "
		taskset 8 cat /proc/self/stat >/dev/null' -smp 4,sockets=2,cores=2
	fine
	[[ $output == *"cpus 4"*"0 1 2 3 0 0 1 1"* ]]
}

@test "microvm, both kernels, with a disk" {
	linux_machine=(-M microvm)
	echo microdisk >"$dir/disk"
	truncate -s 1M "$dir/disk"
	for linux_image in vmlinuz vmlinux; do
		linux 'head -n 1 /dev/vda; echo cpus $(grep -c ^processor /proc/cpuinfo)' -smp 4 \
			-drive "file=$dir/disk,format=raw,if=none,id=d" -device virtio-blk-pci,drive=d
		fine
		[[ $output == *microdisk*"cpus 4"* ]]
	done
}

@test "3 GiB of memory, around the hole" {
	linux 'grep MemTotal /proc/meminfo; dd if=/dev/zero of=/tmp/x bs=1M count=32 2>/dev/null; dmesg | grep BIOS-e820' -m 3G
	fine
	[[ $output =~ MemTotal:\ +([0-9]+)\ kB ]]
	[ "${BASH_REMATCH[1]}" -gt 2900000 ]
	[[ $output == *"0x0000000100000000-0x000000013fffffff] usable"* ]]
}

@test "virtio-blk: read, write, flush, discard, serial, queues, I/O thread" {
	truncate -s 8M "$dir/a" "$dir/b"
	echo "read this" | dd of="$dir/b" conv=notrunc status=none
	yes full | head -c 8M >"$dir/c"
	linux 'for d in a b c; do echo $d $(cat /sys/block/vd$d/serial) $(cat /sys/block/vd$d/size) $(ls /sys/block/vd$d/mq | wc -l) $(cat /sys/block/vd$d/ro); done
		head -n 1 /dev/vdb
		! echo no | dd of=/dev/vdb conv=fsync 2>/dev/null
		dd if=/dev/urandom of=/tmp/x bs=64k count=48 2>/dev/null; dd if=/tmp/x of=/dev/vda bs=64k seek=1 oflag=direct 2>/dev/null; sync
		echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k skip=1 count=48 iflag=direct 2>/dev/null | cmp - /tmp/x
		sha1sum /tmp/x; blkdiscard -o 1048576 -l 2097152 /dev/vdc; sync' -smp 2 -object iothread,id=t \
		-drive "file=$dir/a,format=raw,if=none,id=a" -device virtio-blk-pci,drive=a,serial=first-disk,num-queues=2,iothread=t \
		-drive "file=$dir/b,format=raw,if=none,id=b,readonly=on" -device virtio-blk-pci,drive=b,serial=second \
		-drive "file=$dir/c,format=raw,if=none,id=c,discard=unmap" -device virtio-blk-pci,drive=c
	fine
	[[ $output == *"a first-disk 16384 2 0"*"b second 16384 "*" 1"*"read this"* ]]
	sum=$(dd if="$dir/a" bs=64k skip=1 count=48 status=none | sha1sum | cut -d ' ' -f 1)
	[[ $output == *"$sum"* ]]
	[ "$(dd if="$dir/c" bs=1M skip=1 count=2 status=none | tr -d '\0' | wc -c)" = 0 ]
	[ "$(dd if="$dir/c" bs=1M count=1 status=none | tr -d '\0' | wc -c)" = 1048576 ]
	[ "$(dd if="$dir/c" bs=1M skip=3 status=none | tr -d '\0' | wc -c)" = $((5 << 20)) ]
}

@test "-hda and -drive if=virtio are disks" {
	echo "one" >"$dir/a"
	echo "two" >"$dir/b"
	truncate -s 1M "$dir/a" "$dir/b"
	linux 'head -n 1 /dev/vda; head -n 1 /dev/vdb' -drive "file=$dir/a,format=raw,if=virtio" \
		-drive "file=$dir/b,format=raw,if=virtio"
	fine
	[[ $output == *one*two* ]]
}

@test "a disk and entropy behind root ports" {
	echo "behind" >"$dir/a"
	truncate -s 1M "$dir/a"
	linux 'head -n 1 /dev/vda; readlink /sys/block/vda/device; cat /sys/class/misc/hw_random/rng_current
		head -c 64 /dev/hwrng | wc -c; ls /sys/bus/pci/devices | tr "\n" " "' \
		-device pcie-root-port,id=r1,chassis=1,slot=1 -device pcie-root-port,id=r2,chassis=2,slot=2 \
		-drive "file=$dir/a,format=raw,if=none,id=a" -device virtio-blk-pci,drive=a,bus=r1 \
		-device virtio-rng-pci,bus=r2
	fine
	[[ $output == *behind*virtio_rng*64*"0000:01:00.0 0000:02:00.0"* ]]
}

@test "virtio-rng from a file, at a rate" {
	yes seed | head -c 64k >"$dir/source"
	linux 'cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=64 count=1 2>/dev/null | tr -d "\n" | head -c 20' \
		-object "rng-random,id=r,filename=$dir/source" -device virtio-rng-pci,rng=r,max-bytes=1024,period=100
	fine
	[[ $output == *virtio_rng*seed* ]]
}

@test "virtconsole echoes; virtserialport carries data both ways" {
	linux_start 'for p in /sys/class/virtio-ports/*; do ! grep -qs org.test $p/name || port=/dev/${p##*/}; done
		stty -F /dev/hvc0 raw -echo
		(until read -r line </dev/hvc0; do sleep 0.2; done; echo "heard $line" >/dev/hvc0) &
		echo ready; exec 4<>$port; until read -r line <&4; do sleep 0.2; done; echo "port said $line"; echo "answer to $line" >&4
		head -c 300000 <&4 | sha1sum >/tmp/sum; cat /tmp/sum; cat /tmp/sum >&4; wait; sleep 1' \
		-device virtio-serial-pci \
		-chardev "socket,id=c,path=$dir/console.sock,server=on,wait=off" -device virtconsole,chardev=c \
		-chardev "socket,id=p,path=$dir/port.sock,server=on,wait=off" -device virtserialport,chardev=p,name=org.test
	linux_await ready
	head -c 300000 /dev/urandom >"$dir/data"
	{ sleep 0.5; echo hello; sleep 60; } | timeout 90 socat -t 5 - "UNIX-CONNECT:$dir/console.sock" >"$dir/hvc" &
	helpers+=($!)
	{ echo greetings; sleep 1; cat "$dir/data"; sleep 60; } | timeout 90 socat -t 20 - "UNIX-CONNECT:$dir/port.sock" >"$dir/port" &
	helpers+=($!)
	linux_wait
	fine
	[[ $output == *"port said greetings"* ]]
	grep -q "heard hello" "$dir/hvc"
	grep -q "answer to greetings" "$dir/port"
	grep -q "$(sha1sum <"$dir/data" | cut -d ' ' -f 1)" "$dir/port"
}

@test "virtio-net over tap: ping and bulk both ways" {
	modprobe tun 2>/dev/null || true
	ip tuntap add dev revtest0 mode tap vnet_hdr
	ip addr add 10.9.8.1/24 dev revtest0
	ip link set revtest0 up
	head -c 4M /dev/urandom >"$dir/data"
	(cd "$dir" && exec timeout 300 busybox httpd -f -p 10.9.8.1:8000) 3>&- &
	helpers+=($!)
	linux_start 'ip link set eth0 up; ip addr add 10.9.8.2/24 dev eth0; cat /sys/class/net/eth0/address
		ping -c 3 -W 5 10.9.8.1; wget -q -O /tmp/x http://10.9.8.1:8000/data; sha1sum /tmp/x; timeout 60 nc -l -p 9000 -e cat /tmp/x' \
		-netdev tap,id=n,ifname=revtest0,script=no,downscript=no -device virtio-net-pci,netdev=n,mac=52:54:00:aa:bb:cc
	linux_await "$(sha1sum <"$dir/data" | cut -d ' ' -f 1)"
	for _ in {1..20}; do
		timeout 20 socat -u TCP:10.9.8.2:9000 "CREATE:$dir/back" && [ -s "$dir/back" ] && break
		sleep 0.2
	done
	linux_wait
	fine
	[[ $output == *52:54:00:aa:bb:cc*"3 packets received"* ]]
	cmp "$dir/data" "$dir/back"
}

# user_net ADDRESS GATEWAY: a web server that both of passt's ways lead to, and what the guest does with it.
user_net() {
	head -c 2M /dev/urandom >"$dir/data"
	ip link add revdummy type dummy
	ip addr add 10.6.5.4/24 dev revdummy
	ip link set revdummy up
	ip route add default via 10.6.5.1 dev revdummy
	(cd "$dir" && exec timeout 300 busybox httpd -f -p 8000) 3>&- &
	helpers+=($!)
	user_script="ip link set eth0 up; udhcpc -i eth0 -n -q -f -t 5 -s /bin/true
		ip addr add $1/24 dev eth0; ip route add default via $2
		wget -q -O /tmp/x http://$2:8000/data; sha1sum /tmp/x"
}

user_net_done() {
	fine
	[[ $output == *"lease of $1 obtained"*"$(sha1sum <"$dir/data" | cut -d ' ' -f 1)"* ]]
}

@test "virtio-net over passt: -netdev user" {
	user_net 10.0.2.15 10.0.2.2
	linux "$user_script" -netdev user,id=n -device virtio-net-pci,netdev=n
	user_net_done 10.0.2.15
	! pgrep -x passt
}

@test "virtio-net over passt: -netdev stream" {
	user_net 10.6.5.4 10.6.5.1
	timeout 300 passt -f -q --runas 0 -s "$dir/passt.sock" 3>&- &
	helpers+=($!)
	for _ in {1..300}; do
		[ -S "$dir/passt.sock" ] && break
		sleep 0.1
	done
	linux "$user_script" -netdev "stream,id=n,server=off,addr.type=unix,addr.path=$dir/passt.sock" \
		-device virtio-net-pci,netdev=n
	user_net_done 10.6.5.4
}

# reboots PATH: with -no-reboot the guest's way to reboot ends the machine.
reboots() {
	linux_append="reboot=$1"
	linux 'echo "reboot by $(cat /sys/kernel/reboot/type)"; reboot -f; sleep 30' -no-reboot
	echo "$output"
	[ "$status" = 0 ]
	[ -z "$stderr" ]
	[[ $output == *"# start"* && $output != *"# f"* ]]
}

@test "reboot by ACPI, keyboard controller, triple fault, PCI" {
	for path in acpi kbd triple pci; do
		reboots $path
	done
}

@test "a reboot starts the guest anew, with its disk as it left it" {
	truncate -s 1M "$dir/disk"
	linux 'read -r n </dev/vda || true; n=$((${n:-0} + 1)); echo "start $n"; echo $n | dd of=/dev/vda conv=fsync 2>/dev/null
		[ $n -ge 3 ] || reboot -f' \
		-drive "file=$dir/disk,format=raw,if=none,id=d" -device virtio-blk-pci,drive=d
	fine
	[[ $output == *"start 1"*"start 2"*"start 3"* ]]
}
