#!/usr/bin/env bash
# The whole GPU round in one command:
#
#     benchmarks/gpu_round.sh [--dry-run] [OUTPUT_FOLDER]
#
# builds and installs the package beside the checkout (no network, nothing replaced in the
# environment), runs every operator's tests on the GPU against float64, streams, graphs, determinism
# and large indices, compute-sanitizer on a small case of every kernel, the registers, the benchmarks
# with the bandwidth of a copy first, and ncu on one size of each. What this machine has no tool for
# is left out, with the reason. OUTPUT_FOLDER (default: gpu-round) receives round.json, the steps with
# their status and seconds, device.json, report.md, and results.tar.gz with all else, as a machine may
# give few files back: the log of each step, benchmark-*.json, registers.json, ncu.csv. The next call
# with the same folder goes on from there. A failing step does not stop the others; the exit status
# is 1 if any failed.
#
# GPU_ROUND_STEPS="tests-* benchmark-warp" takes these steps alone, after the installation: a machine
# may allow a command less time than the whole round needs. GPU_ROUND_SITE=FOLDER keeps the installed
# package there for the next call. GPU_ROUND_WHEELS=FOLDER installs the wheels in it, peers that are
# to be measured, beside it. GPU_ROUND_PROCESSES=8 is how many processes share the operators' tests.
# Every path may be relative.
#
# --dry-run takes the same way without a GPU: the installation without native code, tests and
# benchmarks on the CPU, cut short. PYTHON chooses the interpreter, which needs torch, pytest,
# pytest-benchmark, setuptools, pybind11 and ninja.
set -euo pipefail

dry_run=0
if [[ ${1:-} == --dry-run ]]; then
  dry_run=1
  shift
