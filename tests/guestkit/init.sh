#!/bin/busybox sh
# init.sh: the default /init of a guestkit guest; tests/guestkit/initramfs packs it.
# Loads the modules, starts the processors that maxcpus=N left out, says "guestkit: init" on the console, runs the scripts of /init.d in order, says
# "guestkit: done" and powers off. A script that fails ends the run: "guestkit: NAME failed (STATUS)".
# Without scripts, or with guestkit.shell on the kernel command line, it ends in a shell instead.
# guestkit.term=TERM and guestkit.size=ROWSxCOLUMNS describe the terminal for that shell.
export PATH=/bin HOME=/root TERM=linux
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
while read -r module; do
	insmod "$module"
done </etc/modules
for cpu in /sys/devices/system/cpu/cpu*/online; do
	[ ! -e "$cpu" ] || echo 1 >"$cpu"
done
echo "guestkit: init"

shell=
[ -e "$(echo /init.d/* | cut -d ' ' -f 1)" ] || shell=yes
read -r words </proc/cmdline
for word in $words; do
	case $word in
	guestkit.shell) shell=yes ;;
	guestkit.term=*) TERM=${word#*=} ;;
	guestkit.size=*x*)
		size=${word#*=}
		stty rows "${size%x*}" cols "${size#*x}" </dev/console
		;;
	esac
done
if [ -n "$shell" ]; then
	cd /root
	setsid cttyhack sh
	poweroff -f
fi

for script in /init.d/*; do
	sh "$script"
	status=$?
	if [ $status != 0 ]; then
		echo "guestkit: ${script##*/} failed ($status)"
		poweroff -f
	fi
done
echo "guestkit: done"
poweroff -f
