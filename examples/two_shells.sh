#!/bin/sh
# The README's quickstart: two shells, each with a node of its own, here one after the other.
# `sh examples/two_shells.sh [FILE]`; without a file it makes a small one.
set -eu

work=$(mktemp -d)
sharer=
trap 'test -z "$sharer" || { kill "$sharer" && wait "$sharer"; } 2>/dev/null || true; rm -rf "$work"' EXIT
export LATTICA_LISTEN=/ip4/127.0.0.1/tcp/0 LATTICA_MDNS=off # both shells are on this machine

file=${1:-$work/model.bin}
test -e "$file" || head -c 8000000 /dev/urandom >"$file"

# The first shell. The command prints what the other one runs, and serves until Ctrl-C.
LATTICA_HOME=$work/one lattica share "$file" >"$work/line" &
sharer=$!
while ! test -s "$work/line"; do sleep 0.1; done
cat "$work/line"

# The second shell. On a machine of its own it would not need another home.
LATTICA_HOME=$work/two sh -c "$(cat "$work/line") -o $work/copy"

cmp "$file" "$work/copy" && echo "the copies are the same"
