#!/usr/bin/env bats
# What users get wrong: each mistake is answered by one line that says what, where and what would work,
# with exit status 1, and leaves nothing behind: no file, no process, no core, no network interface.
# timeout: 300

bats_require_minimum_version 1.5.0

build=$(realpath -m "${BUILD:-$BATS_TEST_DIRNAME/../../build}")
revirter=$build/revirter
guest=$build/tests/guest/ports
common=(-accel soft -nodefaults -display none -m 64)

# A folder of its own, and a mark by which what is started there can be told, wherever it went.
setup() {
	mark=MISTAKE=$BATS_TEST_TMPDIR
	mkdir "$BATS_TEST_TMPDIR/here"
	cd "$BATS_TEST_TMPDIR/here" || return
	truncate -s 1M disk
	ulimit -c unlimited
}

# ours: the processes that this test started, but for timeouts.
ours() {
	local file

	for file in $(grep -lsz "^$mark\$" /proc/[0-9]*/environ); do
		file=${file%environ}
		[[ $(readlink "$file/exe") != */revirter ]] || basename "$file"
	done
}

# none_left: within a moment, as the child that tidies up is the last to go.
none_left() {
	for _ in {1..50}; do
		[ -n "$(ours)" ] || return 0
		sleep 0.1
	done
	echo "still there: $(ours)"
	return 1
}

teardown() {
	local pid

	for pid in $(ours); do
		kill -KILL "$pid" 2>/dev/null || true
	done
	[ -z "${other:-}" ] || kill "$other" 2>/dev/null || true
}

what_there_is() {
	find . -printf '%p %y\n' | sort
}

# refused PATTERN WORD…: revirter with these words says one line that the glob PATTERN matches.
refused() {
	local pattern=$1 before

	shift
	before=$(what_there_is)
	run --separate-stderr env "$mark" timeout -k 5 20 "${wrap[@]}" "$revirter" "${common[@]}" "$@" </dev/null
	# shellcheck disable=SC2154 # run sets it
	echo "status $status: $stderr"
	[ "$status" = 1 ]
	[ -z "$output" ]
	# shellcheck disable=SC2154
	[ "${#stderr_lines[@]}" = 1 ]
	# shellcheck disable=SC2053
	[[ $stderr == "revirter: "$pattern ]]
	[ -n "${vm:-}" ] || none_left
	[ "$(what_there_is)" = "$before" ]
}

# refused_vm PATTERN WORD…: the same with a kernel that would run.
refused_vm() {
	local pattern=$1

	shift
	refused "$pattern" -kernel "$guest" -append wait=button "$@"
}

# start WORD…: a machine that runs until it is told to end; sets $vm.
start() {
	env "$mark" timeout -k 5 60 "$revirter" "${common[@]}" -kernel "$guest" -append wait=button -serial file:started "$@" \
		</dev/null 2>err 3>&- &
	vm=$!
	for _ in {1..300}; do
		! grep -qs waiting started || return 0
		kill -0 "$vm" 2>/dev/null || break
		sleep 0.1
	done
	cat err
	return 1
}

# stop SIGNAL: all that was started, by its own process ids.
stop() {
	local pid

	for pid in $(ours); do
		[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = revirter-tidy ] || kill "-$1" "$pid" 2>/dev/null || true
	done
	wait "$vm" || true
	vm=
}

wrap=()

# --- What is booted

@test "no kernel at all" {
	refused "nothing to boot*-kernel FILE*"
}

@test "a missing kernel" {
	refused "-kernel: cannot open 'missing': No such file or directory" -kernel missing
}

@test "a directory as kernel" {
	refused "kernel '.' is a directory: give a regular file" -kernel .
}

@test "a device as kernel" {
	refused "kernel '/dev/zero' is a device or pipe: give a regular file" -kernel /dev/zero
}

@test "a text file as kernel" {
	yes "this is no kernel" | head -n 1000 >text
	refused "kernel 'text' is not a kernel: give a bzImage*" -kernel text
}

@test "an empty kernel" {
	: >empty
	refused "kernel 'empty' is empty*" -kernel empty
}

