# linux.bash: for .bats files that run a small Linux guest: Debian's cloud kernel, busybox, a script.
#
#	linux_kit			once, in setup_file: the kernel's folder in $kernel, the initramfs in $initramfs
#	linux_command SCRIPT [OPTION…]	the command line, in $command; the guest runs SCRIPT and powers off
#	linux SCRIPT [OPTION…]		runs it: $status, $output (the guest's console), $stderr (the monitor's)
#	linux_start SCRIPT [OPTION…]	starts it: $vm; console in $dir/console, messages in $dir/err
#	linux_await TEXT [SECONDS]	until the console of the started one has TEXT
#	linux_wait [SECONDS]		until it has ended: $status
#	linux_teardown			ends what a test left, processes in $helpers too
#	fine				the script came to its end without a failure
#
# SCRIPT is shell, run with -e; it travels on the kernel's command line in base64, so: a few hundred
# characters. The guest's init starts its other processors, once the kernel has rewritten most of what it
# rewrites of itself: tests/testbed/inside.sh tells what TCG makes of that otherwise. GUEST_VMM is the monitor, as for the guests of tests/guest.
# shellcheck shell=bash

build=$(realpath -m "${BUILD:-$BATS_TEST_DIRNAME/../../build}")
vmm=${GUEST_VMM:-$build/revirter}
dir=${BATS_TEST_TMPDIR:-}
linux_machine=(-M q35)
linux_append=
helpers=()

linux_kit() {
	{ read -r kernel && read -r initramfs; } < <("$BATS_TEST_DIRNAME/../integration/linux-kit")
	export kernel initramfs
}

linux_command() {
	local script=$1

	shift
	read -ra command <<<"$vmm"
	command+=(-nodefaults -display none -serial stdio -monitor none "${linux_machine[@]}" -m 192
		-kernel "$kernel/${linux_image:-vmlinuz}" -initrd "$initramfs"
		-append "console=ttyS0 quiet panic=-1 maxcpus=1 $linux_append run=$(base64 -w0 <<<"$script")" "$@")
}

linux() {
	linux_command "$@"
	run --separate-stderr timeout -k 5 "${GUEST_SECONDS:-150}" "${command[@]}" </dev/null
}

linux_start() {
	linux_command "$@"
	timeout -k 5 "${GUEST_SECONDS:-150}" "${command[@]}" </dev/null >"$dir/console" 2>"$dir/err" 3>&- &
	vm=$!
}

linux_await() {
	local end=$((SECONDS + ${2:-180}))

	while ! grep -qF -- "$1" "$dir/console"; do
		if [ $SECONDS -ge $end ] || ! kill -0 "$vm" 2>/dev/null; then
			echo "no '$1':"
			tail -n 30 "$dir/console" "$dir/err"
			return 1
		fi
		sleep 0.1
	done
}

linux_wait() {
	status=0
	wait "$vm" || status=$?
	vm=
	output=$(<"$dir/console") stderr=$(<"$dir/err")
}

linux_teardown() {
	local pid

	for pid in ${vm:-} "${helpers[@]}"; do
		# What it started goes first: timeout could not take it along.
		pkill -KILL -P "$pid" 2>/dev/null || true
		kill -KILL "$pid" 2>/dev/null || true
	done
}

fine() {
	[ "$status" = 0 ] && [[ $output == *"# fine"* ]] && [ -z "$stderr" ] && return
	echo "status $status"
	tail -n 40 <<<"$output"
	tail -n 40 <<<"$stderr"
	return 1
}
