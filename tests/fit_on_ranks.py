"""A short self-training fit of a model without batch norm; run by test_distributed.py in one process and in two."""
import sys
from contextlib import nullcontext

import fastai.distributed
import numpy as np
import torch
from fastai.learner import Learner
from fastai.torch_core import num_distrib, rank_distrib
from safetensors.torch import save_file
from torch import nn

from landslide_nb.data import Scaling
from landslide_nb.losses import JaccardCE
from landslide_nb.predict import unlabelled_dl
from landslide_nb.pseudo import PseudoBank
from landslide_nb.recipe import nesterov
from landslide_nb.selftrain import SelfTraining
from landslide_nb.shard import shard_dls
from landslide_nb.store import Split, split_dls

many = num_distrib() > 1
if many:
    from accelerate import PartialState
    PartialState()
rng = np.random.default_rng(0)
x = rng.random((20, 14, 32, 32)).astype(np.float32)
labelled = Split(x[:12], (x[:12, 3] > .7).astype(np.uint8), list(range(12)))
unlabelled, unit = Split(x[12:], None, list(range(8))), Scaling((0.,)*14, (1.,)*14)
torch.manual_seed(0)
model, teacher = (nn.Sequential(nn.Conv2d(14, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 2, 3, padding=1)) for _ in range(2))
bank = PseudoBank(teacher, unlabelled_dl(unlabelled, unit, 3, 'cpu'), n=4, seed=0, amp=False, progress=False)
dls = shard_dls(split_dls(labelled, None, 6, 10, unit, seed=0, device='cpu'))
learn = Learner(dls, model, JaccardCE(), opt_func=nesterov(), lr=.05, cbs=SelfTraining(bank, alpha=0, seed=0))
with learn.no_bar(), learn.no_logging(), learn.distrib_ctx(sync_bn=False) if many else nullcontext():
    learn.fit(2)
if not rank_distrib():
    save_file({**learn.model.state_dict(), 'thresholds': torch.tensor(bank.thresholds, dtype=torch.float64),
               'labels': torch.from_numpy(bank.labels.copy())}, sys.argv[1])
