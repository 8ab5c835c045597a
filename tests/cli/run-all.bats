#!/usr/bin/env bats
# What tests/run-all makes of runners that go wrong: each in a project of its own, which has the runner,
# a build that does nothing, and the .bats files that a test puts there. `bats` in it is a shell, so that
# those files can say and do anything.

setup() {
	project=$BATS_TEST_TMPDIR/project
	mkdir -p "$project"/{tests/cli,tools,bin}
	cp "$BATS_TEST_DIRNAME/../run-all" "$project/tests"
	printf '#!/bin/sh\n' >"$project/tools/setup"
	printf '#!/bin/sh\nshift; exec bash "$1"\n' >"$project/bin/bats"
	chmod +x "$project/tools/setup" "$project/bin/bats"
	printf 'all:\n' >"$project/Makefile"
}

# runner NAME TEXT: a file of tests/cli.
runner() {
	printf '%s\n' "$2" >"$project/tests/cli/$1.bats"
}

# sum_up: runs all; then $line is the last line, $code the exit status.
sum_up() {
	code=0
	env -u MAKEFLAGS -u MAKELEVEL -u BUILD -u SANITIZE PATH="$project/bin:$PATH" \
		"$project/tests/run-all" cli >"$BATS_TEST_TMPDIR/out" 2>&1 || code=$?
	line=$(tail -n 1 "$BATS_TEST_TMPDIR/out")
}

# Setup and build are two tests that pass.
@test "what passes is added up" {
	runner a $'echo 1..2; echo ok 1 a; echo ok 2 b'
	runner b $'echo ok 1 a; echo 1..1'
	sum_up
	[ "$line" = "5 passed, 0 failed" ]
	[ $code = 0 ]
}

@test "what fails is shown, and is the exit status" {
	runner a $'echo 1..2; echo ok 1 a; echo not ok 2 the one; echo "# because"; exit 1'
	sum_up
	[ "$line" = "3 passed, 1 failed" ]
	[ $code = 1 ]
	grep -q "not ok 2 the one" "$BATS_TEST_TMPDIR/out"
	grep -q "# because" "$BATS_TEST_TMPDIR/out"
}

@test "a crash is a failure, also after all tests passed" {
	runner a $'echo 1..2; echo ok 1 a; kill -SEGV $$'
	runner b $'echo 1..1; echo ok 1 a; kill -SEGV $$'
	runner c $'echo 1..1; echo ok 1 a; exit 1'
	sum_up
	[ "$line" = "5 passed, 3 failed" ]
}

@test "no tests at all are a failure" {
	runner a 'true'
	runner b 'echo 1..0'
	sum_up
	[ "$line" = "2 passed, 2 failed" ]
}

@test "fewer or more tests than announced, or none announced, are a failure" {
	runner a $'echo 1..3; echo ok 1 a'
	runner b $'echo 1..1; echo ok 1 a; echo ok 2 a'
	runner c $'echo ok 1 a'
	sum_up
	[ "$line" = "6 passed, 3 failed" ]
}

@test "a runner that hangs is ended and counted" {
	runner a $'# timeout: 1\necho 1..1; echo ok 1 a; sleep 100'
	sum_up
	[ "$line" = "3 passed, 1 failed" ]
	grep -q "out of time" "$BATS_TEST_TMPDIR/out"
}

@test "skipped tests are neither passed nor failed" {
	runner a $'echo 1..2; echo ok 1 a; echo "ok 2 b # skip no such thing here"'
	sum_up
	[ "$line" = "3 passed, 0 failed" ]
	grep -q "^1 skipped" "$BATS_TEST_TMPDIR/out"
}

@test "a build that fails is a failure, and nothing is tested" {
	printf 'all:\n\techo broken >&2; false\n' >"$project/Makefile"
	runner a $'echo 1..1; echo ok 1 a'
	sum_up
	[ "$line" = "1 passed, 1 failed" ]
	grep -q broken "$BATS_TEST_TMPDIR/out"
}

@test "an unknown phase is named" {
	run "$project/tests/run-all" nonsense
	[ "$status" = 2 ]
	[[ $output == *"unknown phase 'nonsense'"* ]]
}
