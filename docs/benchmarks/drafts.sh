#!/usr/bin/env bash
# Accepted lengths: a target, every variant of its draft over three seeds, and where the paper's modules should help most.
#   docs/benchmarks/drafts.sh DATASET WORK [PRESET [DEVICE]]
# TARGET_STEPS, DRAFT_STEPS and SHORT_STEPS, USERS, CHECK (lists compared with the reference), JOBS (at a time) and GPUS (that
# they are spread over; else what is visible) change the size of it all; ONLY is a pattern of the jobs that run.
# SHARED_CODES=1 gives the target one set of code tokens for all slots, and compares the paper's modules alone.
set -euo pipefail
dataset=$1 work=$2 preset=${3:-small} device=${4:-cuda}
users=${USERS:-500} shared=${SHARED_CODES:-}
mkdir -p "$work"

padrec() { python3 -m service.cli "$@"; }
train() {  # NAME VARIANT SEED STEPS [OPTION ...]
  local name=$1 variant=$2 seed=$3 steps=$4
  shift 4
  padrec train draft "$dataset" --target "$work/bundle" --preset "$preset" --device "$device" --variant "$variant" \
    --seed "$seed" --steps "$steps" --lists "$work/lists.npz" --out "$work/$name" "$@" 2> "$work/$name.log"
}
measure() {  # NAME DRAFT [OPTION ...]
  local name=$1 draft=$2
  shift 2
  padrec bench decode "$work/bundle" "$dataset" --draft "$work/$draft" --device "$device" --batch 128 --users "$users" \
    --repeats 1 --no-warm-up --check 0 --compare '' --json "$work/$name.json" "$@" > "$work/$name.log" 2>&1
}
measure_all() {  # VARIANT SEED
  measure "accepted-$1-$2" "$1-$2"
  [ -z "$shared" ] || return 0
  measure "sampled-$1-$2" "$1-$2" --temperature 1 --tree tree
  measure "budgets-$1-$2" "$1-$2" --tree tree --places 75,251
  case $1 in none | slots) ;; *) return 0 ;; esac
  measure "passes-$1-$2" "$1-$2" --tree tree --passes 2,3,4,5,6
  if [ "$2" = 0 ]; then equal "$1-$2"; fi
  if [ "$1" = none ]; then measure "unconstrained-$1-$2" "$1-$2" --unconstrained; fi
}
main() { train "$1-$2" "$1" "$2" "$3"; measure_all "$1" "$2"; }  # VARIANT SEED STEPS
other() {  # KIND VARIANT SEED STEPS [OPTION ...]: of the training
  train "$1-$2-$3" "${@:2}"
  measure "$1-$2-$3" "$1-$2-$3" $([ "$1" != one-step ] || echo --passes 8)
}
equal() {  # DRAFT: lists like the reference's, and how near a tie those are that differ
  measure "equal-$1" "$1" --batch 1,8 --users "${CHECK:-200}" --check "${CHECK:-200}"
}
export -f padrec train measure measure_all main other equal
export dataset work preset device users shared

[ -d "$work/bundle" ] || padrec bundle build "$dataset" --preset "$preset" --device "$device" \
  --steps "${TARGET_STEPS:-1500}" ${shared:+--shared-codes} --no-draft --out "$work/bundle"

steps=${DRAFT_STEPS:-600} short=${SHORT_STEPS:-80} seeds="0 1 2" first=""
if [ -n "$shared" ]; then others="both"; else others="slots both item step"; fi
# All learn from the same lists, which the first one writes.
if [ ! -f "$work/lists.npz" ]; then
  main none 0 "$steps" & first=$!
  while [ ! -f "$work/lists.npz" ] && kill -0 "$first" 2> /dev/null; do sleep 1; done
  [ -f "$work/lists.npz" ]
fi
{
  for variant in none $others; do
    for seed in $seeds; do
      [ "$variant-$seed" = none-0 ] && [ -n "$first" ] || echo "main $variant $seed $steps"
    done
  done
  if [ -z "$shared" ]; then
    for variant in none both; do
      for seed in $seeds; do echo "other short $variant $seed $short"; done
      for seed in $seeds; do echo "other one-step $variant $seed $steps --unroll 1"; done
    done
    for variant in none slots; do
      for seed in $seeds; do echo "other fused $variant $seed $steps --features fused"; done
    done
  fi
} | { grep -E "${ONLY:-.}" || true; } | xargs -P "${JOBS:-8}" --process-slot-var=SLOT -I{} bash -c \
  '[ -z "${GPUS:-}" ] || export CUDA_VISIBLE_DEVICES=$((SLOT % GPUS)); set -e; {}'
wait $first
echo measured
