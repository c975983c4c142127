#!/usr/bin/env bash
# Wall clock: a target and, over three seeds, the plain draft and those that know of items, against the engine alone.
#   docs/benchmarks/wall-clock.sh DATASET WORK [PRESET [DEVICE]]
# VARIANTS of the draft beside none; TARGET_STEPS and DRAFT_STEPS, USERS, CHECK (lists compared with the reference), COMPARE and
# JOBS change the size of it all.
set -euo pipefail
dataset=$1 work=$2 preset=${3:-base} device=${4:-cuda}
mkdir -p "$work"

padrec() { python3 -m service.cli "$@"; }
train() {  # VARIANT SEED
  padrec train draft "$dataset" --target "$work/bundle" --preset "$preset" --device "$device" --variant "$1" \
    --seed "$2" --steps "${DRAFT_STEPS:-300}" --lists "$work/lists.npz" --out "$work/$1-$2" 2> "$work/$1-$2.log"
}
export -f padrec train
export dataset work preset device

[ -d "$work/bundle" ] || padrec bundle build "$dataset" --preset "$preset" --device "$device" \
  --steps "${TARGET_STEPS:-600}" --no-draft --out "$work/bundle"
# All learn from the same lists, which the first one writes.
train none 0 & first=$!
while [ ! -f "$work/lists.npz" ] && kill -0 "$first" 2> /dev/null; do sleep 1; done
[ -f "$work/lists.npz" ]
variants=${VARIANTS:-slots} drafts="none-0 none-1 none-2"
{
  for seed in 1 2; do echo "train none $seed"; done
  for variant in $variants; do for seed in 0 1 2; do echo "train $variant $seed"; done; done
} | xargs -P "${JOBS:-4}" -I{} bash -c '{}'
wait "$first"
for variant in $variants; do drafts+=" $variant-0 $variant-1 $variant-2"; done
measure() {  # NAME USERS CHECK COMPARE DRAFTS [OPTION ...]
  local name=$1 users=$2 check=$3 compare=$4 drafts=()
  for draft in $5; do drafts+=(--draft "$work/$draft"); done
  shift 5
  padrec bench decode "$work/bundle" "$dataset" "${drafts[@]}" --device "$device" --batch 1 --users "$users" \
    --repeats 1 --check "$check" --compare "$compare" --json "$work/$name.json" "$@"
}
users=${USERS:-80} check=${CHECK:-40}
measure wall-clock "$users" "$check" "${COMPARE:-autoregressive,transformers}" "$drafts" --tree tree
# Fewer passes guess less and cost less: each kind of draft at its own best.
measure passes $((users / 2)) 0 autoregressive "$drafts" --tree tree --passes 2,3,4,5,6
measure chain $((users / 2)) 0 autoregressive "$drafts" --tree chain
