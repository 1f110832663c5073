#!/bin/bash
# device_check.sh BUILD SOURCE [PART...]: the proof on a machine with a CUDA device, from the build
# folder alone. Parts: golden, units (graphs, strides), proof (of every operator), sweep, sanitize
# (compute-sanitizer on golden cases, units and a sample of the sweep). Prints a line per part;
# exits with the number of failures.
set -u
build=$1 source=$2
shift 2
parts=${*:-golden units proof sweep sanitize}
export LD_LIBRARY_PATH=$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
failures=0

check() {  # NAME COMMAND...: shows the end of what failed
  local name=$1 start=$SECONDS log
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1; then
    echo "ok   $name ($((SECONDS - start)) s): $(grep -v '^=* *$' "$log" | tail -2 | tr '\n' ' ')"
  else
    echo "FAIL $name ($((SECONDS - start)) s): $*"
    tail -25 "$log"
    failures=$((failures + 1))
  fi
  rm -f "$log"
}

golden=("$build/tests/golden" --device cuda -q "$source/tests/golden")
sweep=("$build/tests/sweep" --device cuda)
for part in $parts; do
  case $part in
    golden) check golden "${golden[@]}" ;;
    units) check units "$build/tests/gpu_tests" ;;
    proof)
      for what in graph memory threads noise bounds large; do
        check "proof $what" "$build/tests/proof" "$source/tests/cases" "$what"
      done
      ;;
    sweep) check sweep "${sweep[@]}" "$source/tests/cases" ;;
    sanitize)
      for tool in memcheck racecheck initcheck synccheck; do
        tool_run=(compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 300)
        check "$tool golden" "${tool_run[@]}" "${golden[@]}"
        check "$tool sweep" "${tool_run[@]}" "${sweep[@]}" --runs 1 --limit 20000 --seed 3 \
          "$source/tests/cases"
      done
      check "memcheck units" compute-sanitizer --error-exitcode 9 "$build/tests/gpu_tests" "graph*"
      ;;
    *) echo "no part $part" ; exit 2 ;;
  esac
done
echo "$failures failed"
exit "$failures"
