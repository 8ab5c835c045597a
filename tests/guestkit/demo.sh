#!/bin/busybox sh
# demo.sh: what the guest of `make run` does when nobody sits at a terminal: shows itself, tries its disk.
set -e
uname -a
grep -m1 'model name' /proc/cpuinfo
echo "processors: $(grep -c ^processor /proc/cpuinfo), memory: $(awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MB"

echo "PCI devices:"
for dev in /sys/bus/pci/devices/*; do
	driver=
	[ ! -e "$dev/driver" ] || driver=$(basename "$(readlink "$dev/driver")")
	read -r vendor <"$dev/vendor"
	read -r device <"$dev/device"
	read -r class <"$dev/class"
	echo "  ${dev##*/} ${vendor#0x}:${device#0x} class ${class#0x} $driver"
done

mount -t tmpfs tmp /tmp
dd if=/dev/urandom of=/tmp/written bs=1M count=8 2>/dev/null
dd if=/tmp/written of=/dev/vda bs=1M seek=16 conv=fsync 2>/dev/null
echo 3 >/proc/sys/vm/drop_caches
dd if=/dev/vda of=/tmp/read bs=1M skip=16 count=8 iflag=direct 2>/dev/null
cmp /tmp/written /tmp/read
echo "disk: $(($(cat /sys/block/vda/size) / 2048)) MB, 8 MB written and read back"
