#!/usr/bin/env bash
# What a GPU should answer, in stages of some minutes each, the most valuable first. Needs no network.
#
#   bash benchmarks/gpu_day.sh [--smoke] [--pack DIR] [--output DIR] [--minutes N] [stage...]
#
#   cuda        the tests that need a GPU
#   steps       a training step of ResNet-18, ViT-S and WRN-28-10 beside torchattacks and the measured roofline
#   speedrun    TRADES on CIFAR-10 at 8/255 within 3 minutes, AutoAttack on 1,000 test images
#   speedrun-5  the same within 5 minutes (this stage may take 3 minutes more than the others)
#   pas_table, multi_attack, amp, presets
#               groups of claims with their sources' networks, as many epochs as minutes
#
# --smoke      tiny sizes on the CPU, to see that every stage works
# --pack DIR   made by gpu_pack.py: wheels and images; without it, packages and CIFAR-10 are those of this machine
# --data-root  folder of CIFAR-10 if no pack brings it (default: data)
# --output DIR tables, records and logs, all small, and gpu_day.tar.gz of them (default: outputs/gpu_day); a stage that
#              is complete there is skipped, and an interrupted one goes on
# --work DIR   installed wheels, images and checkpoints (default: /tmp/gpu_day)
# --minutes N  time limit of each stage; unpacking counts as part of the first (default: 6)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' benchmarks/gpu_day.sh; }
refuse() { echo "error: $1" >&2; exit 2; }

all=(cuda steps speedrun speedrun-5 pas_table multi_attack amp presets)
smoke='' pack='' data_root=data output=outputs/gpu_day work=/tmp/gpu_day minutes=6 stages=()
while (($#)); do
  case $1 in
    --smoke) smoke=--smoke ;;
    --pack | --data-root | --output | --work | --minutes)
      (($# > 1)) || refuse "$1 needs a value"
      name=${1#--}
      printf -v "${name//-/_}" %s "$2"
      shift
      ;;
    -h | --help) usage; exit ;;
    -*) refuse "$1 is not an option; see --help" ;;
    *) [[ " ${all[*]} " == *" $1 "* ]] || refuse "no stage $1; there are ${all[*]}"; stages+=("$1") ;;
  esac
  shift
done
[[ $minutes =~ ^[1-9][0-9]*$ ]] || refuse "minutes: $minutes is not allowed; give a positive whole number"
((${#stages[@]})) || stages=("${all[@]}")

mkdir -p "$output/logs" "$output/done" "$output/tables" "$work"
output=$(realpath "$output") work=$(realpath "$work")
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
[[ ! $smoke ]] || export OMP_NUM_THREADS=1 # tiny sizes on busy cores only lose by threads
began=$SECONDS
data=cifar10
if [[ $pack ]]; then
  python3 benchmarks/gpu_unpack.py "$pack" "$work/site" "$work/cifar10" 2>&1 | tee "$output/logs/unpack.log"
  export PYTHONPATH=$work/site:$PYTHONPATH
  data=folder:$work/cifar10
  # Decodes the images once; later calls read the cache.
  python3 -c 'import sys; from toolkit_ext import data; data.load(sys.argv[1])' "$data"
fi

# The words of the command of a stage, in the array command.
choose() {
  local recipe=("--data" "$data" --data-root "$data_root" --output "$work/outputs" --results "$output/results")
  case $1 in
    cuda) command=(-m pytest -m cuda -n 4 -p no:cacheprovider tests/test_cuda.py tests/parity/test_autoattack.py) ;;
    steps) command=(benchmarks/gpu.py --rounds 5 --output "$output/tables" $smoke) ;;
    speedrun) command=(recipes/speedrun.py --minutes 3 --n-test 1000 "${recipe[@]}" --no-progress $smoke) ;;
    speedrun-5) command=(recipes/speedrun.py --minutes 5 --n-test 1000 "${recipe[@]}" --no-progress $smoke) ;;
    *) command=(benchmarks/gpu_claims.py "$1" --epochs "$((minutes > 4 ? minutes : 4))" "${recipe[@]}" --no-progress $smoke) ;;
  esac
}

incomplete=()
for stage in "${stages[@]}"; do
  if [[ -e $output/done/$stage ]]; then
    echo "== $stage: complete already"
    continue
  fi
  limit=$((60 * minutes - (SECONDS - began)))
  [[ $stage != speedrun-5 ]] || limit=$((limit + 180))
  ((limit > 30)) || limit=30 # unpacking took it all; 0 would be no limit
  echo "== $stage: at most $limit s"
  choose "$stage"
  log=$output/logs/$stage.log code=0 began=$SECONDS
  timeout --kill-after=15 "$limit" python3 "${command[@]}" >>"$log" 2>&1 || code=$?
  tail -n 12 "$log"
  case $code in
    0) touch "$output/done/$stage" && echo "== $stage: complete in $((SECONDS - began)) s" ;;
    124 | 137) incomplete+=("$stage") && echo "== $stage: STOPPED after $limit s; the same call goes on" ;;
    *) incomplete+=("$stage") && echo "== $stage: FAILED with exit code $code, see $log" ;;
  esac
  began=$SECONDS
done

tar -czf "$work/gpu_day.tar.gz" -C "$output" --exclude=gpu_day.tar.gz .
mv "$work/gpu_day.tar.gz" "$output/gpu_day.tar.gz"
echo "results: $output/gpu_day.tar.gz"
((!${#incomplete[@]})) || { echo "not complete: ${incomplete[*]}" && exit 1; }
