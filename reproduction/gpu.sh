#!/usr/bin/env bash
# What a GPU does with this package, in under nine minutes: tests on the device, steps timed in bfloat16, eager and
# compiled, and small/cifar10 trained for the time that is left.
#
#   make gpu                                        or, with another Python:  PYTHON=python3 bash reproduction/gpu.sh
#   REHEARSE=1 bash reproduction/gpu.sh             the same on the CPU with tiny networks, to find what is missing
#
# Each part has a time limit of its own. A part that fails or is cut off is reported, and the next one begins.
# Into $OUT (default build/gpu) go log.txt, results.jsonl, metrics.jsonl, pictures, and the model in pieces of 15 MB:
#   cat model.tar.gz.* | tar xz
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-build/gpu}
TOTAL=${TOTAL:-530}             # seconds for everything; what is not done by then is cut off
RUN=${RUN:-runs/gpu}
RESULTS=$RUN-results.jsonl      # relative, so that recorded commands name no folder of this machine
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1

if [ -z "${DATA:-}" ]; then
    DATA=cifar10
    for file in shared/data/cifar10/cifar10-jpeg.tar.gz ../shared/data/cifar10/cifar10-jpeg.tar.gz; do
        [ -f "$file" ] && DATA=$file && break
    done
fi

TRAINED=small/cifar10
FULL=(table1/base)
SET=(training.precision=bf16)
FULL_SET=(training.precision=bf16 training.accumulate=16)
STEPS=6
LIMITS=(90 40 80 70 100)        # of the tests and the four measurements
AFTER=120                       # seconds kept for what follows training
LEAST=30                        # seconds of training, whatever is left
PROBE=(--max-images 10000)
if [ -n "${REHEARSE:-}" ]; then
    export CUDA_VISIBLE_DEVICES=
    TINY=("generator.channels=[8,8,8,8]" "discriminator.channels=[8,8,8,8]" "encoder.widths=[8,8,8,8]" latent.dim=8
          discriminator.mlp_width=16 encoder.head_width=16 training.batch_size=16 log.standing_batches=1 log.validate_every=0)
    SET+=("${TINY[@]}")
    FULL+=(--scale 32)
    FULL_SET=(training.precision=bf16 training.batch_size=4 training.accumulate=2)
    STEPS=1
    LIMITS=(500 500 "${COMPILE_LIMIT:-20}" 500 "${COMPILE_LIMIT:-20}")
    AFTER=$TOTAL LEAST=3 TOTAL=7200
    PROBE=(--max-images 200)
    PATIENCE=500
fi

mkdir -p "$OUT" "$(dirname "$RUN")"
rm -rf "$RUN" "$RESULTS"
: >"$OUT/log.txt"
FAILED=0
say() { printf '%s\n' "$*" | tee -a "$OUT/log.txt"; }

# part NAME SECONDS COMMAND...: run a command for that long at most, and say how it went
part() {
    local name=$1 limit=$2 start=$SECONDS left=$((TOTAL - SECONDS)) code
    shift 2
    say "== $name: $*"
    if [ "$left" -le 0 ]; then
        say "-- $name: no time left"
        return 124
    fi
    [ "$left" -lt "$limit" ] && limit=$left
    timeout --kill-after=5 "$limit" "$@" >>"$OUT/log.txt" 2>&1
    code=$?
    case $code in
        0) say "-- $name: done in $((SECONDS - start)) s" ;;
        124 | 137) say "-- $name: cut off after $limit s" ;;
        *) say "-- $name: failed with exit code $code after $((SECONDS - start)) s" ;;
    esac
    return $code
}
need() { part "$@" || { FAILED=1; return 1; }; }    # what has to work; compiled steps may not
bigbigan=("$PYTHON" -m bigbigan)
measured=(--steps "$STEPS" --results "$RESULTS" --set)

need device ${PATIENCE:-60} "$PYTHON" -c "import os, torch, bigbigan
print(bigbigan.__version__, torch.__version__, torch.get_num_threads())
print('cpu' if os.environ.get('REHEARSE') else torch.cuda.get_device_name())" || exit 1
need tests "${LIMITS[0]}" env BIGBIGAN_TEST_DEVICE="${REHEARSE:+cpu}" "$PYTHON" -m pytest tests/device -p no:cacheprovider
need "bench $TRAINED" "${LIMITS[1]}" "${bigbigan[@]}" bench $TRAINED "${measured[@]}" "${SET[@]}"
part "bench $TRAINED, compiled" "${LIMITS[2]}" "${bigbigan[@]}" bench $TRAINED "${measured[@]}" "${SET[@]}" training.compile=true
need "bench ${FULL[0]}" "${LIMITS[3]}" "${bigbigan[@]}" bench "${FULL[@]}" "${measured[@]}" "${FULL_SET[@]}"
part "bench ${FULL[0]}, compiled" "${LIMITS[4]}" \
    "${bigbigan[@]}" bench "${FULL[@]}" "${measured[@]}" "${FULL_SET[@]}" training.compile=true

LEFT=$((TOTAL - SECONDS - AFTER))
[ "$LEFT" -lt "$LEAST" ] && LEFT=$LEAST
MINUTES=$((LEFT / 60)).$(printf %02d $((LEFT % 60 * 100 / 60)))
need train $((LEFT + ${PATIENCE:-60})) \
    "${bigbigan[@]}" train $TRAINED --data "$DATA" --out "$RUN" --minutes "$MINUTES" --set "${SET[@]}"
need probe $((60 + ${PATIENCE:-60})) "${bigbigan[@]}" evaluate "$RUN" --data "$DATA" --quiet --results "$RESULTS" "${PROBE[@]}" \
    --metrics top1_linear_bn_crelu_10perclass,top1_linear_pixels_10perclass,reconstruction_ratio
need export ${PATIENCE:-60} "${bigbigan[@]}" export "$RUN" --out "$RUN/model" --quiet

# bring NAME FILE: copy what there is
bring() { if [ -f "$2" ]; then cp "$2" "$OUT/$1"; else say "-- no $1"; fi; }
bring results.jsonl "$RESULTS"
bring metrics.jsonl "$RUN/metrics.jsonl"
for picture in samples reconstructions; do
    bring $picture.png "$(ls "$RUN"/samples/$picture-*.png 2>/dev/null | tail -n 1)"
done
rm -f "$OUT"/model.tar.gz.*
[ -d "$RUN/model" ] && tar cz -C "$RUN" model | split -b 15000000 - "$OUT/model.tar.gz."
say "== $SECONDS s in all, $(cat "$RESULTS" 2>/dev/null | wc -l) result lines; see $OUT"
exit $FAILED