fi
output=${1:-gpu-round}
mkdir -p "$output"
output=$(cd "$output" && pwd)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# absolute PATH: from the folder that the script was called in, which it leaves. Links are kept: that
# to an environment's interpreter is what makes it one.
absolute() {
  case $1 in
    /*) printf '%s' "$1" ;;
    *) printf '%s/%s' "$PWD" "$1" ;;
  esac
}

python=${PYTHON:-python3}
[[ $python != */* ]] || python=$(absolute "$python")
data=$(absolute "${PLASTICINE_DATA:-$root/../shared/data}")
export PLASTICINE_DATA=$data
wheels=${GPU_ROUND_WHEELS:+$(absolute "$GPU_ROUND_WHEELS")}
if [[ ${CUDACXX:-} == */* ]]; then
  CUDACXX=$(absolute "$CUDACXX")
  export CUDACXX
fi
if [[ -n ${PYTHONPATH:-} ]]; then
  IFS=: read -ra entries <<<"$PYTHONPATH"
  PYTHONPATH=
  for entry in "${entries[@]}"; do
    PYTHONPATH+=${PYTHONPATH:+:}$(absolute "$entry")
  done
  export PYTHONPATH
fi
processes=${GPU_ROUND_PROCESSES:-8}
read -ra only <<<"${GPU_ROUND_STEPS:-*}"
if [[ -n ${GPU_ROUND_SITE:-} ]]; then
  mkdir -p "$GPU_ROUND_SITE"
  site=$(cd "$GPU_ROUND_SITE" && pwd)
else
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
fi
# Not in the checkout: its plasticine folder, which holds no binaries, would hide the installed one.
mkdir -p "$site/empty"
cd "$site/empty"

# What an earlier call packed.
if [[ -f $output/results.tar.gz ]]; then
  tar -xzf "$output/results.tar.gz" -C "$output"
  rm "$output/results.tar.gz"
fi

steps=()
failed=0

# asked NAME: whether GPU_ROUND_STEPS holds a step.
asked() {
  local pattern
  for pattern in install wheels device "${only[@]}"; do
    # shellcheck disable=SC2053  # a pattern it is
    [[ $1 == $pattern ]] && return 0
  done
  return 1
}

# step NAME COMMAND...: runs a command, keeps its log, status and seconds.
step() {
  local name=$1 status=0 start=$SECONDS
  shift
  if ! asked "$name"; then
    absent "$name" "not asked for"
    return
  fi
  echo "== $name"
  "$@" >"$output/$name.log" 2>&1 || status=$?
  tail -n 3 "$output/$name.log" | sed 's/^/   /'
  if [[ $status -ne 0 ]]; then
    failed=1
    echo "   FAILED with status $status: see $name.log in $output/results.tar.gz"
  fi
  steps+=("{\"step\": \"$name\", \"status\": $status, \"seconds\": $((SECONDS - start))}")
}

# absent NAME REASON: a step that this machine cannot take.
absent() {
  echo "== $1: left out, $2"
  steps+=("{\"step\": \"$1\", \"left_out\": \"$2\"}")
}

describe() {
  "$python" - "$output/device.json" "$root" <<'PYTHON'
import json, os, pathlib, subprocess, sys

import plasticine
import torch

record = {"plasticine": plasticine.info(), "cuda": torch.version.cuda, "devices": []}
record["plasticine"].pop("location", None)
for index in range(torch.cuda.device_count()):
    properties = torch.cuda.get_device_properties(index)
    record["devices"].append(
        {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
        }
    )
# Neither git nor the repository need be there: a copy of the tree may be all.
try:
    revision = ["git", "-C", sys.argv[2], "describe", "--always", "--dirty"]
    described = subprocess.run(revision, capture_output=True, text=True).stdout.strip()
except FileNotFoundError:
    described = ""
record["revision"] = described or os.environ.get("GPU_ROUND_REVISION", "unknown")
try:
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,clocks.max.mem", "--format=csv"]
    record["nvidia_smi"] = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")
except FileNotFoundError:
    record["nvidia_smi"] = "absent"
pathlib.Path(sys.argv[1]).write_text(json.dumps(record, indent=1, default=str) + "\n")
print(json.dumps(record["plasticine"]["backends"]))
PYTHON
}

run_pytest() {
  "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" \
    -o addopts=--import-mode=importlib -p no:cacheprovider -q -rs "$@"
}

# run_shares ARGUMENTS...: run_pytest in several processes beside each other, each with its share.
run_shares() {
  local part status=0 running=()
  for ((part = 1; part <= processes; part++)); do
    run_pytest "$@" --share "$part/$processes" >"$output/share-$part.log" 2>&1 &
    running+=($!)
  done
  for part in "${!running[@]}"; do
    wait "${running[part]}" || status=$?
  done
  for ((part = 1; part <= processes; part++)); do
    echo "share $part of $processes:"
    cat "$output/share-$part.log"
    rm "$output/share-$part.log"
  done
  return "$status"
}

install=("$python" -m pip install --no-build-isolation --no-deps --no-index
  --target "$site/packages" "$root")
# Every test that goes through the backends.
mapfile -t operators < <(grep -lw served "$root"/tests/test_*.py)
sanitized=(-m pytest -c "$root/pyproject.toml" --rootdir "$root"
  -o addopts=--import-mode=importlib -p no:cacheprovider -q "$root/tests/test_on_gpu.py")

# benchmark FILE ARGUMENTS...: one file of benchmarks, as a step of its own.
benchmark() {
  local name
  name=$(basename "$1" .py)
  step "benchmark-${name#bench_}" run_pytest "$@" --benchmark-only \
    "--benchmark-json=$output/benchmark-${name#bench_}.json"
}

# The copy first: its rate is what the others are measured by.
benchmarks=("$root/benchmarks/bench_copy.py")
for file in "$root"/benchmarks/bench_*.py; do
  [[ $file == */bench_copy.py ]] || benchmarks+=("$file")
done

