#!/usr/bin/env bats
# The lock, seen from outside: what the kernel says of a revirter whose guest runs.
# timeout: 300

load ../guest/guest

# A guest that waits for the power button, with a disk for an I/O thread and QMP to the outside.
setup() {
	dir=$BATS_TEST_TMPDIR
	truncate -s 1M "$dir/disk"
}

# start OPTION…: sets $pid.
start() {
	guest_command ports wait=button -smp 2 -qmp "unix:$dir/qmp,server=on,wait=off" \
		-drive "file=$dir/disk,format=raw,if=none,id=d" -device virtio-blk-pci,drive=d "$@"
	"${command[@]}" </dev/null >"$dir/out" 2>"$dir/err" 3>&- 5>&- &
	pid=$!
	for _ in {1..300}; do
		! grep -q waiting "$dir/out" || return 0
		sleep 0.1
	done
	cat "$dir/out" "$dir/err" >&2
	return 1
}

teardown() {
	[ -z "${pid:-}" ] || kill -KILL "$pid" 2>/dev/null || true
}

# everywhere FIELD VALUE: all threads' status files say so, and there are several.
everywhere() {
	[ "$(cat /proc/"$pid"/task/*/status | grep -c "^$1:")" -ge 4 ]
	[ "$(cat /proc/"$pid"/task/*/status | sed -n "s/^$1:[ \t]*//p" | sort -u)" = "$2" ]
}

@test "every thread is filtered, without capabilities, and can gain none" {
	start
	everywhere Seccomp 2
	everywhere NoNewPrivs 1
	for set in CapInh CapPrm CapEff CapAmb; do
		everywhere $set 0000000000000000
	done
	[ "$(id -u)" != 0 ] || everywhere CapBnd 0000000000000000
}

@test "root directory, working directory and network are not the host's" {
	[ "$(id -u)" = 0 ]
	start
	[ "$(readlink "/proc/$pid/root")" != / ]
	[ -z "$(ls -A "/proc/$pid/root/")" ]
	[ -z "$(ls -A "/proc/$pid/cwd/")" ]
	[ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ]
}

@test "descriptors that the parent leaked are closed" {
	exec 77</etc/passwd
	start
	exec 77<&-
	[ ! -e "/proc/$pid/fd/77" ]
}

@test "no core dump" {
	start
	[[ $(grep 'Max core file size' "/proc/$pid/limits") =~ size\ +0\ +0\  ]]
}

@test "-sandbox off leaves everything, and says so" {
	start -sandbox off
	everywhere Seccomp 0
	grep -q -- "-sandbox off" "$dir/err"
	[ "$(readlink "/proc/$pid/root")" = / ]
}

@test "nothing the machine does from start to end is forbidden" {
	start
	for command in query-status stop cont query-block query-cpus-fast system_reset; do
		printf '%s\n' '{"execute":"qmp_capabilities"}' "{\"execute\":\"$command\"}" |
			socat -t 2 - "UNIX-CONNECT:$dir/qmp" >"$dir/$command"
		grep -q '"return"' "$dir/$command"
	done
	echo '{"execute":"qmp_capabilities"}{"execute":"quit"}' | socat -t 5 - "UNIX-CONNECT:$dir/qmp" >/dev/null
	code=0
	wait "$pid" || code=$?
	[ $code = 0 ]
}
