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
		"$project/tests/run-all" "${phase:-cli}" >"$BATS_TEST_TMPDIR/out" 2>&1 || code=$?
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

# testbed TEXT: makes the machine one that needs the testbed, with one file of integration tests in it; what runs
# there for the Nth time is TEXT, with $n.
testbed() {
	mkdir -p "$project"/{build,tests/testbed,tests/integration}
	printf '#!/bin/sh\necho "slow here" >&2; exit 1\n' >"$project/build/revirter"
	printf '@test "one [x]" {\n\ttrue\n}\n@test "two" {\n\ttrue\n}\n' >"$project/tests/integration/a.bats"
	printf '#!/bin/sh\ntrue\n' >"$project/tests/testbed/run"
	printf '#!/bin/bash\n[ "${*: -1}" != true ] || exit 0\necho "$*" >>calls; n=$(wc -l <calls)\n%s\n' "$1" \
		>"$project/tests/testbed/run"
	printf '#!/bin/sh\necho 2\n' >"$project/bin/bats"
	chmod +x "$project/build/revirter" "$project/tests/testbed/run"
	phase=integration
}

@test "what fails in a testbed is tried once more, and only that" {
	testbed '[ $n = 1 ] || { echo 1..1; echo ok 1 one [x]; exit; }
		echo 1..2; echo not ok 1 one [x]; echo "# bad luck"; echo ok 2 two; exit 1'
	sum_up
	[ "$line" = "5 passed, 0 failed" ]
	[ $code = 0 ]
	grep -q "^note  integration/a: once more" "$BATS_TEST_TMPDIR/out"
	grep -q "bad luck" "$BATS_TEST_TMPDIR/out"
	[ "$(wc -l <"$project/calls")" = 2 ]
	grep -qF -- '--filter ^(one \[x\])$ ' "$project/calls"
}

@test "what a testbed did not come to is tried once more" {
	testbed '[ $n = 1 ] || { echo 1..1; echo ok 1 two; exit; }
		echo 1..2; echo ok 1 one [x]; exit 125'
	sum_up
	[ "$line" = "5 passed, 0 failed" ]
	grep -qF -- '--filter ^(two)$ ' "$project/calls"
}

@test "what fails twice in testbeds has failed" {
	testbed '[ $n -gt 1 ] || { echo 1..2; echo ok 1 two; }; echo not ok 2 one [x]; exit 1'
	sum_up
	[ "$line" = "4 passed, 1 failed" ]
	rm "$project/calls"
	testbed 'exit 125'
	sum_up
	[ "$(wc -l <"$project/calls")" = 2 ]
	[ "$line" = "3 passed, 1 failed" ]
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
