#!/bin/sh
# Runs every fuzz target of the tree for the time given, one after the other: `fuzzall.sh 10s`.
set -eu
time=${1:-10s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for dir in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
	for target in $(grep -h '^func Fuzz' "$dir"/*_test.go | sed -E 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/'); do
		printf 'fuzz %s %s %s: ' "$dir" "$target" "$time"
		# One execution of minimising: otherwise it eats the whole time of a short run.
		if go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 1x "$dir" >"$log" 2>&1; then
			grep -o 'execs: [0-9]*' "$log" | tail -n 1
		elif grep -q 'context deadline exceeded' "$log" && ! grep -q 'Failing input' "$log"; then
			echo "no failure; go test reports its own deadline as one (golang.org/issue/48591)"
		else
			echo FAILED
			cat "$log"
			exit 1
		fi
	done
done
