#!/usr/bin/env bash
# Accepted lengths: a target, every variant of its draft over three seeds, and where the paper's modules should help most.
#   docs/benchmarks/drafts.sh DATASET WORK [PRESET [DEVICE]]
# TARGET_STEPS, DRAFT_STEPS and SHORT_STEPS, USERS, JOBS (trainings at a time) change the size of it all.
set -euo pipefail
dataset=$1 work=$2 preset=${3:-small} device=${4:-cuda}
jobs=${JOBS:-8} users=${USERS:-500}
mkdir -p "$work"

padrec() { python3 -m service.cli "$@"; }
train() {  # NAME VARIANT SEED STEPS LISTS [OPTION ...]
  local name=$1 variant=$2 seed=$3 steps=$4 lists=$5
  shift 5
  padrec train draft "$dataset" --target "$work/bundle" --preset "$preset" --device "$device" --variant "$variant" \
    --seed "$seed" --steps "$steps" --lists "$work/$lists" --out "$work/$name" "$@" 2> "$work/$name.log"
}
measure() {  # NAME DRAFT [OPTION ...]
  local name=$1 draft=$2
  shift 2
  padrec bench decode "$work/bundle" "$dataset" --draft "$work/$draft" --device "$device" --batch 32 --users "$users" \
    --repeats 1 --check 0 --compare '' --json "$work/$name.json" "$@" > "$work/$name.log" 2>&1
}
export -f padrec train measure
export dataset work preset device users

[ -d "$work/bundle" ] || padrec bundle build "$dataset" --preset "$preset" --device "$device" \
  --steps "${TARGET_STEPS:-1500}" --no-draft --out "$work/bundle"

steps=${DRAFT_STEPS:-600} short=${SHORT_STEPS:-50}
for seed in 0 1 2; do train "none-$seed" none "$seed" "$steps" "lists-$seed.npz" & done
for seed in 0 1 2; do until [ -f "$work/lists-$seed.npz" ]; do sleep 1; done; done
{
  for variant in slots both item step; do
    for seed in 0 1 2; do echo "train $variant-$seed $variant $seed $steps lists-$seed.npz"; done
  done
  for variant in none both; do
    for seed in 0 1 2; do
      echo "train one-step-$variant-$seed $variant $seed $steps lists-$seed.npz --unroll 1"
      echo "train short-$variant-$seed $variant $seed $short short-$variant-$seed.npz"
    done
  done
} | xargs -P "$jobs" -I{} bash -c '{}'
wait
{
  for variant in none item step both slots; do
    for seed in 0 1 2; do
      echo "measure accepted-$variant-$seed $variant-$seed"
      echo "measure sampled-$variant-$seed $variant-$seed --temperature 1 --tree tree"
    done
  done
  for seed in 0 1 2; do
    echo "measure unconstrained-none-$seed none-$seed --unconstrained"
    for variant in none both; do
      echo "measure accepted-one-step-$variant-$seed one-step-$variant-$seed --passes 8"
      echo "measure accepted-short-$variant-$seed short-$variant-$seed"
    done
  done
} | xargs -P "$jobs" -I{} bash -c '{}'
echo measured
