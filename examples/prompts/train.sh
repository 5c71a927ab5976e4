#!/usr/bin/env bash
# Trains the example source prompts: builds one task for each, and starts all from one shared
# initialisation.
#
#   examples/prompts/train.sh FOLDER [NAME...]      # 3 to 15 minutes a task and core
#
# FOLDER receives the packages that carry the images and the tasks made of them. Writes
# NAME.safetensors and NAME.json (figures, configuration, versions) into OUT, by default beside
# this script.
set -euo pipefail
folder=${1:?usage: train.sh FOLDER [NAME...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$here}
# Images of the pool at most: 80 % of them are trained on.
declare -A max_pool_images=(
    [climate-zone]=3000
    [count]=1200
    [fashion-mnist]=3000
    [gap-direction]=2000
    [mnist]=3000
    [pair-bearing]=1200
    [polygon-corners]=1200
    [sprite-location]=1200
    [sprite-orientation]=1200
    [sprite-row]=1200
    [sprite-scale]=1200
    [sprite-shape]=1200
)
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    mapfile -t names < <(printf '%s\n' "${!max_pool_images[@]}" | sort)
fi
# Not shipped, since it does not beat plain features, but a source in the benchmark suite.
max_pool_images[digits]=3000
export HGPROMPT_BACKBONE=offline-vit-s14 HGPROMPT_PRECISION=bf16
python=${PYTHON:-python}
for name in "${names[@]}"; do
    pool=${max_pool_images[$name]:?no prompt of this name}
    "$python" -m benchmarks.tasks --task "$name" --max-pool-images "$pool" \
        --out "$folder/pools-of-$pool" --cache "$folder/packages"
    task=$folder/pools-of-$pool/$name
    "$python" -m worker.train_prompt --name "$name" \
        --task "$task/pool.zip" --test "$task/test.zip" \
        --epochs 8 --patience 3 --seed 0 --init-seed 0 \
        --output "$out/$name.safetensors" --report "$out/$name.json"
done
