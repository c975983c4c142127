#!/usr/bin/env bash
# The tables of docs/quality.md: bundles of several seeds, their lists and beams beside the baselines, test split.
#   docs/benchmarks/quality.sh DATASET WORK [OPTION-OF-EVALUATE ...]
# SEEDS, PRESET, DEVICE and SPLIT change what is built and asked. Lists are compared token for token in float32.
set -euo pipefail
dataset=$1 work=$2
shift 2
split=${SPLIT:-test} preset=${PRESET:-small} device=${DEVICE:-cuda}
mkdir -p "$work"

padrec() { python3 -m service.cli "$@"; }
evaluate() {  # NAME OPTION ...: of a seed's bundle
  local name=$1
  shift
  padrec evaluate "$work/$seed" "$dataset" --split "$split" --device "$device" --json "$work/$seed-$name.json" "$@"
}

for seed in ${SEEDS:-0 1 2}; do
  [ -f "$work/$seed/manifest.json" ] || (
    time padrec bundle build "$dataset" --preset "$preset" --device "$device" --seed "$seed" --out "$work/$seed"
  ) 2>&1 | tee "$work/$seed-build.log"
  evaluate main --decoding list --decoding beam --baseline popularity --baseline item-knn --baseline sasrec --seed "$seed" "$@" & main=$!
  evaluate float32 --decoding list --speculative --dtype float32 --baseline popularity "$@"
  wait "$main"
done
seed=${SEEDS:-0}
seed=${seed%% *}
evaluate latency --decoding list --decoding beam --speculative --baseline item-knn --latency 200 "$@"
padrec bench plot "$work/$seed-latency.json" --what quality --out "$work/quality.svg"
