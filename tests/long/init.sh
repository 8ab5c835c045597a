#!/bin/busybox sh
# init.sh: /init of the initramfs of a Debian guest. Loads the modules, starts the processors that maxcpus=1
# left out, mounts the root disk, read-only if the disk is, puts the kit below /run and lets Debian go on with kit/init.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "$module"
done </etc/modules
for cpu in /sys/devices/system/cpu/cpu*/online; do
	[ ! -e "$cpu" ] || echo 1 >"$cpu"
done

options=rw
[ "$(cat /sys/block/vda/ro)" = 0 ] || options=ro,noload
mount -t ext4 -o $options /dev/vda /mnt || {
	echo "guest: no root disk"
	poweroff -f
}
mount -t tmpfs -o mode=755 run /mnt/run
cp -a /kit /bin/busybox /mnt/run
for dir in proc sys dev; do
	mount --move /$dir /mnt/$dir
done
exec switch_root /mnt /bin/sh /run/kit/init
