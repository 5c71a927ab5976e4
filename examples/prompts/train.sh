#!/usr/bin/env bash
# Trains the example source prompts: one for each task named below, from one shared initialisation.
#
#   python -m benchmarks.tasks --out TASKS          # fetch and build the labelled tasks
#   examples/prompts/train.sh TASKS [NAME...]       # 5 to 15 minutes a task and core
#
# Writes NAME.safetensors and NAME.json (figures, configuration, versions) beside this script.
set -euo pipefail
tasks=${1:?usage: train.sh TASKS [NAME...]}
shift
here=$(cd "$(dirname "$0")" && pwd)
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    names=(fashion-mnist mnist count sprite-location sprite-orientation sprite-shape sprite-scale
        climate-zone)
fi
export HGPROMPT_BACKBONE=offline-vit-s14 HGPROMPT_PRECISION=bf16
python=${PYTHON:-python}
for name in "${names[@]}"; do
    "$python" -m worker.train_prompt --name "$name" \
        --task "$tasks/$name/pool.zip" --test "$tasks/$name/test.zip" \
        --epochs 8 --patience 3 --seed 0 --init-seed 0 \
        --output "$here/$name.safetensors" --report "$here/$name.json"
done
