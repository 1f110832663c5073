#!/bin/bash
# device_check.sh BUILD SOURCE [PART...]: the proof on a machine with a CUDA device, from the build
# folder, or what device_pack.sh took of it, alone. Parts: golden, units (gpu_tests), proof (of all
# operators), sweep, sanitize (compute-sanitizer, all runs side by side: golden cases and a sample
# of the sweep under every tool, graphs and bad indices under memcheck). OP=name: that one only.
# Prints a line per run; exits with the number of failures.
set -u
build=$1 source=$2
shift 2
parts=${*:-golden units proof sweep sanitize}
export LD_LIBRARY_PATH=$build${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
failed=$(mktemp)

check() {  # NAME COMMAND...: shows the end of what failed
  local name=$1 start=$SECONDS log
  shift
  log=$(mktemp)
  if "$@" >"$log" 2>&1; then
    echo "ok   $name ($((SECONDS - start)) s): $(grep -v '^=* *$' "$log" | tail -2 | tr '\n' ' ')"
  else
    echo "FAIL $name ($((SECONDS - start)) s): $*"
    grep -v ' holds$' "$log" | tail -25
    echo "$name" >>"$failed"
  fi
  rm -f "$log"
}

only=(${OP:+"$OP"})
golden=("$build/tests/golden" --device cuda -q "$source/tests/golden" "${only[@]}")
sweep=("$build/tests/sweep" --device cuda)
proof=("$build/tests/proof" "$source/tests/cases")
sample=("${sweep[@]}" --runs 1 --limit 20000 --seed 3 "$source/tests/cases" "${only[@]}")
sanitizer=(compute-sanitizer --error-exitcode 9 --launch-timeout 300 --tool)
for part in $parts; do
  case $part in
    golden) check golden "${golden[@]}" ;;
    units) check units "$build/tests/gpu_tests" ;;
    proof)
      for what in graph memory threads noise bounds large; do
        check "proof $what" "${proof[@]}" "$what" "${only[@]}"
      done
      ;;
    sweep) check sweep "${sweep[@]}" "$source/tests/cases" "${only[@]}" ;;
    sanitize)
      for tool in memcheck racecheck initcheck synccheck; do
        check "$tool golden" "${sanitizer[@]}" "$tool" "${golden[@]}" &
        check "$tool sweep" "${sanitizer[@]}" "$tool" "${sample[@]}" &
      done
      check "memcheck graph" "${sanitizer[@]}" memcheck "$build/tests/gpu_tests" "graph*" &
      check "memcheck bounds" "${sanitizer[@]}" memcheck "${proof[@]}" bounds "${only[@]}" &
      wait
      ;;
    *) echo "no part $part" ; exit 2 ;;
  esac
done
failures=$(wc -l <"$failed")
rm -f "$failed"
echo "$failures failed"
exit "$failures"
