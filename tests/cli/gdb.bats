#!/usr/bin/env bats
# The gdb stub, with a real gdb and a tiny guest, which any KVM runs; QEMU's stub on TCG, for comparison. The
# sandbox is on, as always. gdb_linux.bats has the rest.
# timeout: 600

bats_require_minimum_version 1.5.0
build=$(realpath -m "${BUILD:-$BATS_TEST_DIRNAME/../../build}")
accel=$([ -w /dev/kvm ] && echo kvm || echo soft)
vmm=${GUEST_VMM:-$build/revirter -accel $accel}
qemu=(qemu-system-x86_64 -accel tcg)
load ../guest/gdb

setup() {
	cd "$BATS_TEST_TMPDIR" || return
}

teardown() {
	local pid

	for pid in ${vm:-} "${helpers[@]}"; do
		pkill -KILL -P "$pid" 2>/dev/null || true
		kill -KILL "$pid" 2>/dev/null || true
	done
}

@test "-S waits for gdb; registers, steps, breakpoints, memory" {
	tiny -S
	debug "info registers rip eflags cs cr0 efer mxcsr" "stepi" "stepi" "p/x \$rip" \
		"break *$(address guest_main)" "continue" "delete" \
		"break *$(address tick)" "continue" "x/1xb \$pc" "continue" \
		"p *(int *)$(address counter)" "set var \$rax = 0x1234" "p/x \$eax" "p \$st0" "p \$xmm0.uint128" \
		"set {int}$(address leave) = 1" "delete" "detach"
	said "rip " "cr0 " "[ PE " "efer " "mxcsr " "Breakpoint 1, " "Breakpoint 2, " "0x" "Breakpoint 2, " \
		"= 1" "= 0x1234" "= 0" "= 0" "detached]"
	ended 3
	grep -q "left after a while" console
}

@test "Ctrl-C, two processors as threads, QMP's events and state" {
	tiny -smp 2 -qmp unix:qmp,server=on,wait=off
	await_guest
	timeout 60 gdb -nx -q -batch -ex "set pagination off" -ex "target remote gdb" -ex "info threads" \
		-ex "python import threading,os,signal; threading.Timer(2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()" \
		-ex continue -ex "thread 2" -ex "p/x \$rip" -ex "monitor info status" \
		-ex "set {int}$(address leave) = 1" -ex detach </dev/null >gdb.out 2>&1 3>&-
	output=$(<gdb.out)
	said "CPU#0 [running]" "CPU#1 [halted ]" "SIGINT" "thread 2" "= 0xfff0" "VM status: paused" "detached]"
	ended 3
}

@test "a breakpoint is state debug; STOP and RESUME; somebody else says cont" {
	tiny -qmp unix:qmp,server=on,wait=off
	await_guest
	timeout 60 socat -t 60 - UNIX-CONNECT:qmp >qmp.out < <(
		exec 3>&-
		echo '{"execute":"qmp_capabilities"}'
		sleep 30
	) 3>&- &
	helpers+=($!)
	debug "break *$(address tick)" "continue" "monitor info status" "delete" "monitor cont" "shell sleep 1" \
		"p/x \$cs" "monitor info status" "set {int}$(address leave) = 1" "detach"
	said "Breakpoint 1, " "VM status: paused (debug)" "= 0x" "VM status: paused" "detached]"
	ended 3
	grep -q '"STOP"' qmp.out
	grep -q '"RESUME"' qmp.out
}

@test "registers of all kinds can be set, and memory" {
	tiny
	await_guest
	echo "some text" >text
	debug "set \$xmm3.v4_int32[1] = 7" "p \$xmm3.v4_int32" "set \$mxcsr = 0x1f00" "p \$mxcsr" "set \$fctrl = 0x27f" \
		"p/x \$fctrl" "set \$k_gs_base = 0x1000" "p/x \$k_gs_base" "set \$fs_base = 0x55" "p \$fs_base" \
		"set \$cr4 = \$cr4 | 0x200" "p \$cr4" "restore text binary 0x300000" "x/s 0x300000" \
		"maint packet Qqemu.PhyMemMode:1" "x/s 0x300000" "set {int}$(address leave) = 1" "detach"
	said "{0, 7, 0, 0}" "DM" "0x27f" "0x1000" "85" "OSFXSR" "some text" "some text" "detached]"
	ended 3
}

