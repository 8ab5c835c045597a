#!/usr/bin/env bats
# The gdb stub, with a real gdb and Debian's kernel; and what takes a processor's own debug registers. On the software
# backend, as emulated KVMs lack these. The sandbox is on, as always. gdb.bats has what any KVM can.
# timeout: 1200

bats_require_minimum_version 1.5.0
load ../integration/linux
load ../guest/gdb
vmm=${GUEST_VMM:-$build/revirter -accel soft}

setup_file() {
	linux_kit
}

setup() {
	[ -z "${SANITIZE:-}" ] || skip "Linux on an interpreter with sanitizers takes too long"
	cd "$dir" || return
}

teardown() {
	linux_teardown
}

# symbol NAME: of the kernel that told its addresses.
symbol() {
	tr -d '\r' <console | awk -v name="$1" '$3 == name { print "0x" $1; exit }'
}

# Where it steps is known, and interrupts are off there; each processor has its own work.
@test "Debian's kernel: registers, memory, two processors, breakpoints, steps, Ctrl-C; detached it goes on, killed it ends" {
	linux_append=nokaslr
	linux_start 'grep -E " (__x64_sys_sethostname|linux_banner|entry_SYSCALL_64|start_kernel)$" /proc/kallsyms
		echo 1 >/sys/devices/system/cpu/cpu1/online; taskset 2 sh -c "while :; do :; done" & taskset -p 1 $$; echo told
		while :; do hostname a; usleep 100000; echo tick; done' -smp 2 -gdb unix:gdb,server=on,wait=off
	linux_await tick
	debug "info threads" "monitor info jit" "info registers efer cr0 cr4" "p \$cr3 != 0" "x/s $(symbol linux_banner)" \
		"break *$(symbol __x64_sys_sethostname)" "continue" "delete" "break *$(symbol entry_SYSCALL_64)" "continue" \
		"delete" "thread 2" "info registers efer" "p \$gs_base != 0 || \$k_gs_base != 0" "set \$before = \$rip" \
		"thread 1" "x/2i \$rip" "stepi" "p/x \$rip - $(symbol entry_SYSCALL_64)" "stepi" "thread 2" "p \$rip == \$before" \
		"thread 1" \
		"python import threading,os,signal; threading.Timer(3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()" \
		"continue" "info registers rip" "detach"
	said "CPU#0" "CPU#1" "CPU #0: code " "CPU #1: code " "LMA" "PG" "PAE" "= 1" "Linux version 6" "Breakpoint 1, " "Breakpoint 2, " \
		"thread 2" "LMA" "= 1" "thread 1" swapgs "= 0x3" "thread 2" "= 1" "SIGINT" "rip " "detached]"
	[[ $output =~ "CPU #1: code "([1-9][0-9]*)" of "([0-9]*)" KiB, pages "[1-9] ]]
	((BASH_REMATCH[1] <= BASH_REMATCH[2]))
	ticks=$(grep -c tick console)
	for _ in {1..600}; do
		[ "$(grep -c tick console)" -le "$((ticks + 2))" ] || break
		sleep 0.1
	done
	[ "$(grep -c tick console)" -gt "$((ticks + 2))" ]
	symbol start_kernel >"$BATS_FILE_TMPDIR/start_kernel"
	debug kill
	linux_wait
	[ "$status" = 0 ]
	grep -q "gdb: killed the VM" err
}

# To gdb the first is a mere SIGTRAP: it has a breakpoint at another address.
@test "breakpoints set before Debian's kernel runs: by physical address, by debug register" {
	local start physical

	[ -s "$BATS_FILE_TMPDIR/start_kernel" ] || skip "the test before this one tells the address"
	start=$(<"$BATS_FILE_TMPDIR/start_kernel")
	physical=$(printf '0x%x' $((start - 0xffffffff80000000)))
	linux_append=nokaslr
	for how in "maintenance packet Qqemu.PhyMemMode:1;break *$physical;SIGTRAP" "echo \n;hbreak *$start;Breakpoint 1, "; do
		IFS=';' read -r mode break stop <<<"$how"
		linux_image=vmlinux linux_start true -S -gdb unix:gdb,server=on,wait=off
		debug "$mode" "$break" continue "info registers rip" "delete" "kill"
		said "$stop" "rip  " "$start"
		linux_wait
		[ "$status" = 0 ]
		rm -f gdb
	done
}

@test "the guest's own INT3 and single step are the guest's" {
	tiny -S -append own=1
	debug "break *$(address guest_main)" "break *$(address touch)" "continue" "continue" "delete" \
		"set {int}$(address leave) = 1" "detach"
	said "Breakpoint 1, " "Breakpoint 2, "
	ended 3
	grep -q "own 1 1" console
}

@test "interrupts go on between breakpoints" {
	tiny -append timer=1
	await_guest
	debug "break *$(address tick)" "continue" "break *$(address on_timer)" "delete 1" "continue" \
		"set \$before = *(int *)$(address ticks)" "break *$(address tick)" "delete 2" "continue" \
		"p *(int *)$(address ticks) > \$before" "delete" "set {int}$(address leave) = 1" "detach"
	said "Breakpoint 1, " "Breakpoint 2, " "Breakpoint 3, " "= 1" "detached]"
	ended 3
}

@test "interrupts that come during steps wait until nobody steps" {
	tiny -append timer=1
	await_guest
	debug "break *$(address tick)" "continue" "delete" "set var \$before = *(int *)$(address ticks)" \
		"stepi 300" "p *(int *)$(address ticks) - \$before" "break *$(address on_timer)" "continue" "delete" \
		"set {int}$(address leave) = 1" "detach"
	said "Breakpoint 1, " "= 0" "Breakpoint 2, " "detached]"
	ended 3
}

@test "watchpoints tell who wrote, and who read" {
	tiny -S
	debug "watch *(int *)$(address watched)" "continue" "continue" "p *(int *)$(address watched)" "delete" \
		"rwatch *(int *)$(address leave)" "continue" "delete" \
		"awatch *(int *)$(address counter)" "continue" "continue" "kill"
	said "Old value = 0" "New value = 1" "Old value = 1" "New value = 2" "= 2" \
		"Hardware read watchpoint" "Value = 0" "Hardware access (read/write) watchpoint" "alue = " "alue = "
	ended 0 /dev/null
	grep -q "gdb: killed the VM" err
}
