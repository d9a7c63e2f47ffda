"""A short training by the library's own pieces; run by test_ranks.py in one process and in two.

    fit_on_ranks.py OUT.safetensors ARCH BACKBONE"""
import sys
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import save_file

from landslide_nb import run
from landslide_nb.core.ranks import leave_ranks, many_ranks
from landslide_nb.data.store import Split
from landslide_nb.train.recipe import Stage
from landslide_nb.train.stage import train_stage


def double(create):
    "In float64 what is left after a few steps is not rounding, so that one process and two can be compared closely"
    def make(*args, **kwargs):
        model = create(*args, **kwargs).double()
        model.register_forward_pre_hook(lambda m, xs: (xs[0].double(),))
        return model
    return make


class Loss(run.JaccardCE):
    def forward(self, *args): return super().forward(*args).float() # as fastai's recorder wants it


class Bank(run.PseudoBank):
    made_here = []
    def make(self):
        self.made_here.append(super().make())
        return self


out, arch, backbone = sys.argv[1:]
run.PseudoBank = Bank
run.JaccardCE = Loss
run.create_segmenter = double(run.create_segmenter)
many_ranks()
rng = np.random.default_rng(0)
x, y = rng.random((20, 14, 64, 64)).astype(np.float32), np.zeros((20, 64, 64), np.uint8)
for i, (r, c) in enumerate(rng.integers(0, 32, (20, 2))): y[i, r:r + 32, c:c + 32] = 1
x += y[:, None]
labelled, unlabelled = Split(x[:12], y[:12], list(range(12))), Split(x[12:], None, list(range(8)))
data, scaling = dict(train=labelled, valid=unlabelled), labelled.measure_scaling()
first = Stage('first', arch, backbone, iters=8, every=8, bs=5, size=64, lr=.05)
second = replace(first, name='second', teacher='first', unlabelled=('valid',), iters=3)
models, shown = {}, {}
for s in (first, second):
    models[s.name] = train_stage(s, data, scaling, models, f'{out}-{s.name}', 0, 'cpu', amp=False, progress=False)
    shown.update({f'{s.name}.{k}': v for k, v in models[s.name].state_dict().items()})
bank, = Bank.made_here
shown |= dict(thresholds=torch.tensor(bank.thresholds, dtype=torch.float64), labels=torch.from_numpy(bank.labels))
if not leave_ranks(): save_file({k: v.contiguous() for k, v in shown.items()}, out)
