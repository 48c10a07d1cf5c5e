#!/bin/sh
# CIFAR-10, 4000 labels, one seed at the published budget: supervised-only, Mean Teacher, and the latter's Shake-Shake.
# Usage: sh tools/reproduce_cifar10.sh [DATA] [SEED]   Needs a GPU. Run again, it goes on where it was stopped.
set -e
DATA=${1:-data/cifar10}
SEED=${2:-2000}
[ -f "$DATA/zca.npz" ] || python datasets/cifar10/prepare.py "$DATA" --zca
for NAME in cifar10_4000_supervised cifar10_4000_mt cifar10_4000_shake; do
    WHITEN=views.standard.file=$DATA/zca.npz
    [ $NAME = cifar10_4000_shake ] && WHITEN=device=cuda
    python tools/train.py configs/recipe/$NAME.yaml data.root="$DATA" "$WHITEN" device=cuda \
        seed="$SEED" data.split_seed="$SEED" out="runs/$NAME/$SEED"
    python tools/eval.py "runs/$NAME/$SEED"
done