# bzimage SIZE: the header of a kernel with 8000 paragraphs behind its five sectors, in SIZE bytes.
bzimage() {
	truncate -s "$1" bz
	printf '\x04' | dd of=bz bs=1 seek=$((0x1f1)) conv=notrunc status=none
	printf '\x40\x1f\x00\x00' | dd of=bz bs=1 seek=$((0x1f4)) conv=notrunc status=none
	printf '\x55\xaa\xeb\x66HdrS\x0f\x02' | dd of=bz bs=1 seek=$((0x1fe)) conv=notrunc status=none
	printf '\x01' | dd of=bz bs=1 seek=$((0x211)) conv=notrunc status=none
	printf '\x03\x00' | dd of=bz bs=1 seek=$((0x236)) conv=notrunc status=none
}

@test "a truncated bzImage" {
	bzimage 20000
	refused "kernel 'bz' is truncated: *20000*" -kernel bz
}

@test "a missing initrd" {
	refused_vm "-initrd: cannot open 'missing': No such file or directory" -initrd missing
}

@test "-append and -initrd without -kernel" {
	refused "-append: only with -kernel*" -append x
	refused "-initrd: only with -kernel*" -initrd disk
}

# --- Disks

@test "a missing disk" {
	refused_vm "-drive d: cannot open 'missing': No such file or directory" \
		-drive file=missing,format=raw,if=none,id=d
}

@test "a directory as disk" {
	refused_vm "-drive d: cannot open '.': Is a directory" -drive file=.,format=raw,if=none,id=d
}

@test "a read-only disk opened for writing" {
	chmod 444 disk
	# Permission bits do not bind root, as long as it has this capability.
	[ "$(id -u)" != 0 ] || wrap=(setpriv --inh-caps=-dac_override --bounding-set=-dac_override)
	refused_vm "-drive d: cannot open 'disk' for writing (read-only=on *): Permission denied" \
		-drive file=disk,format=raw,if=none,id=d
}

@test "a disk on a read-only file system" {
	[ "$(id -u)" = 0 ] || skip "mounts"
	mkdir ro
	: >ro/disk
	# shellcheck disable=SC2016
	wrap=(unshare -m sh -c 'mount --bind ro ro && mount -o remount,bind,ro ro && exec "$@"' sh)
	refused_vm "-drive d: cannot open 'ro/disk' for writing (read-only=on *): Read-only file system" \
		-drive file=ro/disk,format=raw,if=none,id=d
}

@test "a format that there is not" {
	refused_vm "-drive d: format 'qcow2' is not supported; supported: raw" \
		-drive file=disk,format=qcow2,if=none,id=d
}

@test "a disk locked by another revirter" {
	start -drive file=disk,format=raw,if=none,id=d -device virtio-blk-pci,drive=d
	run --separate-stderr env "$mark" timeout -k 5 20 "$revirter" "${common[@]}" -kernel "$guest" \
		-drive file=disk,format=raw,if=none,id=x -device virtio-blk-pci,drive=x </dev/null
	echo "$stderr"
	[ "$status" = 1 ]
	[ "${#stderr_lines[@]}" = 1 ]
	[[ $stderr == *"'disk'"* && $stderr == *"lock"* ]]
	stop TERM
	none_left
}

@test "a disk in use by two readers" {
	start -drive file=disk,format=raw,if=none,id=d,readonly=on -device virtio-blk-pci,drive=d
	# A second reader is let in: it comes as far as the mistake behind it.
	run --separate-stderr env "$mark" timeout -k 5 20 "$revirter" "${common[@]}" -kernel "$guest" \
		-drive file=disk,format=raw,if=none,id=x,readonly=on -device virtio-blk-pci,drive=x \
		-device virtio-rng-pci,bus=none </dev/null
	echo "$stderr"
	[[ $stderr == *"no PCI bus 'none'"* ]]
	# A writer is not.
	run --separate-stderr env "$mark" timeout -k 5 20 "$revirter" "${common[@]}" -kernel "$guest" \
		-drive file=disk,format=raw,if=none,id=x -device virtio-blk-pci,drive=x </dev/null
	[ "$status" = 1 ]
	[[ $stderr == *"'disk'"* && $stderr == *"lock"* ]]
	stop TERM
}

