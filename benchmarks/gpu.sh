#!/usr/bin/env bash
# What a machine with GPUs is to show: tests, figures of one GPU, figures of several. Weights are random and of the
# published size. Each part leaves its log, and its figures as JSON, in OUT, and takes at most ten minutes; parts that
# need more GPUs than there are are left out.
#
#     benchmarks/gpu.sh OUT                     everything
#     benchmarks/gpu.sh OUT kernels latency     these parts
#     benchmarks/gpu.sh --list                  names the parts
#
# ONE: kernels engine published learning latency quantized throughput videos serve live long training one_gpu
# SEVERAL: parallel sums cut cut_fp8 replicas sessions sharded
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

parts=$(sed -n 's/^# \(ONE\|SEVERAL\): //p' "${BASH_SOURCE[0]}")
case "${1-}" in
    --list) echo "$parts"; exit ;;
    "" | -*) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
out=$(mkdir -p "$1" && readlink -f "$1") && shift || exit 1
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1

tests() { python -m pytest -q -p no:cacheprovider -n "$1" "${@:2}"; }
bench() { python -m mossvl bench "$@"; }
sizes() { for one in 2 4 8; do [ "$one" -le "$gpus" ] && echo "$one"; done; }

# A checkpoint of the published size, which replicas load.
checkpoint() {
    [ -e "$out/checkpoint/config.json" ] || python - "$out/checkpoint" <<'END'
import sys, torch
from mossvl.bench.prompts import random_weights
model, processor = random_weights(device="cuda", dtype="bfloat16")
model.save_pretrained(sys.argv[1])
processor.save_pretrained(sys.argv[1])
END
}

kernels() { tests 8 tests/gpu/test_{kernels,fp8_pages,quantized_kernels,vision_kernels}.py tests/kernels; }
engine() {
    tests 4 -m gpu tests/gpu/test_{golden_on_gpu,engine_on_gpu,adapters_on_gpu,quantized_loading}.py \
        tests/engine/test_leaving.py tests/live/test_day.py tests/synthetic/test_render.py
}
published() { tests 0 tests/gpu/test_published_size.py; }
learning() { tests 0 tests/gpu/test_training_on_gpu.py; }
latency() { bench latency --random -o "$out/latency.json"; }
quantized() {
    local kind
    for kind in fp8 int4 nf4; do bench latency throughput --random -q "$kind" -o "$out/$kind.json" || return; done
}
throughput() { bench throughput --random -o "$out/throughput.json"; }
videos() { bench videos --random -o "$out/videos.json"; }
serve() { bench serve --random -o "$out/serve.json"; }
live() { bench live --random -o "$out/live.json"; }
long() { python benchmarks/scaling.py --frames 16 64 256 1024 4096; }
training() { python benchmarks/training.py --batch 6 --compile --profile; }

one_gpu() { python benchmarks/sums.py --one-gpu; }

parallel() { tests 0 tests/gpu/test_parallel_on_gpu.py; }
sums() {
    local size
    for size in $(sizes); do python benchmarks/sums.py --ranks "$size" || return; done
}
cut() {
    local size
    for size in 1 $(sizes); do bench latency throughput --random -tp "$size" -o "$out/cut$size.json" || return; done
}
cut_fp8() {
    local size
    for size in 1 $(sizes); do bench latency throughput --random -q fp8 -tp "$size" -o "$out/cut_fp8$size.json" || return; done
}
replicas() {
    checkpoint || return
    # shellcheck disable=SC2046 # several numbers
    python benchmarks/replicas.py --checkpoint "$out/checkpoint" --replicas 1 $(sizes) --side 448 --tokens 128 --kill
}
# 64 live sessions over two replicas, and over one model that is cut in two.
sessions() {
    checkpoint || return
    local how server
    for how in -dp -tp; do
        python -m mossvl serve -c "$out/checkpoint" "$how" 2 --port 8123 --live-sessions 64 &
        server=$!
        for _ in $(seq 200); do
            curl -s http://127.0.0.1:8123/health | grep -q '"model_loaded":true' && break
            sleep 1
        done
        echo "$how 2"
        python benchmarks/sessions.py http://127.0.0.1:8123 --sessions 64
        kill -INT "$server"
        wait "$server"
    done
}
sharded() {
    local size options
    for size in 1 $(sizes); do
        options=(--config_file examples/fsdp2.yaml --num_processes "$size")
        [ "$size" = 1 ] || accelerate launch "${options[@]}" benchmarks/training.py --full --compile || return
        torchrun --nproc_per_node "$size" benchmarks/training.py --compile || return
    done
}

[ $# -gt 0 ] || read -r -d '' -a parts_here <<<"$parts"
failed=()
for part in "${@:-${parts_here[@]}}"; do
    case " ${parts//$'\n'/ } " in *" $part "*) ;; *) echo "there is no part $part; --list names them" >&2; exit 2 ;; esac
    if [ "$gpus" -lt 2 ] && [[ " $(sed -n 's/^# SEVERAL: //p' "${BASH_SOURCE[0]}") " == *" $part "* ]]; then
        echo "== $part: needs two GPUs"
        continue
    fi
    echo "== $part"
    $part >"$out/$part.log" 2>&1 || failed+=("$part")
    tail -n 40 "$out/$part.log"
done
((${#failed[@]} == 0)) || { echo "FAILED: ${failed[*]}"; exit 1; }
