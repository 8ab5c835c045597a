#!/bin/busybox sh
# init.sh: the default /init of a guestkit guest; tests/guestkit/initramfs packs it.
# Loads the modules, says so on the console, runs the scripts of /init.d in order, powers off.
# A script that fails ends the run: "guestkit: NAME failed (STATUS)". Without scripts: a shell.
export PATH=/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do
	insmod "$module"
done </etc/modules
echo "guestkit: init"

for script in /init.d/*; do
	[ -e "$script" ] || exec sh -c 'setsid cttyhack sh; poweroff -f'
	sh "$script"
	status=$?
	if [ $status != 0 ]; then
		echo "guestkit: ${script##*/} failed ($status)"
		poweroff -f
	fi
done
echo "guestkit: done"
poweroff -f