@test "gdb goes away without a word: the machine stands, unharmed, and the next gdb finds it" {
	tiny -S
	await_socket
	# An INT3 at 1 MiB, then nothing.
	(printf '$Z0,100000,1#34'; sleep 1) | timeout 10 socat -t 2 - UNIX-CONNECT:gdb >raw || true
	grep -q 'OK#9a' raw
	debug "p/x *(unsigned char *)0x100000" "set {int}$(address leave) = 1" "detach"
	[[ $output != *"0xcc"* ]]
	ended 3
}

@test "garbage on the socket is no harm" {
	tiny -S
	await_socket
	head -c 200000 /dev/urandom | timeout 20 socat -t 1 - UNIX-CONNECT:gdb >/dev/null || true
	yes '$m0,ffffffffffffffff#00$vCont;c:99;#12' | head -c 100000 | timeout 20 socat -t 1 - UNIX-CONNECT:gdb >/dev/null || true
	debug "p/x \$cs" "set {int}$(address leave) = 1" "detach"
	ended 3 /dev/null
	[ "$(grep -c gdb: err)" -le 3 ]
}

@test "TCP, as -s means it" {
	tiny -S -gdb none
	# timeout passes a signal on once it has a child.
	for _ in {1..100}; do
		[ ! -S gdb ] || break
		sleep 0.1
	done
	kill "$vm" && wait "$vm" || true
	read -ra command <<<"$vmm"
	timeout 120 "${command[@]}" -nodefaults -display none -serial file:console -m 64 -device isa-debug-exit \
		-kernel "$guests/debug" -S -gdb tcp:127.0.0.1:12345 </dev/null 2>err 3>&- &
	vm=$!
	sleep 2
	run timeout 60 gdb -nx -q -batch -ex "set remotetimeout 60" -ex "target remote 127.0.0.1:12345" \
		-ex "set {int}$(address leave) = 1" -ex detach </dev/null
	said "detached]"
	ended 3
}

@test "hardware breakpoints" {
	tiny -S
	debug "hbreak *$(address guest_main)" "continue" "stepi" "hbreak *$(address tick)" "continue" "continue" \
		"p *(int *)$(address counter)" "delete" "set {int}$(address leave) = 1" "detach"
	said "Breakpoint 1, " "Breakpoint 2, " "Breakpoint 2, " "= 1" "detached]"
	ended 3
}

# steps_halted WORD…: a step of a halted processor is its next instruction, as a debug exception ends HLT.
steps_halted() {
	tiny -append halt=1 "$@"
	await_guest halting
	until_halted
	debug "info threads" "p/x \$rip == $(address halted)" "stepi" "p/x \$rip - $(address halted)" \
		"stepi" "p/x \$rip - $(address halted)" "set {int}$(address leave) = 1" "detach"
	said "CPU#0 [halted ]" "= 0x1" "= 0x1" "= 0x2" "detached]"
	ended 3
	grep -q "going on" console
}

# until_halted: it says that it will before it does.
until_halted() {
	for _ in {1..100}; do
		debug "info threads" "detach" >/dev/null
		[[ $output != *"CPU#0 [halted ]"* ]] || return 0
		sleep 0.1
	done
	return 1
}

@test "a processor that is halted goes on when it steps" {
	steps_halted
	vmm="$build/revirter -accel soft"
	steps_halted
}

# dialogue CMD…: what a stub says to the same questions.
dialogue() {
	launch "$@" -S -smp 2
	debug "break *$(address guest_main)" "continue" "info threads" "p/x \$rip" "p/x \$eflags" \
		"x/4xb \$rip" "stepi" "p/x \$rip" "delete" "break *$(address touch)" "continue" "p/x \$rip" "p/x \$rsp % 4" \
		"p *(int *)$(address counter)" "x/1xb 0x7fffffffffff" "p/x \$cr0" "info registers fs_base mxcsr" "kill" \
		>/dev/null || true
	wait "$vm" || true
	vm=
	# How the connection ends when the machine does is up to who is quicker.
	sed -n '/^Breakpoint 1,/,$p; /hit Breakpoint 1,/,$p' <<<"$output" |
		sed '/CPU#1/d; /^Remote communication error/d; /^\[Inferior 1 /d'
}

@test "QEMU's stub says the same" {
	local command

	read -ra command <<<"$vmm"
	mkdir theirs ours
	(cd theirs && dialogue "${qemu[@]}") >theirs.out
	(cd ours && dialogue "${command[@]}") >ours.out
	diff theirs.out ours.out || return
	grep -q "Breakpoint 2" ours.out
}
