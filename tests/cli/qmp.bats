#!/usr/bin/env bats
# QMP, the human monitor and the terminal, on machines that run a tiny guest, on the software backend; QEMU, on TCG, is asked
# what the answers should be. tests/integration/qmp.bats has the rest, with Linux.
# timeout: 600

bats_require_minimum_version 1.5.0
load ../integration/linux
load ../guest/qmp
vmm=${GUEST_VMM:-$build/revirter -accel soft}
qemu=(qemu-system-x86_64 -accel tcg)

setup() {
	cd "$dir" || return
}

teardown() {
	linux_teardown
}

@test "greeting and negotiation, as socat sees them" {
	tiny
	running
	output=$(printf '%s\n' '{"execute":"query-status"}' '{"execute":"qmp_capabilities"}' \
		'{"execute":"query-status","id":7}' | timeout 20 socat -t 3 - UNIX-CONNECT:qmp)
	[ "$(wc -l <<<"$output")" = 4 ]
	said '{"QMP": {"version": {"qemu": {"micro": ' '"major": 7}, "package": "revirter ' '"capabilities": []}}' \
		'{"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with '"'qmp_capabilities'" \
		'{"return": {}}' \
		'{"return": {"status": "running", "singlestep": false, "running": true}, "id": 7}'
	qmp quit
	ended 0
}

# What is said to both, a line at a time.
conversation() {
	cat <<-'END'
		{"execute":"query-status"}
		{"execute":"qmp_capabilities"}
		{"execute":"qmp_capabilities"}
		{"execute":"nosuch"}
		{"execute":"query-status","arguments":{"x":1}}
		{"execute":"stop","id":"a"}
		{"exec":"stop"}
		{"execute":"stop","foo":1}
		{"execute":5}
		{"execute":"stop","arguments":5}
		{"execute":"balloon"}
		{"execute":"balloon","arguments":{"value":"x"}}
		{"execute":"balloon","arguments":{"value":1.5}}
		{"execute":"balloon","arguments":{"value":1048576}}
		{"execute":"query-balloon"}
		[1,2]
		"text"
		5
		null
		{"execute":"query-name","id":{"a":[1]}}
		{'execute':'query-name','id':'single quotes'}
		{"execute":"getfd","arguments":{"fdname":"x"}}
		{"execute":"getfd"}
		{"execute":"closefd","arguments":{"fdname":"x"}}
		{"execute":"add-fd","arguments":{"fdset-id":-1}}
		{"execute":"remove-fd","arguments":{"fdset-id":77}}
		{"execute":"query-fdsets"}
		{"execute":"cont"}
		{"execute":"cont"}
		{"execute":"stop"}
		{"execute":"query-status"}
		{"execute":"query-name","arguments":null}
		{"execute":"query-name"	,
		 "id"
		: "spread"}
		{"execute":"human-monitor-command","arguments":{"command-line":"info status"}}
	END
}

@test "what QEMU answers to right and wrong, this answers too" {
	local line pipe

	for vmm in "${qemu[*]}" "$vmm"; do
		tiny -S
		qmp query-status >/dev/null
		{ while IFS= read -r line; do
			printf '%s\n' "$line"
			sleep 0.05
		done < <(conversation); sleep 1; } | timeout 60 socat -t 3 - UNIX-CONNECT:qmp |
			tr -d '\r' | sed '1d; s/"timestamp": {[^}]*}/"timestamp": {}/' >"said.${vmm##*/}"
		mv "said.${vmm##*/}" "${pipe:-theirs}"
		pipe=ours
		qmp quit
		wait "$vm"
		vm=
	done
	diff theirs ours
}

@test "every query has the members that QEMU's has" {
	local what words query

	words=(-smp 2,sockets=1,cores=2,threads=1 -S -name compared -uuid 550e8400-e29b-41d4-a716-446655440000
		-object iothread,id=t -device virtio-blk-pci,drive=a,id=da,iothread=t -device virtio-blk-pci,drive=b
		-device pcie-root-port,id=rp,chassis=1,slot=1 -device virtio-rng-pci,bus=rp
		-device virtio-balloon-pci -chardev null,id=c -serial chardev:c)
	query=()
	for what in version status name uuid kvm commands cpus-fast pci block chardev balloon iothreads \
		memory-size-summary fdsets; do
		query+=("query-$what" -- keys: --)
	done
	for vmm in "${qemu[*]}" "$vmm"; do
		truncate -s 1M a b
		tiny "${words[@]}" -drive file=a,format=raw,if=none,id=a -drive file=b,format=raw,if=none,id=b,readonly=on
		qmp "${query[@]}" quit | sed -n '2~2p' >"keys.${vmm##*/}"
		wait "$vm"
		vm=
		# A bus without number has its devices told here and not there.
		sed -i 's/"\.\?\[\]\.devices\[\]\.pci_bridge\.devices[^"]*",\? \?//g' "keys.${vmm##*/}"
		mv "keys.${vmm##*/}" "keys.$([ -e keys.theirs ] && echo ours || echo theirs)"
	done
	[ "$(wc -l <keys.ours)" -ge 14 ]
	diff keys.theirs keys.ours
}

