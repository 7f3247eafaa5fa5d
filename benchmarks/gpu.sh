#!/usr/bin/env bash
# All that needs a GPU, in at most eight minutes and without a network; a Markdown report at the end.
#
#     benchmarks/gpu.sh                  on a machine with a GPU
#     benchmarks/gpu.sh --smoke          the same steps on the CPU, as small as they go
#
# Run with a python that has torch and torchvision. What else is missing is installed from wheels:
#
#     PYTHON    the interpreter (default: .venv/bin/python, else python3)
#     WHEELS    a folder of wheels, detectron2's repacked one among them; see below how to fill it
#     DATA      a folder with camvid/ and nuclei/ as their recipes expect them, and weights/
#               (default: DETECTRON2_DATASETS, else datasets); what is not there is left out
#     OUT       where the report and the logs go (default: output/gpu)
#     SECONDS_IN_ALL   of the whole run (default: 480)
#
# WHEELS is filled where there is a network, with a python of the same version and platform:
#
#     pip download --dest WHEELS --constraint constraints.txt fvcore iopath ...
#         (the dependencies of pyproject.toml but torch and torchvision, and pytest)
#     python tools/install_detectron2.py --repack-to WHEELS
#
# Each step has a share of the time; one that fails or runs out of it is told, and the next begins.
set -uo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD

smoke=
case "${1:-}" in
    --smoke) smoke=yes ;;
    "") ;;
    *) echo "benchmarks/gpu.sh: $1 is unknown; give --smoke or nothing." >&2; exit 2 ;;
esac
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
DATA=${DATA:-${DETECTRON2_DATASETS:-datasets}}
OUT=${OUT:-output/gpu}
SECONDS_IN_ALL=${SECONDS_IN_ALL:-480}
mkdir -p "$OUT"
report=$OUT/report.md
: > "$report"
failed=0

tell() { echo "$*" | tee -a "$report"; }

# step SECONDS NAME COMMAND ...: runs it within its share and what is left of all; its log is kept,
# and its tables and last lines go into the report
step() {
    local share=$1 name=$2 left begin code
    shift 2
    left=$((SECONDS_IN_ALL - SECONDS))
    [ "$share" -lt "$left" ] || share=$left
    tell ""; tell "## $name"; tell ""
    if [ "$share" -lt 5 ]; then
        tell "left out: the time is up"; failed=$((failed + 1)); return
    fi
    begin=$SECONDS
    timeout --kill-after=5 "$share" "$@" > "$OUT/${name// /_}.log" 2>&1
    code=$?
    # what a reader wants: the machine, tables, counts, what went wrong
    tr '\r' '\n' < "$OUT/${name// /_}.log" | grep -aE \
        '^\||GFLOP/s|images/s over|passed|^(FAILED|ERROR)|left out|Error: |^benchmarks\.|APs ' \
        | tail -60 | tee -a "$report"
    if [ "$code" = 0 ]; then
        tell ""; tell "done in $((SECONDS - begin)) s"
    else
        failed=$((failed + 1))
        tell ""
        tell "FAILED with exit code $code after $((SECONDS - begin)) s (124: out of time); its log:" \
            "$OUT/${name// /_}.log"
        tail -5 "$OUT/${name// /_}.log" | tee -a "$report"
    fi
}

if [ -n "${WHEELS:-}" ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --upgrade --target "$OUT/packages" \
        "$WHEELS"/*.whl || { echo "benchmarks/gpu.sh: the wheels of $WHEELS do not install" >&2; exit 2; }
    export PYTHONPATH=$OUT/packages:${PYTHONPATH:-}
    case "$OUT" in /*) ;; *) PYTHONPATH=$ROOT/$PYTHONPATH ;; esac
fi
export PYTHONPATH=$ROOT:${PYTHONPATH:-}
export DETECTRON2_DATASETS=$DATA
"$PYTHON" -W ignore -c 'import torch, torchvision, deepfuse_d2' || {
    echo "benchmarks/gpu.sh: $PYTHON cannot import deepfuse_d2: it needs torch, torchvision, and the" \
        "packages of pyproject.toml, from WHEELS where there is no network." >&2; exit 2; }

if [ -n "$smoke" ]; then
    device=cpu
    export CUDA_VISIBLE_DEVICES= DEEPFUSE_TEST_DEVICE=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
else
    device=cuda
    "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
        echo "benchmarks/gpu.sh: torch sees no GPU; --smoke tries the steps on the CPU." >&2; exit 2; }
fi
python=("$PYTHON" -W ignore)
# of deepfuse_d2.inference.engines, those that run here; native is first
engines=$("${python[@]}" -c "
import torch
from deepfuse_d2.inference.engines import ENGINES
found = [name for name, engine in ENGINES.items() if not engine.why_not(torch.device('$device'))]
wanted = ('eager', 'inductor', 'aot', 'tensorrt') if '$device' == 'cuda' else ('eager',)
print('native', *(name for name in found if name in wanted))")

tell "# deepfuse_d2 $(git rev-parse --short HEAD 2> /dev/null) on $device, $(date +%F)"
if [ -n "$smoke" ]; then
    step 60 "machine" "${python[@]}" -m benchmarks.machine
    step 200 "tests" "${python[@]}" -m pytest -q -p no:cacheprovider tests/gpu -k "group_of_one or FPN_quick"
    step 120 "training" "${python[@]}" -m benchmarks.training --rounds 1 --batch 1 --height 64 --frames 2 --only "ours, float32" MODEL.DEVICE cpu
    step 200 "inference, batch 1" "${python[@]}" -m benchmarks.inference MODEL.DEVICE cpu --size 64 128 --rounds 1 --images 1 --peers --engines $engines
    train=("SOLVER.MAX_ITER" 2 "SOLVER.IMS_PER_BATCH" 2 "DATASETS.TEST" "()" "DATALOADER.NUM_WORKERS" 0)
    seconds=60
else
    step 30 "machine" "${python[@]}" -m benchmarks.machine
    step 120 "tests" "${python[@]}" -m pytest -q -p no:cacheprovider tests/gpu
    step 100 "training" "${python[@]}" -m benchmarks.training --rounds 7 --batch 8 --height 512 MODEL.DEVICE cuda
    step 75 "inference, batch 1" "${python[@]}" -m benchmarks.inference --rounds 15 --engines $engines --peers
    step 55 "inference, batch 8" "${python[@]}" -m benchmarks.inference --rounds 7 --batch 8 --engines $engines --peers
    train=("DEEPFUSE_D2.SOLVER.TIME_BUDGET" "25s" "DATALOADER.NUM_WORKERS" 4)
    seconds=50
fi
# name, its data, its recipe
for line in "camvid:CamVid/sem_seg_R_18_DeepFuse" "nuclei:Nuclei/mask_rcnn_R_18_DeepFuseFPN"; do
    name=${line%%:*} recipe=${line#*:}
    if [ ! -d "$DATA/$name" ]; then
        tell ""; tell "## $name"; tell ""; tell "left out: there is no $DATA/$name"
        continue
    fi
    weights=("MODEL.WEIGHTS" "$DATA/weights/resnet18_places365_fp16.pth")
    [ -f "${weights[1]}" ] || weights=("MODEL.WEIGHTS" "")
    step "$seconds" "$name" "${python[@]}" -m deepfuse_d2 train "$recipe" MODEL.DEVICE "$device" \
        "${weights[@]}" OUTPUT_DIR "$OUT/$name" "${train[@]}"
done
tell ""
tell "$failed steps failed; $SECONDS s in all; the report is $report"
exit $((failed > 0))
