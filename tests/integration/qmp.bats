#!/usr/bin/env bats
# QMP and the terminal where Linux answers. tests/cli/qmp.bats has what needs no more than a tiny guest.
# prepare: tests/integration/linux-kit
# timeout: 600

bats_require_minimum_version 1.5.0
load linux
load ../guest/qmp

setup_file() {
	linux_kit
}

setup() {
	cd "$dir" || return
}

teardown() {
	linux_teardown
}

@test "-nographic: Ctrl-C and Ctrl-A Ctrl-A reach the guest" {
	linux_command 'stty -F /dev/ttyS0 raw -echo; echo listening; dd if=/dev/ttyS0 bs=1 count=3 2>/dev/null | hexdump -C'
	for i in "${!command[@]}"; do
		[ "${command[$i]}" != -nodefaults ] || command[i]=-nographic
	done
	# -nographic with the default serial port in place of the words for a pipe.
	command=("${command[@]/#-serial/-name}")
	command=("${command[@]/#stdio/x}")
	command=("${command[@]/#-monitor/-name}")
	command=("${command[@]/#none/y}")
	for i in "${!command[@]}"; do
		[ "${command[$i]}" != -display ] || unset "command[$i]" "command[$((i + 1))]"
	done
	terminal '[("listening", "\x03\x01\x01z")]' "${command[@]}"
	said listening "03 01 7a" "same modes" "status 0"
}

@test "the guest's clock does not jump over a stop" {
	linux_start 'read -r a b </proc/uptime; while :; do echo tick; usleep 100000; read -r c d </proc/uptime
		x=$((${c%.*} - ${a%.*})); [ $x -lt 6 ] || echo "jump of $x"; a=$c; dmesg | grep -iE "stall|unstable|lockup" || true; done' \
		-qmp unix:qmp,server=on,wait=off
	linux_await tick
	run qmp stop -- event:STOP
	said '"STOP"'
	sleep 10
	ticks=$(grep -c tick console)
	run qmp cont -- event:RESUME
	said '"RESUME"'
	for _ in {1..600}; do
		[ "$(grep -c tick console)" -lt $((ticks + 20)) ] || break
		sleep 0.1
	done
	[ "$(grep -c tick console)" -ge $((ticks + 20)) ]
	qmp quit
	ended 0
	run cat console
	[[ $output != *jump* && $output != *stall* && $output != *unstable* && $output != *lockup* ]]
}

# balloon_reaches BYTES: what the guest has, within a minute.
balloon_reaches() {
	local end=$((SECONDS + 60))

	until run qmp query-balloon && [[ $output == *"{\"actual\": $1}"* ]]; do
		if [ $SECONDS -ge $end ]; then
			said "{\"actual\": $1}"
			return
		fi
		sleep 0.2
	done
}

@test "balloon: shrinks, tells, grows again" {
	linux_start 'echo before $(sed -n "s/^MemTotal: *//p" /proc/meminfo); sleep 1000' -device virtio-balloon-pci,id=b -m 384 \
		-qmp unix:qmp,server=on,wait=off
	linux_await before
	run qmp query-balloon -- balloon value=268435456 -- event:BALLOON_CHANGE
	said '{"actual": 402653184}' '"BALLOON_CHANGE", "data": {"actual": '
	balloon_reaches 268435456
	qmp balloon value=402653184
	balloon_reaches 402653184
	run qmp qom-set path=/machine/peripheral/b property=guest-stats-polling-interval value=1
	sleep 5
	run qmp qom-get path=/machine/peripheral/b property=guest-stats -- quit
	[[ $output =~ '"stat-total-memory": '([0-9]+) ]]
	[ "${BASH_REMATCH[1]}" -gt 300000000 ] && [ "${BASH_REMATCH[1]}" -lt 402653184 ]
	linux_wait
	[ "$status" = 0 ]
}

@test "Linux answers the power button, and its panic is told" {
	local wait_for_button='for e in /sys/class/input/event*; do
		! grep -q "Power Button" $e/device/name || button=/dev/input/${e##*/}; done
		echo listening; head -c 24 $button >/dev/null; echo pressed'

	linux_start "$wait_for_button" -qmp unix:qmp,server=on,wait=off
	linux_await listening
	run qmp system_powerdown -- event:POWERDOWN -- event:SHUTDOWN
	said '"POWERDOWN"' '"guest-shutdown"'
	linux_wait
	fine
	[[ $output == *pressed* ]]

	linux_start "$wait_for_button; echo c >/proc/sysrq-trigger" -device pvpanic -qmp unix:qmp,server=on,wait=off
	linux_await listening
	run qmp system_powerdown -- event:GUEST_PANICKED -- event:SHUTDOWN
	said '"GUEST_PANICKED"' '"guest-panic"'
	linux_wait
	[ "$status" = 0 ]
}
