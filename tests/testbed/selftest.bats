#!/usr/bin/env bats
# The testbed tested by itself: what goes into it and what comes out. Each boot takes some 2.5 s, so one
# run answers several questions where that keeps them readable.

setup() {
	run=$BATS_TEST_DIRNAME/run
	BUILD=$(realpath -m "${BUILD:-$BATS_TEST_DIRNAME/../../build}")
	export BUILD
	tmp=$BATS_TEST_TMPDIR
}

# leftovers: prints what a run left behind.
leftovers() {
	find "$BUILD/testbed" -maxdepth 1 -name "run.$1.*"
	pgrep -f "testbed/run\\.$1\\." || true
}

@test "stdout and stderr arrive apart and byte for byte, the exit status passes through" {
	head -c 300000 /dev/urandom >"$tmp/a"
	head -c 200001 /dev/urandom >"$tmp/b"
	code=0
	"$run" -- sh -c 'cat "$1"; cat "$2" >&2; exit 37' - "$tmp/a" "$tmp/b" >"$tmp/out" 2>"$tmp/err" || code=$?
	[ $code = 37 ]
	cmp "$tmp/a" "$tmp/out"
	cmp "$tmp/b" "$tmp/err"
}

@test "10 MB of output through a slow reader are complete" {
	"$run" -- sh -c 'yes 0123456789abcdef | head -c 10000000' |
		{ head -c 1000000 && sleep 1 && cat; } >"$tmp/out"
	[ "$(yes 0123456789abcdef | head -c 10000000 | md5sum)" = "$(md5sum <"$tmp/out")" ]
}

@test "arguments, the environment, the folder and stdin arrive as they are" {
	odd=$' two  words \'single\' "double" $HOME `x` \\ \n second line'
	mkdir "$tmp/a folder"
	cd "$tmp/a folder"
	echo here >file
	TESTBED_ODD=$odd "$run" --stdin -- bash -c 'printf "%s|" "$@"; printf "%s|" "$TESTBED_ODD" "$PWD"; cat file -' \
		- "$odd" '' '*' <<<"from stdin" >"$tmp/out"
	printf '%s|' "$odd" '' '*' "$odd" "$tmp/a folder" >"$tmp/expected"
	printf 'here\nfrom stdin\n' >>"$tmp/expected"
	cmp "$tmp/expected" "$tmp/out"
}

@test "inside: KVM, modules on demand, a writable root that is forgotten, --out that is kept" {
	BATS_TEST_TMPDIR='' "$run" --out "$tmp/kept" -- bash -ec "
		exec 3<>/dev/kvm 4<>/dev/net/tun 5<>/dev/vhost-net
		grep -q kvm_amd /proc/modules
		[ \$(cat /sys/module/kvm_amd/parameters/npt) = Y ]
		modprobe dm-thin-pool
		echo forgotten >$tmp/forgotten
		[ \$(cat $tmp/forgotten) = forgotten ]
		echo kept >$tmp/kept/file
		cat <(echo pipe) >/dev/stderr
		sh -c 'kill -SEGV \$\$' || [ -n \"\$(ls $tmp/kept/core.sh.*)\" ]
	"
	[ ! -e "$tmp/forgotten" ]
	[ "$(cat "$tmp/kept/file")" = kept ]
}

@test "--iommu gives groups to vfio-pci, --device and --drive are there" {
	truncate -s 1M "$tmp/disk"
	"$run" --iommu --device pcie-root-port,id=rp1 --drive "file=$tmp/disk,if=none,id=d,format=raw" \
		--device nvme,serial=s,drive=d,bus=rp1 -- bash -ec '
		modprobe vfio-pci
		dev=$(basename "$(dirname "$(grep -lx 0x010802 /sys/bus/pci/devices/*/class)")")
		[ -e /sys/bus/pci/devices/$dev/iommu_group ]
		echo vfio-pci >/sys/bus/pci/devices/$dev/driver_override
		echo "$dev" >/sys/bus/pci/devices/$dev/driver/unbind || true
		echo "$dev" >/sys/bus/pci/drivers_probe
		ls /dev/vfio/[0-9]*'
}

@test "--timeout ends it with 124 and leaves nothing" {
	code=0
	"$run" --timeout 1 -- sleep 100 2>"$tmp/err" &
	pid=$!
	wait $pid || code=$?
	[ $code = 124 ]
	grep -q 'longer than 1 s' "$tmp/err"
	[ -z "$(leftovers $pid)" ]
}

@test "SIGTERM ends it at once and leaves nothing" {
	code=0
	"$run" -- sleep 100 &
	pid=$!
	sleep 1
	kill $pid
	wait $pid || code=$?
	[ $code = 143 ]
	[ -z "$(leftovers $pid)" ]
}

@test "what cannot work says so: exit status 125" {
	code=0
	"$run" --device nonsense -- true 2>"$tmp/err" || code=$?
	[ $code = 125 ]
	grep -q nonsense "$tmp/err"
	code=0
	"$run" --nonsense -- true 2>"$tmp/err" || code=$?
	[ $code = 125 ]
	code=0
	"$run" -- sh -c 'echo o >/proc/sysrq-trigger; sleep 10' 2>"$tmp/err" || code=$?
	[ $code = 125 ]
	grep -q 'ended before' "$tmp/err"
}

@test "a command that does not exist: 127, as a shell says" {
	code=0
	"$run" -- /no/such/command 2>"$tmp/err" || code=$?
	[ $code = 127 ]
}
