#!/bin/bash
# Runs a test binary for cargo, and notes how long each test took: `SECONDS NAME`, one line a test, at the end of the file that
# TEST_TIMES names. What is shown is what the binary would have shown without it, and so is the exit status.
#
#   cargo test --config "target.'cfg(all())'.runner=['tests/scripts/timed.sh']"
#
# libtest tells times only as an unstable option, which a stable one takes with RUSTC_BOOTSTRAP. A benchmark is run as it is: its
# harness is its own and knows no such option. So is a documentation test, whose output rustdoc reads itself.
set -euo pipefail

if [ -z "${TEST_TIMES:-}" ] || [[ $1 != */deps/* ]] || ! grep --quiet --text --fixed-strings report-time "$1"; then
  exec "$@"
fi

# Its output is a pipe here.
color=()
[ -t 1 ] && color=(--color always)

set +e
RUSTC_BOOTSTRAP=1 "$@" -Z unstable-options --report-time "${color[@]}" | while IFS= read -r line || [ -n "$line" ]; do
  # With `--nocapture` what a test prints stands between its name and how it ended.
  if [[ $line =~ ^(test\ .*\ \.\.\.\ .*|[^\ ]*ok[^\ ]*|[^\ ]*FAILED[^\ ]*)\ \<([0-9]+\.[0-9]+)s\>$ ]]; then
    line=${BASH_REMATCH[1]} seconds=${BASH_REMATCH[2]}
    [[ $line =~ ^test\ (.*)\ \.\.\. ]] && printf '%s %s\n' "$seconds" "${BASH_REMATCH[1]}" >>"$TEST_TIMES"
  fi
  printf '%s\n' "$line"
done
exit "${PIPESTATUS[0]}"