@test "a disk locked by QEMU" {
	qemu-system-x86_64 -accel tcg -nodefaults -display none -S -m 16 -daemonize -pidfile qemu.pid \
		-drive file=disk,format=raw,if=none,id=d -device virtio-blk-pci,drive=d 3>&-
	other=$(cat qemu.pid)
	refused_vm "*'disk'*lock*" -drive file=disk,format=raw,if=none,id=d -device virtio-blk-pci,drive=d
}

@test "a disk locked by qemu-io, and QEMU kept from ours" {
	mkfifo words
	qemu-io -f raw disk <words >answers 3>&- &
	other=$!
	exec 7>words
	echo "write 0 4k" >&7
	for _ in {1..100}; do
		! grep -q wrote answers || break
		sleep 0.1
	done
	refused_vm "*'disk'*lock*" -drive file=disk,format=raw,if=none,id=d -device virtio-blk-pci,drive=d
	exec 7>&-
	wait "$other"
	other=
	start -drive file=disk,format=raw,if=none,id=d -device virtio-blk-pci,drive=d
	run qemu-io -f raw -c "write 0 4k" disk
	[ "$status" != 0 ]
	[[ $output == *"lock"* ]]
	stop TERM
}

@test "a drive used twice" {
	refused_vm "-device virtio-blk-pci: drive 'a' is already used by *" \
		-drive file=disk,format=raw,if=none,id=a \
		-device virtio-blk-pci,drive=a -device virtio-blk-pci,drive=a
}

@test "a file that is two disks" {
	refused_vm "*'disk'*share-rw=on*" \
		-drive file=disk,format=raw,if=none,id=a -device virtio-blk-pci,drive=a \
		-drive file=disk,format=raw,if=none,id=b -device virtio-blk-pci,drive=b
}

# --- Memory and processors

@test "0 bytes of memory" {
	refused_vm "-m: 0 bytes of memory; from 1M to *" -m 0
}

@test "memory beyond all bounds" {
	refused_vm "-m: *from 1M to *" -m 1000T
	refused_vm "-m: *is not a size*" -m 99999999999999999999
	refused_vm "-m: *is not a size*" -m -1
	refused_vm "-m: *is not a size*" -m much
}

@test "memory larger than the host can map" {
	wrap=(prlimit --as=1073741824)
	refused_vm "*memory*" -m 8G
}

@test "1000 vCPUs" {
	refused_vm "-smp: 1000 CPUs; from 1 to 64 are possible" -smp 1000
}

@test "a topology that is none" {
	refused_vm "-smp: *are not 4 CPUs*" -smp 4,sockets=3
	refused_vm "-smp: *are not 4 CPUs*" -smp 4,sockets=1,cores=3,threads=1
	refused_vm "-smp: *" -smp 4,sockets=-1
	refused_vm "-smp: *" -smp many
}

@test "an unknown processor and feature" {
	refused_vm "-cpu: no CPU model 'nosuch'; there are: *" -cpu nosuch
	refused_vm "-cpu: no CPU feature or property 'nosuch'; *" -cpu qemu64,+nosuch
}

# --- Words

@test "an unknown option" {
	refused_vm "-bogus: no such option; -h lists what there is" -bogus
	refused_vm "-kernel: needs an argument, FILE" -kernel
}

@test "an option of QEMU's that is not supported" {
	refused_vm "-cdrom: not supported; *" -cdrom disk
	refused_vm "-vga: not supported; *" -vga std
	refused_vm "-accel: no accelerator 'tcg'; there are: *kvm*" -accel tcg
	refused_vm "-machine: no machine 'pc'; there are: *" -M pc
}

@test "an unknown device" {
	refused_vm "-device nosuch: no such device; there are: *virtio-blk-pci*" -device nosuch
}

@test "a bad property name" {
	refused_vm "-device virtio-rng-pci: property 'bogus' is not known; there are: *max-bytes*" \
		-device virtio-rng-pci,bogus=1
	refused_vm "-device virtio-rng-pci: property 'bogus' is not known; there are: *" \
		-device '{"driver":"virtio-rng-pci","bogus":1}'
}

