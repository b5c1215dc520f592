#!/bin/sh
# The second base and all that stands on it, start to end. Every command resumes when it is run again;
# `runs/base-v2` goes on for as long as it pays (its rate is constant), `base-v2-decay` brings it to an end.
set -e
fonts="--soundfont /usr/share/sounds/sf2/FluidR3_GM.sf2"
fonts="$fonts --soundfont /usr/share/sounds/sf3/MuseScore_General_Full.sf3"
ditto-music data compose --seed 2 --count 10000 $fonts --out datasets/train
ditto-music data compose --seed 2 --count 256 --split heldout $fonts --out datasets/heldout
data="--data datasets/train --held-out datasets/heldout"
ditto-music train base --config configs/base-v2-start.json $data --out runs/base-v2-start
ditto-music train base --config configs/base-v2.json $data --out runs/base-v2
ditto-music train base --config configs/base-v2-decay.json $data --out runs/base-v2-decay
ditto-music train vocoder --config configs/vocoder.json --data datasets/train --out runs/vocoder
ditto-music train pack --base runs/base-v2-decay --vocoder runs/vocoder --data datasets/train --out model
ditto-music distill ctm --config configs/ctm-v2.json --teacher model $data --out runs/ctm-v2
ditto-music distill pack --run runs/ctm-v2 --teacher model --out model
ditto-music train controlnet --config configs/controlnet-v2.json --base model $data --out runs/controlnet-v2
