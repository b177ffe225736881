#!/usr/bin/env bash
# The whole GPU round in one command:
#
#     benchmarks/gpu_round.sh [--dry-run] [OUTPUT_FOLDER]
#
# builds and installs the package beside the checkout (no network, nothing replaced in the
# environment), runs the operators' tests against their float64 reference on the GPU, once more under
# compute-sanitizer where there is one, reports registers, and runs the benchmarks. OUTPUT_FOLDER
# (default: gpu-round) receives the log of each step, benchmarks.json, registers.json, device.json
# and round.json, the steps with their status and seconds. A failing step does not stop the others;
# the exit status is 1 if any failed.
#
# GPU_ROUND_STEPS="tests benchmarks" takes these steps alone, after the installation: a machine may
# allow a command less time than the whole round needs.
#
# --dry-run takes the same way without a GPU: the installation without native code, the tests and
# benchmarks of what can run on the CPU, cut short. PYTHON chooses the interpreter, which needs
# torch, pytest, pytest-benchmark, setuptools, pybind11 and ninja.
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
python=${PYTHON:-python3}
only=${GPU_ROUND_STEPS:-}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
# Not in the checkout: its plasticine folder, which holds no binaries, would hide the installed one.
mkdir "$site/empty"
cd "$site/empty"

steps=()
failed=0

# step NAME COMMAND...: runs a command, keeps its log, status and seconds.
step() {
  local name=$1 status=0 start=$SECONDS
  shift
  if [[ -n $only && " install device $only " != *" $name "* ]]; then
    absent "$name" "not asked for"
    return
  fi
  echo "== $name"
  "$@" >"$output/$name.log" 2>&1 || status=$?
  tail -n 3 "$output/$name.log" | sed 's/^/   /'
  if [[ $status -ne 0 ]]; then
    failed=1
    echo "   FAILED with status $status: see $output/$name.log"
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
import json, pathlib, subprocess, sys

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
revision = ["git", "-C", sys.argv[2], "describe", "--always", "--dirty"]
record["revision"] = subprocess.run(revision, capture_output=True, text=True).stdout.strip()
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

install=("$python" -m pip install --no-build-isolation --no-deps --no-index
  --target "$site/packages" "$root")
benchmark=(run_pytest "$root/benchmarks" --benchmark-only
  "--benchmark-json=$output/benchmarks.json")

if [[ $dry_run -eq 1 ]]; then
  # The installed copy holds no native code: it shows that the step works, and is not used further.
  step install env PLASTICINE_NATIVE=0 "${install[@]}"
  step device describe
  step tests run_pytest "$root/tests/test_warp.py" -k "reference_on_cpu and 2d-thin"
  step benchmarks "${benchmark[@]}" --device cpu \
    -k "test_warp and 2d-128x128 and (grid_sample or plasticine)"
  step registers "$python" "$root/benchmarks/register_report.py" --help
  absent sanitizer "this is a dry run"
else
  step install env PLASTICINE_CUDA=1 "${install[@]}"
  export PYTHONPATH="$site/packages${PYTHONPATH:+:$PYTHONPATH}"
  step device describe
  step tests run_pytest "$root"/tests/test_{warp,cuda_build,kernels_triton,backends}.py
  step benchmarks "${benchmark[@]}" --device cuda
  if command -v nvcc >/dev/null || [[ -n ${CUDACXX:-} ]]; then
    step registers "$python" "$root/benchmarks/register_report.py" \
      --output "$output/registers.json"
  else
    absent registers "nvcc is not on PATH"
  fi
  if command -v compute-sanitizer >/dev/null; then
    # Every tensor gets an allocation of its own, so that a step past its end is seen.
    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    for tool in memcheck racecheck; do
      step "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 1 \
        "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" \
        -o addopts=--import-mode=importlib -p no:cacheprovider -q "$root/tests/test_warp.py" \
        -k "cuda_on_cuda and equals_the_float64_reference and float32"
    done
  else
    absent sanitizer "compute-sanitizer is not on PATH"
  fi
fi

printf '{"dry_run": %s, "steps": [\n  %s\n]}\n' \
  "$([[ $dry_run -eq 1 ]] && echo true || echo false)" \
  "$(printf '%s,\n  ' "${steps[@]}" | sed '$d' | sed '$s/,$//')" >"$output/round.json"
"$python" -m json.tool "$output/round.json" >/dev/null
echo "== results in $output"
exit "$failed"
