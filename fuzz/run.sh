#!/bin/bash
# Runs fuzz targets one after the other, each for so many seconds, with lowest priority. Needs a nightly compiler and a C++
# compiler, not cargo-fuzz. What was found lies in fuzz/target/found/TARGET/; the corpus grows in fuzz/target/corpus/TARGET/.
#
#   fuzz/run.sh [-s SECONDS] [TARGET...]
set -euo pipefail
cd "$(dirname "$0")"
seconds=600
if [ "${1:-}" = -s ]; then seconds=$2; shift 2; fi
[ $# -gt 0 ] || set -- reply mail feedback verp intake session rules lists template dns
work=${CARGO_TARGET_DIR:-target}
export CARGO_TARGET_DIR=$work/fuzz
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address -Ccodegen-units=1 \
-Cdebug-assertions -Coverflow-checks --cfg fuzzing"
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
nice -n 19 cargo +nightly build --release --target "$host" --bins
# SQLite's own C code is no business of ours, and one of its tables stands in the program twice.
export ASAN_OPTIONS=detect_odr_violation=0
failed=0
for target in "$@"; do
  mkdir -p "$work/corpus/$target" "$work/found/$target"
  nice -n 19 "$CARGO_TARGET_DIR/$host/release/$target" "$work/corpus/$target" "seeds/$target" \
    -max_total_time="$seconds" -max_len=65536 -timeout=120 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$work/found/$target/" >"$work/$target.log" 2>&1 || failed=1
  echo "== $target"
  grep -E 'stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)|SUMMARY' "$work/$target.log" || true
  grep -E 'cov: ' "$work/$target.log" | tail -1
done
exit $failed
