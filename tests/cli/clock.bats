#!/usr/bin/env bats
# The time of a guest whose machine stands still for a while, on the software backend; qmp.bats has what Linux makes
# of it on KVM, where it is the paravirtual clock that stops.
# timeout: 300

bats_require_minimum_version 1.5.0
load ../guest/guest
# shellcheck disable=SC2034 # guest.bash takes it
vmm=${GUEST_VMM:-$build/revirter -accel soft}

@test "the time-stamp counter stands still while the machine does" {
	local dir=$BATS_TEST_TMPDIR status=0

	guest_command tsc seconds=4 -smp 2 -qmp "unix:$dir/qmp,server=on,wait=off"
	timeout -k 5 100 "${command[@]}" </dev/null >"$dir/out" 2>"$dir/err" 3>&- &
	for _ in {1..300}; do
		! grep -q ticking "$dir/out" || break
		sleep 0.1
	done
	{
		echo '{"execute":"qmp_capabilities"}'
		for _ in 1 2; do
			echo '{"execute":"stop"}'
			sleep 2
			echo '{"execute":"cont"}'
			sleep 0.2
		done
	} | socat -t 10 - "UNIX-CONNECT:$dir/qmp,shut-none" >"$dir/qmp.out"
	wait $! || status=$?
	cat "$dir/out" "$dir/qmp.out" "$dir/err"
	[ "$status" = 3 ]
	[ "$(grep -c '"STOP"' "$dir/qmp.out")" = 2 ]
	[ ! -s "$dir/err" ]
}
