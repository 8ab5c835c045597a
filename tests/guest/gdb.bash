# gdb.bash: for .bats files that put a real gdb to work on the guest tests/guest/debug.c.
#
#	tiny WORD…		revirter with that guest: $vm; its console in the file console, gdb on the socket gdb
#	launch CMD…		the same of another monitor
#	address SYMBOL		where it is in that guest
#	debug COMMAND…		gdb, connected to the socket gdb: $output
#	said TEXT…		the output has them, in this order
#	ended STATUS [FILE]	the machine ended by itself, with nothing to complain about in FILE (err)
#
# The .bats file has set $build and $vmm, and gone to a folder of its own.
# shellcheck shell=bash disable=SC2034,SC2154
guests=$build/tests/guest
vm=
helpers=()

# address SYMBOL: of the tiny guest.
address() {
	nm "$guests/debug" | awk -v name="$1" '$3 == name { print "0x" $1 }'
}

# launch CMD… : in the background, serial port in the file console, gdb on the socket gdb.
launch() {
	: >console
	timeout -k 5 240 "$@" -nodefaults -display none -serial file:console -monitor none -m 64 \
		-device isa-debug-exit -M q35 -kernel "$guests/debug" \
		-gdb unix:gdb,server=on,wait=off </dev/null >out 2>err 3>&- &
	vm=$!
}

# tiny WORD…: revirter with the guest debug.
tiny() {
	local command

	read -ra command <<<"$vmm"
	launch "${command[@]}" "$@"
}

# await_guest [TEXT]: until it has said so; by itself it says when it is in its loop.
await_guest() {
	for _ in {1..300}; do
		! grep -q "${1:-ready}" console || return 0
		sleep 0.1
	done
	return 1
}

# await_socket: until the stub listens.
await_socket() {
	for _ in {1..300}; do
		[ ! -S gdb ] || return 0
		sleep 0.1
	done
	return 1
}

# debug COMMAND…: gdb, to the socket gdb; what it prints in $output.
debug() {
	local words=() command

	for command in "$@"; do
		words+=(-ex "$command")
	done
	await_socket
	run timeout -k 5 120 gdb -nx -q -batch -ex "set pagination off" -ex "set tcp connect-timeout 60" \
		-ex "set remotetimeout 60" -ex "target remote gdb" "${words[@]}" </dev/null
	echo "$output"
	[ "$status" = 0 ]
}

# said TEXT…: the output has them, in this order.
said() {
	local rest=$output text

	for text in "$@"; do
		if [[ $rest != *"$text"* ]]; then
			echo "no '$text' in: $output"
			return 1
		fi
		rest=${rest#*"$text"}
	done
}

# ended STATUS: by itself.
ended() {
	local code=0

	wait "$vm" || code=$?
	vm=
	cat err
	[ "$code" = "$1" ] && [ ! -s "${2:-err}" ]
}