@test "a bad property value" {
	refused_vm "-device virtio-rng-pci: property 'max-bytes': 'abc' is not a number" \
		-device virtio-rng-pci,max-bytes=abc
	refused_vm "-device virtio-rng-pci: property 'addr': '99' is not a PCI slot; *" \
		-device virtio-rng-pci,addr=99
	refused_vm "-device *: *'queue-size'*" \
		-drive file=disk,format=raw,if=none,id=d -device virtio-blk-pci,drive=d,queue-size=3
}

@test "JSON that is none" {
	refused_vm "-device: not a JSON object: it goes wrong at character *" -device '{"driver":'
}

@test "a slot that is taken" {
	refused_vm "-device virtio-rng-pci: *slot 5.0 of bus 'pcie.0' is taken by virtio-rng-pci*" \
		-device virtio-rng-pci,addr=5 -device virtio-rng-pci,addr=5
}

@test "a bus that there is not" {
	refused_vm "-device virtio-rng-pci: no PCI bus 'rp'; there are: pcie.0" -device virtio-rng-pci,bus=rp
}

@test "duplicate ids" {
	refused_vm "-device virtio-rng-pci: there is already one with id 'a'" \
		-device virtio-rng-pci,id=a -device virtio-rng-pci,id=a
	refused_vm "-chardev null: there is already one with id 'a'" -chardev null,id=a -chardev null,id=a
	refused_vm "-drive: there is already one with id 'a'" \
		-drive file=disk,format=raw,if=none,id=a -drive file=disk,format=raw,if=none,id=a
	refused_vm "-object rng-builtin: there is already one with id 'a'" \
		-object rng-builtin,id=a -object rng-builtin,id=a
}

@test "an unknown netdev" {
	refused_vm "-device virtio-net-pci: netdev=n: there is no -netdev of that id; there are: none" \
		-device virtio-net-pci,netdev=n
	refused_vm "-netdev nosuch: no such network end; there are: *" -netdev nosuch,id=n
}

@test "a network end that fails leaves none half made" {
	refused_vm "-netdev n: *longer than 15 characters*" \
		-netdev tap,id=n,script=no,ifname=an-interface-with-a-long-name
	refused_vm "*no PCI bus*" -netdev user,id=n -device virtio-net-pci,netdev=n,bus=none
	refused_vm "-netdev n: *nowhere*" -netdev stream,id=n,server=off,addr.type=unix,addr.path=nowhere
}

@test "a tap goes with the machine that made it" {
	[ "$(id -u)" = 0 ] || skip "makes taps"
	# shellcheck disable=SC2016
	wrap=(unshare -n sh -c '"$@"; code=$?; ip -o link >net; exit $code' sh)
	touch net
	refused_vm "*no PCI bus*" -netdev tap,id=n,script=no,downscript=no -device virtio-net-pci,netdev=n,bus=none
	[ "$(cut -d : -f 2 net)" = " lo" ]
}

@test "a missing chardev" {
	refused_vm "-serial: no chardev 'nosuch'; there are: none" -serial chardev:nosuch
	refused_vm "-mon: no chardev 'nosuch'; there are: none" -mon chardev=nosuch
	refused_vm "-device virtconsole: chardev=nosuch: *" -device virtio-serial-pci -device virtconsole,chardev=nosuch
	refused_vm "-chardev nosuch: no such character device; there are: *socket*" -chardev nosuch,id=a
}

@test "an entropy source that is none" {
	refused_vm "-object r: cannot open entropy source 'missing': *" -object rng-random,id=r,filename=missing
	refused_vm "-object r: entropy source '.' is a directory*" -object rng-random,id=r,filename=.
}

# --- Sockets and files

@test "a socket path that is too long" {
	local path

	path=$PWD/$(printf 'x%.0s' {1..120})
	refused_vm "*socket path is * bytes, at most 107: *" -qmp "unix:$path,server=on,wait=off"
	refused_vm "-chardev c: *socket path is * bytes, at most 107: *" \
		-chardev "socket,id=c,path=$path,server=on,wait=off" -serial chardev:c
}