@test "values of the queries" {
	tiny -smp 2 -name "guest=a name" -uuid 550e8400-e29b-41d4-a716-446655440000 -accel soft
	running
	run qmp query-name -- query-uuid -- query-kvm -- query-cpus-fast -- x-query-jit -- query-commands -- quit
	said '{"name": "a name"}' '{"UUID": "550e8400-e29b-41d4-a716-446655440000"}' \
		'{"enabled": false, "present": true}' '"cpu-index": 0' '"cpu-index": 1' \
		'{"human-readable-text": "CPU #0: code ' 'CPU #1: code 0 of '
	for command in qmp_capabilities query-version query-status query-name query-uuid query-kvm query-commands \
		query-cpus-fast query-pci query-block query-chardev query-balloon stop cont system_reset \
		system_powerdown quit balloon getfd add-fd; do
		[[ $output == *"{\"name\": \"$command\"}"* ]]
	done
	ended 0
}

@test "query-kvm where it is KVM that runs the guest" {
	[ -w /dev/kvm ] || skip "no KVM here"
	vmm="$build/revirter -accel kvm"
	tiny
	running
	run qmp x-query-jit
	said "JIT information is only available with accel=soft"
	run qmp query-kvm -- quit
	said '{"enabled": true, "present": true}'
	ended 0
}

@test "-S, stop, cont, reset" {
	tiny -S
	run qmp query-status -- cont -- event:RESUME -- query-status -- stop -- event:STOP -- query-status \
		-- stop -- cont -- event:RESUME -- system_reset -- event:RESET -- query-status
	said '"prelaunch"' '"RESUME"' '"running"' '"STOP"' '"paused"' '"RESUME"' \
		'"RESET", "data": {"guest": false, "reason": "host-qmp-system-reset"}' '"running"'
	running
	run qmp stop -- system_reset -- event:RESET -- query-status -- cont -- quit -- event:SHUTDOWN
	said '"RESET"' '"prelaunch"' '"SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}'
	ended 0
}

@test "the power button ends a guest that listens" {
	tiny
	running
	run qmp system_powerdown -- event:POWERDOWN -- event:SHUTDOWN
	said '"POWERDOWN"' '"SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}'
	ended 0
	grep -q "powering off" console
}

@test "-no-shutdown: what QEMU says of the life after the end" {
	for vmm in "${qemu[*]}" "$vmm"; do
		tiny -no-shutdown -S
		rm -f said
		qmp cont -- query-status >/dev/null
		running
		qmp system_powerdown -- event:SHUTDOWN -- query-status -- system_reset -- event:RESET -- query-status \
			-- cont -- query-status -- quit | sed 's/"timestamp": {[^}]*}/"timestamp": {}/' >said
		wait "$vm"
		vm=
		mv said "$([ -e theirs ] && echo ours || echo theirs)"
	done
	diff theirs ours
	grep -q '"status": "shutdown"' ours
}

@test "-no-reboot: a reset is the end" {
	tiny -no-reboot
	running
	run qmp system_reset -- event:SHUTDOWN
	said '"SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-system-reset"}'
	ended 0
}

# panic WORD…: a guest that tells pvpanic.
panic() {
	local command

	read -ra command <<<"$vmm"
	launch "${command[@]}" -M q35 -kernel "$guests/ports" -append end=panic -device pvpanic -S "$@"
}

@test "a panic ends the machine" {
	panic
	run qmp cont -- event:GUEST_PANICKED -- event:SHUTDOWN
	said '"GUEST_PANICKED", "data": {"action": "poweroff"' \
		'"SHUTDOWN", "data": {"guest": true, "reason": "guest-panic"}'
	ended 0
}

@test "with -no-shutdown a panic pauses it" {
	panic -no-shutdown
	run qmp cont -- event:GUEST_PANICKED -- query-status -- quit
	said '"action": "pause"' '"guest-panicked"'
	ended 0
}

@test "several monitors: each its answers, all the events" {
	tiny -qmp unix:second,server=on,wait=off -monitor unix:human,server=on,wait=off
	running
	{ socket=second qmp query-name -- event:STOP >second.out; } 3>&- &
	helpers+=($!)
	for _ in {1..100}; do
		[ -s second.out ] && break
		sleep 0.1
	done
	qmp stop >first.out
	wait "${helpers[@]}"
	helpers=()
	grep -q '"STOP"' second.out
	output=$({ sleep 0.3; echo "info status"; sleep 0.5; echo quit; sleep 0.5; } | timeout 20 socat -t 3 - UNIX-CONNECT:human)
	said "(qemu)" "VM status: paused"
	ended 0
	gone second human
}

