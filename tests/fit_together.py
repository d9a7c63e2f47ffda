"""A short training by the library's own pieces; run by test_processes.py in one process and in two.

    fit_together.py FOLDER ARCH BACKBONE ITERATIONS

Each process leaves the patches it drew, its weights, pseudo labels, loss, and the score of the student on patches not seen before,
in FOLDER/RANK.safetensors."""
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from fastai.torch_core import rank_distrib
from safetensors.torch import save_file

from landslide_nb.data.store import Split
from landslide_nb.predict.maps import evaluate
from landslide_nb.train import run as stages
from landslide_nb.train.loop import MetricsCSV
from landslide_nb.train.processes import leave_processes, many_processes
from landslide_nb.train.recipe import Stage


def bright_squares(n, seed, size=64):
    "Patches whose landslides are bright, most of all in one band"
    rng = np.random.default_rng(seed)
    x, y = rng.normal(0, .5, (n, 14, size, size)).astype(np.float32), np.zeros((n, size, size), np.uint8)
    for i, (r, c) in enumerate(rng.integers(0, size - 24, (n, 2))): y[i, r:r + 24, c:c + 24] = 1
    x += y[:, None]
    x[:, 3] += y
    return Split(x, y, list(range(n)))


seen = dict(patches=[])


class Watched(Split):
    def gather(self, idxs):
        if len(idxs) > 1: seen['patches'].append(list(idxs)) # fastai looks at single ones
        return super().gather(idxs)


class Bank(stages.PseudoBank):
    def make(self):
        seen['bank'] = super().make()
        return self


class Log(MetricsCSV):
    def after_epoch(self):
        super().after_epoch()
        seen['loss'] = self.rows[-1]['loss']


out, arch, backbone, iters = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
stages.PseudoBank, stages.MetricsCSV = Bank, Log
many_processes()
labelled, region, new = bright_squares(24, 0), bright_squares(16, 1), bright_squares(16, 2)
data = dict(train=Watched(labelled.x, labelled.y, labelled.ns), valid=Split(region.x, None, region.ns))
first = Stage('first', arch, backbone, iters=iters, every=iters//2, bs=8, size=64, lr=.05)
second = replace(first, name='second', teacher='first', unlabelled=('valid',), iters=2*iters//3, every=iters//3)
models, shown = {}, {}
for i, s in enumerate((first, second)):
    models[s.name] = stages.train_stage(s, data, models, out/s.name, i, 'cpu', amp=False, progress=False)
    shown.update({f'{s.name}.{k}': v for k, v in models[s.name].state_dict().items()})
bank = seen['bank']
shown |= dict(patches=torch.tensor(seen['patches'][:iters]), labels=torch.from_numpy(np.asarray(bank.labels)),
              thresholds=torch.tensor(bank.thresholds, dtype=torch.float64),
              loss=torch.tensor(seen['loss']), f1=torch.tensor(evaluate(models['second'], new, amp=False)['f1']))
save_file({k: v.contiguous() for k, v in shown.items()}, out/f'{rank_distrib()}.safetensors')
leave_processes()