@test "a socket in a folder that there is not" {
	refused_vm "*'nowhere/qmp'*" -qmp unix:nowhere/qmp,server=on,wait=off
}

@test "a socket that was made goes when something else fails" {
	refused_vm "-drive d: *" -qmp unix:qmp,server=on,wait=off -drive file=missing,format=raw,if=none,id=d
	refused_vm "*'missing/x'*" -qmp unix:qmp,server=on,wait=off -pidfile pid -serial file:missing/x
}

@test "a TCP port that is in use" {
	local port

	start -chardev socket,id=c,host=127.0.0.1,port=0,server=on,wait=off -qmp unix:qmp,server=on,wait=off
	port=$("$BATS_TEST_DIRNAME/qmp_client.py" qmp query-chardev | grep -o '127.0.0.1:[0-9]*' | head -n 1)
	[ -n "$port" ]
	refused_vm "*'127.0.0.1'*'${port#*:}'*Address already in use*" -qmp "tcp:$port,server=on,wait=off"
	stop TERM
}

@test "-D into a missing folder" {
	refused_vm "-D: cannot open 'nowhere/log': No such file or directory" -D nowhere/log
	refused_vm "-d: no log item 'nosuch'; there are: *" -d nosuch
}

@test "a pid file held by another" {
	start -pidfile pid
	held=$(cat pid)
	run --separate-stderr env "$mark" timeout -k 5 20 "$revirter" "${common[@]}" -kernel "$guest" -pidfile pid </dev/null
	echo "$stderr"
	[ "$status" = 1 ]
	[[ $stderr == "revirter: -pidfile: 'pid' is held by another process that is running" ]]
	# The other's file stays as it was, and goes with it.
	[ "$(cat pid)" = "$held" ]
	stop TERM
	none_left
	[ ! -e pid ]
	refused_vm "-pidfile: cannot create 'nowhere/pid': *" -pidfile nowhere/pid
}

@test "-daemonize with a start that fails" {
	refused "-kernel: cannot open 'missing': *" -daemonize -kernel missing
	refused_vm "-device nosuch: *" -daemonize -device nosuch
	refused_vm "-drive d: *" -daemonize -pidfile pid -qmp unix:qmp,server=on,wait=off \
		-drive file=missing,format=raw,if=none,id=d
}

@test "-daemonize and the terminal" {
	refused_vm "-chardev serial0: no stdio with -daemonize*" -daemonize -serial stdio
	refused "*-nographic: with -daemonize *" -kernel "$guest" -daemonize -nographic
}

# --- The end

@test "nothing stays after a normal end" {
	start -qmp unix:qmp,server=on,wait=off -monitor unix:mon,server=on,wait=off -pidfile pid \
		-netdev stream,id=n,server=on,addr.type=unix,addr.path=net -device virtio-net-pci,netdev=n
	[ -S qmp ] && [ -S mon ] && [ -S net ] && [ -s pid ]
	echo '{"execute":"qmp_capabilities"}{"execute":"quit"}' | socat -t 5 - UNIX-CONNECT:qmp >/dev/null
	wait "$vm"
	none_left
	[ ! -e qmp ] && [ ! -e mon ] && [ ! -e net ] && [ ! -e pid ]
}

@test "nothing stays after SIGTERM, SIGINT, SIGHUP and SIGKILL" {
	for signal in TERM INT HUP KILL; do
		rm -f started
		start -qmp unix:qmp,server=on,wait=off -pidfile pid -netdev user,id=n -device virtio-net-pci,netdev=n
		[ -S qmp ] && [ -s pid ]
		stop $signal
		none_left
		[ ! -e qmp ] && [ ! -e pid ]
	done
}

@test "a daemon's files go with it" {
	run env "$mark" timeout -k 5 20 "$revirter" "${common[@]}" -kernel "$guest" -append wait=button -daemonize -pidfile pid \
		-qmp unix:qmp,server=on,wait=off </dev/null
	[ "$status" = 0 ]
	[ -z "$output" ]
	[ -S qmp ]
	kill -KILL "$(cat pid)"
	none_left
	[ ! -e qmp ] && [ ! -e pid ]
}