@test "a client that goes does not take the machine along; the next is served" {
	tiny
	running
	for _ in 1 2 3; do
		printf '{"execute":"qmp_cap' | timeout 10 socat -u - UNIX-CONNECT:qmp
	done
	run qmp query-status -- quit
	said '"running"'
	ended 0
}

@test "over TCP" {
	tiny -qmp tcp:127.0.0.1:0,server=on,wait=off
	running
	port=$(qmp query-chardev | grep -o '127.0.0.1:[0-9]*' | head -n 1)
	[ -n "$port" ]
	socket=$port
	run qmp query-status -- quit -- event:SHUTDOWN
	said '"running"' host-qmp-quit
	socket=
	ended 0
}

@test "over stdio" {
	read -ra command <<<"$vmm"
	output=$({ sleep 1; printf '%s\n' '{"execute":"qmp_capabilities"}' '{"execute":"query-name"}' '{"execute":"quit"}'; sleep 2; } |
		timeout 60 "${command[@]}" -nodefaults -display none -m 64 -name x -kernel "$guests/ports" \
			-append wait=button -qmp stdio)
	said '"QMP"' '{"return": {}}' '{"return": {"name": "x"}}' '{"return": {}}' '"SHUTDOWN"'
}

@test "wait=on holds the start until a client is there" {
	read -ra command <<<"$vmm"
	timeout 60 "${command[@]}" -nodefaults -display none -m 64 -kernel "$guests/ports" -append wait=button \
		-serial file:console -qmp unix:qmp,server=on,wait=on </dev/null >out 2>err 3>&- &
	vm=$!
	sleep 1.5
	[ ! -s console ]
	run qmp query-status -- quit
	said '"running"'
	wait "$vm"
	vm=
}

@test "descriptors by SCM_RIGHTS" {
	echo one >file
	tiny
	running
	run qmp getfd fdname=mine fd=file -- closefd fdname=mine -- add-fd fdset-id=5 opaque=why fd=file -- query-fdsets \
		-- add-fd fd=file -- remove-fd fdset-id=5 -- query-fdsets -- quit
	said '{}' '{}' '"fdset-id": 5' '"opaque": "why"' '"fdset-id": ' '{}'
	ended 0
	tiny
	running
	run qmp closefd fdname=mine
	[ "$status" = 1 ]
	said "File descriptor named 'mine' not found"
	qmp quit
	ended 0
}

@test "-add-fd: a disk by /dev/fdset" {
	truncate -s 1M disk
	exec 8<>disk
	tiny -add-fd fd=8,set=2,opaque=rw -drive file=/dev/fdset/2,format=raw,if=none,id=d -device virtio-blk-pci,drive=d
	exec 8>&-
	running
	run qmp query-fdsets -- query-block -- quit
	said '"fdset-id": 2' /dev/fdset/2
	ended 0
}

@test "-nographic: Ctrl-A h, c and x on a terminal, which is as it was afterwards" {
	read -ra command <<<"$vmm"
	terminal '[("waiting", "\x01h"), ("C-a x", "\x01c"), ("(qemu)", "info status\r"), ("VM status: running", "stop\r"), ("(qemu)", "\x01c\x01x")]' \
		"${command[@]}" -nographic -m 64 -kernel "$guests/ports" -append wait=button
	said waiting "C-a x" "(qemu)" "VM status: running" "same modes" "status 0"
}

@test "-nographic: quit in the monitor; SIGTERM; the terminal is as it was" {
	read -ra command <<<"$vmm"
	terminal '[("waiting", "\x01c"), ("(qemu)", "system_powerdown\r"), ("powering off", "")]' \
		"${command[@]}" -nographic -m 64 -kernel "$guests/ports" -append wait=button
	said waiting "(qemu)" "powering off" "same modes" "status 0"
	terminal '[("waiting", "")]' \
		timeout --foreground 5 "${command[@]}" -nographic -m 64 -kernel "$guests/ports" -append wait=button
	said waiting "same modes"
}

@test "garbage on the socket" {
	tiny -accel soft
	running
	head -c 2M /dev/urandom | timeout 30 socat -t 1 - UNIX-CONNECT:qmp >/dev/null || true
	printf '%.0s[' {1..100000} | timeout 30 socat -t 1 - UNIX-CONNECT:qmp >/dev/null || true
	{ printf '"'; head -c 9M /dev/zero | tr '\0' x; } | timeout 30 socat -t 1 - UNIX-CONNECT:qmp >/dev/null || true
	run qmp $'raw:garbage\n' -- query-status -- quit
	said '"class": "GenericError"' '"running"'
	wait "$vm"
	vm=
}
