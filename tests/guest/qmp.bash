# qmp.bash: for .bats files that talk QMP to machines that run. It stands on tests/integration/linux.bash, loaded before.
#
#	qmp STEP…		a conversation on the socket $socket (qmp)
#	tiny WORD…		revirter with the guest tests/guest/ports.c, which waits for the power button: $vm
#	launch CMD…		the same of any command
#	running			waits until that guest has started
#	ended STATUS		the machine ended by itself, with nothing to complain about
#	gone FILE…		they are removed, soon
#	said TEXT…		the answers in $output have them, in this order
#	terminal KEYS CMD…	runs it on a terminal
# shellcheck shell=bash disable=SC2034,SC2154
guests=$build/tests/guest

# qmp STEP…: a conversation on the socket qmp; see tests/cli/qmp_client.py.
qmp() {
	timeout -k 5 90 "$BATS_TEST_DIRNAME/../cli/qmp_client.py" --timeout 60 --wait 30 "${socket:-qmp}" "$@"
}

# launch CMD… : in the background, serial port in the file console, QMP on the socket qmp.
launch() {
	: >console
	timeout -k 5 120 "$@" -nodefaults -display none -serial file:console -m 64 -device isa-debug-exit \
		-qmp unix:qmp,server=on,wait=off </dev/null >out 2>err 3>&- &
	vm=$!
}

# tiny WORD…: revirter with a guest that waits for the power button.
tiny() {
	local command

	read -ra command <<<"$vmm"
	launch "${command[@]}" -M q35 -kernel "$guests/ports" -append "wait=button" "$@"
}

running() {
	linux_await "waiting for the power button"
}

# gone FILE…: soon, as its own process removes them when the machine has ended.
gone() {
	local file

	for file in "$@"; do
		for _ in {1..100}; do
			[ -e "$file" ] || break
			sleep 0.1
		done
		[ ! -e "$file" ] || return
	done
}

# ended STATUS: by itself, with nothing to complain about.
ended() {
	local code=0

	wait "$vm" || code=$?
	vm=
	cat err
	[ "$code" = "$1" ] && [ ! -s err ] && gone qmp
}

# said TEXT…: the answers have them, in this order.
said() {
	local rest=$output text

	for text in "$@"; do
		if [[ $rest != *"$text"* ]]; then
			echo "no $text in: $output"
			return 1
		fi
		rest=${rest#*"$text"}
	done
}

# terminal KEYS CMD…: with a pty as terminal; KEYS is python: a list of (text awaited, keys then pressed).
# What was on the screen is in $output; the terminal's modes afterwards in the file modes.
terminal() {
	local keys=$1

	shift
	output=$(timeout -k 5 120 python3 -c '
import ast, os, pty, select, sys, termios, time
steps = ast.literal_eval(sys.argv[1])
fd, terminal = pty.openpty()
before, seen = termios.tcgetattr(terminal), b""
pid = os.fork()
if pid == 0:
    os.login_tty(os.dup(terminal))
    os.execvp(sys.argv[2], sys.argv[2:])
for text, keys in steps:
    while text.encode() not in seen:
        if not select.select([fd], [], [], 60)[0]:
            print(seen.decode(errors="replace"))
            sys.exit("no " + text)
        seen += os.read(fd, 65536)
    if text:
        print(seen.decode(errors="replace"), flush=True)
        seen = b""
    os.write(fd, keys.encode())
end = time.time() + 90
while time.time() < end:
    done, status = os.waitpid(pid, os.WNOHANG)
    if select.select([fd], [], [], 0.1)[0]:
        try:
            seen += os.read(fd, 65536)
        except OSError:
            pass
    if done:
        break
print(seen.decode(errors="replace"))
print("same modes" if termios.tcgetattr(terminal) == before else "other modes")
print("status", os.waitstatus_to_exitcode(status) if done else "none")
' "$keys" "$@" 2>&1 3>&-) || { echo "$output"; return 1; }
}
