#!/usr/bin/env bats
# QMP on a machine that runs: what needs no more than a tiny guest. tests/integration/qmp.bats has the rest.
# (Inside the testbed its kernel, not revirter, fell over what follows.)
# timeout: 300

bats_require_minimum_version 1.5.0
build=$(realpath -m "${BUILD:-$BATS_TEST_DIRNAME/../../build}")

setup() {
	cd "$BATS_TEST_TMPDIR" || return
}

teardown() {
	kill -KILL "${vm:-}" 2>/dev/null || true
}

@test "garbage on the socket" {
	timeout -k 5 200 "$build/revirter" -accel soft -M q35 -m 64 -nodefaults -display none -serial file:console \
		-kernel "$build/tests/guest/ports" -append "wait=button" -qmp unix:qmp,server=on,wait=off </dev/null 3>&- &
	vm=$!
	for _ in {1..300}; do
		! grep -qs "waiting for the power button" console || break
		sleep 0.1
	done
	head -c 2M /dev/urandom | timeout 30 socat -t 1 - UNIX-CONNECT:qmp >/dev/null || true
	printf '%.0s[' {1..100000} | timeout 30 socat -t 1 - UNIX-CONNECT:qmp >/dev/null || true
	{ printf '"'; head -c 9M /dev/zero | tr '\0' x; } | timeout 30 socat -t 1 - UNIX-CONNECT:qmp >/dev/null || true
	run "$BATS_TEST_DIRNAME/qmp_client.py" --timeout 60 --wait 30 qmp $'raw:garbage\n' -- query-status -- quit
	[[ $output == *'"class": "GenericError"'*'"running"'* ]]
	wait "$vm"
}
