"""Train the model that the package ships: DeepLabV3+ on made-up mountains, `landslide_nb/starter/`.

Patches are made in parts and kept under OUT, the training is checkpointed: whatever was killed goes on. The same arguments give the same
weights on the same machine. At the end the weights are written in half precision, batch norms in float32, beside the model card.
"""
import argparse
import json
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from landslide_nb.core.base import atomic_path, with_bar
from landslide_nb.data.store import Split
from landslide_nb.data.synth import synth_patch
from landslide_nb.train.recipe import Stage
from landslide_nb.train.run import train_stage

SHIPPED = Path(__file__).parents[1]/'landslide_nb/starter'
PART = 50


def make_part(out, seed, k):
    "Patches of one part, in a file"
    path = out/f'part-{k}.npz'
    if path.exists(): return
    torch.set_num_threads(1)
    x, y = (np.stack(o) for o in zip(*(synth_patch(None, (seed, PART*k + i)) for i in range(PART))))
    with atomic_path(path) as tmp: np.savez(tmp, x=x, y=y)


def patches(out, seed, n, jobs):
    "All of them, made where they are not there yet"
    out.mkdir(parents=True, exist_ok=True)
    todo = [(out, seed, k) for k in range(-(-n // PART)) if not (out/f'part-{k}.npz').exists()]
    with get_context('spawn').Pool(jobs) as pool:
        for o in with_bar([pool.apply_async(make_part, o) for o in todo], True, 'making mountains'): o.get()
    parts = [np.load(out/f'part-{k}.npz') for k in range(-(-n // PART))]
    x, y = (np.concatenate([o[k] for o in parts])[:n] for k in 'xy')
    return Split(x, y, [*range(1, n + 1)])


def ship(folder, out):
    "Weights in half precision, those of batch norms in full, and what is known of them"
    state = load_file(folder/'model.safetensors')
    small = {k: v.half() if v.is_floating_point() and v.ndim == 4 else v for k, v in state.items()}
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out/'model.safetensors') as tmp: save_file(small, tmp, metadata=dict(format='pt'))
    about = json.loads((folder/'model.json').read_text(encoding='utf-8'))
    with atomic_path(out/'model.json') as tmp: tmp.write_text(json.dumps(about, indent=1) + '\n', encoding='utf-8')


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=Path('starter'), help='folder for patches and checkpoints')
    p.add_argument('--patches', type=int, default=1600)
    p.add_argument('--iters', type=int, default=5000)
    p.add_argument('--backbone', default='regnety_004')
    p.add_argument('--bs', type=int, default=8)
    p.add_argument('--lr', type=float, default=.02)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--jobs', type=int, default=2, help='processes that make patches')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--ship', type=Path, default=SHIPPED, help='where the model goes')
    args = p.parse_args()
    split = patches(args.out/f'patches-{args.seed}', args.seed, args.patches, args.jobs)
    stage = Stage('starter', backbone=args.backbone, size=128, iters=args.iters, bs=args.bs, lr=args.lr, radiometry=.5, every=250)
    folder = args.out/f'{args.backbone}-{args.seed}-{args.patches}-{args.iters}'
    if not (folder/'model.json').exists():
        train_stage(stage, dict(train=split), {}, folder, args.seed, args.device, resume=(folder/'checkpoint.pt').exists())
    ship(folder, args.ship)


if __name__ == '__main__': main()
