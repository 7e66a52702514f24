#!/bin/sh
# Two searches on handwritten digits, what they found beside random architectures, and a detector with one of them.
#   scripts/search_demo.sh PYTHON FOLDER
set -e
python=$1 folder=$2
search="$python tools/search_fbnet.py"
common="--config-file configs/search/digits.yaml SEARCH.LATENCY.TABLE $folder/table.json"

# scikit-learn's digits need no download.
if ! $python tools/prepare_data.py digits; then
    $python tools/prepare_data.py sklearn-digits
    common="$common DATASETS.TRAIN ('sklearn_digits_train',) DATASETS.TEST ('sklearn_digits_test',)"
fi
$python tools/prepare_data.py trees

$search latency $common
# A search for each core.
started=
for seed in 0 1; do
    OMP_NUM_THREADS=1 $search train --resume $common SEED $seed OUTPUT_DIR "$folder/search_$seed" &
    started="$started $!"
done
for process in $started; do wait "$process"; done
$search report $common OUTPUT_DIR "$folder" --searches "$folder/search_0" "$folder/search_1" --random 3 \
    --html "$folder/search.html"

rm -f "$folder/archs/searched.yaml"
$search derive --hard --name searched $common OUTPUT_DIR "$folder/search_0" MODEL.FBNET.ARCH_DIRS "('$folder/archs',)"
$python tools/train_net.py --config-file configs/quickstart/scratch.yaml --resume \
    MODEL.BACKBONE.CONV_BODY FBNet-searched-FPN MODEL.FBNET.ARCH_DIRS "('$folder/archs',)" \
    SOLVER.MAX_ITER 60 SOLVER.TEST_PERIOD 0 OUTPUT_DIR "$folder/detector"
echo "The search: $folder/search.html; the detector: $folder/detector/report.html"
