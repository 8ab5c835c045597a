#!/bin/busybox sh
# init.sh: /init of the testbed's initramfs. Mounts the host's root, read-only over 9p, below an
# overlay whose writable side is a tmpfs, and hands over to inside.sh there. KVM, which takes longest to
# load, is loaded meanwhile by a process that stays in the initramfs; so that is not emptied.
# tests/testbed/run passes on the kernel command line, in base64 because paths may contain anything:
#	testbed.run=	the folder of this run, on the host and therefore inside too
#	testbed.kit=	the folder of this file
mount -t proc proc /proc
mount -t devtmpfs dev /dev

kvm=
while read -r module; do
	case ${module##*/} in
	ccp.ko | irqbypass.ko | kvm.ko | kvm-amd.ko) kvm="$kvm $module" ;;
	*) insmod "$module" ;;
	esac
done </etc/modules
# On a busy machine the kernel refines its first idea of the TSC's rate long after KVM has taken it over. KVM then
# finds the rate of new guests out of its tolerance and, having nothing to scale it with, makes their TSC stand
# still for its own purposes: timers never end.
for module in $kvm; do
	case $module in
	*/kvm.ko) insmod "$module" tsc_tolerance_ppm=500000 ;;
	*) insmod "$module" ;;
	esac
done &

mkdir /lower /rw
mount -t tmpfs -o size=90%,mode=755 rw /rw
mkdir /rw/upper /rw/work
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower || poweroff -f
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work root /mnt || poweroff -f
mount -t proc proc /mnt/proc
mount -t devtmpfs dev /mnt/dev

read -r words </proc/cmdline
for word in $words; do
	case $word in
	testbed.run=*) run=$(echo "${word#*=}" | base64 -d) ;;
	testbed.kit=*) kit=$(echo "${word#*=}" | base64 -d) ;;
	esac
done
cd /mnt || poweroff -f
mount --move . /
exec chroot . /bin/busybox sh "$kit/inside.sh" "$run"