install_wheels() {
  if [[ -n $wheels ]]; then
    step wheels "$python" -m pip install --no-deps --no-index --upgrade \
      --target "$site/packages" "$wheels"/*.whl
  fi
}

report() {
  PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" \
    "$python" -m benchmarks.report "$output"/benchmark-*.json | tee "$output/report.md"
}

if [[ $dry_run -eq 1 ]]; then
  # The installed copy holds no native code: it shows that the step works, and is not used further.
  step install env PLASTICINE_NATIVE=0 "${install[@]}"
  install_wheels
  step device describe
  step tests-operators run_shares "${operators[@]}" --most-on-gpu 6 \
    -k "reference_on_cpu and 2d-thin"
  step tests-on-gpu run_pytest "$root/tests/test_on_gpu.py" -k "small_case and 2d"
  step tests-kernels run_pytest "$root"/tests/test_{cuda_build,kernels_triton}.py -k nested
  for tool in memcheck racecheck; do
    for backend in cuda triton; do
      absent "sanitizer-$tool-$backend" "this is a dry run"
    done
  done
  step registers "$python" "$root/benchmarks/register_report.py" --help
  for file in "${benchmarks[@]}"; do
    benchmark "$file" --device cpu --cases cuda --tiny --seconds 0 \
      -k "not (compiled or monai or voxelmorph or deepali or interpol)"
  done
  absent translation "$([[ -d $data ]] && echo "this is a dry run" || echo "no data at $data")"
  absent registration "$([[ -d $data ]] && echo "this is a dry run" || echo "no data at $data")"
  absent ncu "this is a dry run"
  step report report
else
  if [[ -d $site/packages/plasticine ]]; then
    absent install "it is in $site"
  else
    step install env PLASTICINE_CUDA=1 "${install[@]}"
  fi
  install_wheels
  export PYTHONPATH="$site/packages${PYTHONPATH:+:$PYTHONPATH}"
  step device describe
  # The CPU's turn of these tests, and every case of each, is the continuous integration's: here a
  # Triton kernel is compiled for nearly each.
  step tests-operators run_shares "${operators[@]}" -k "not on_cpu" --most-on-gpu 6
  step tests-on-gpu run_pytest "$root/tests/test_on_gpu.py"
  step tests-kernels run_pytest "$root"/tests/test_{cuda_build,kernels_triton,backends}.py
  for tool in memcheck racecheck; do
    for backend in cuda triton; do
      if command -v compute-sanitizer >/dev/null; then
        # Every tensor gets an allocation of its own, so that a step past its end is seen.
        step "sanitizer-$tool-$backend" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
          compute-sanitizer --tool "$tool" --error-exitcode 1 \
          "$python" "${sanitized[@]}" -k "small_case and $backend"
      else
        absent "sanitizer-$tool-$backend" "compute-sanitizer is not on PATH"
      fi
    done
  done
  if command -v nvcc >/dev/null || [[ -n ${CUDACXX:-} ]]; then
    step registers "$python" "$root/benchmarks/register_report.py" \
      --output "$output/registers.json"
  else
    absent registers "nvcc is not on PATH"
  fi
  for file in "${benchmarks[@]}"; do
    benchmark "$file" --device cuda
  done
  # A slice's translation: eager, compiled with CUDA graphs, in bfloat16.
  if [[ -d $data ]]; then
    step translation env PYTHONSAFEPATH=1 PYTHONPATH="$PYTHONPATH:$root" \
      "$python" -m benchmarks.translation.timing --device cuda --compile --data "$data" \
      --output "$output/translation_timing.json"
    # A pair at 1 mm, by every budget; and FireANTs' script, where its wheel is among those given.
    step registration env PYTHONSAFEPATH=1 PYTHONPATH="$PYTHONPATH:$root" \
      "$python" -m benchmarks.registration.one_millimetre --device cuda \
      --output "$output/one_millimetre.json"
  else
    absent translation "no data at $data"
    absent registration "no data at $data"
  fi
  if command -v ncu >/dev/null; then
    # Of each operator one size; the range is around the call that would be timed.
    # Its clock control would take the GPU's settings, which may not be ours to change.
    step ncu ncu --clock-control none --target-processes all --nvtx --nvtx-include "measured/" \
      --section SpeedOfLight --section MemoryWorkloadAnalysis --section LaunchStats \
      --section Occupancy --csv --page details --log-file "$output/ncu.csv" \
      "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" \
      -o addopts=--import-mode=importlib -p no:cacheprovider -q "$root/benchmarks" \
      --device cuda --benchmark-disable --no-peers -k "3d-160x192x224-batch-1-float32"
  else
    absent ncu "ncu is not on PATH"
  fi
  step report report
fi

printf '{"dry_run": %s, "steps": [\n  %s\n]}\n' \
  "$([[ $dry_run -eq 1 ]] && echo true || echo false)" \
  "$(printf '%s,\n  ' "${steps[@]}" | sed '$d' | sed '$s/,$//')" >"$output/round.json"
"$python" -m json.tool "$output/round.json" >/dev/null
(
  cd "$output"
  packed=()
  for file in *; do
    case $file in
      round.json | device.json | report.md) ;;
      *) [[ ! -f $file ]] || packed+=("$file") ;;
    esac
  done
  if [[ ${#packed[@]} -gt 0 ]]; then
    tar -czf results.tar.gz -- "${packed[@]}"
    rm -- "${packed[@]}"
  fi
)
echo "== results in $output"
exit "$failed"
