#!/bin/busybox sh
# init.sh: /init of the testbed's initramfs. Mounts the host's root, read-only over 9p, below an
# overlay whose writable side is a tmpfs, mounts what a system has, and hands over to inside.sh there.
# tests/testbed/run passes on the kernel command line, in base64 because paths may contain anything:
#	testbed.run=	the folder of this run, on the host and therefore inside too
#	testbed.kit=	the folder of this file
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "$module"
done </etc/modules

root=/mnt
mkdir /lower /rw
mount -t tmpfs -o size=90%,mode=755 rw /rw
mkdir /rw/upper /rw/work
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower || poweroff -f
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root $root || poweroff -f

for word in $(cat /proc/cmdline); do
	case $word in
	testbed.run=*) run=$(echo "${word#*=}" | base64 -d) ;;
	testbed.kit=*) kit=$(echo "${word#*=}" | base64 -d) ;;
	esac
done
mount --move /proc $root/proc
mount --move /dev $root/dev
exec switch_root $root /bin/busybox sh "$kit/inside.sh" "$run"
