"""The same seed gives the same result on a CPU, whoever reads the patches."""
import os
from dataclasses import replace

import pytest
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import set_seed
from safetensors.torch import load_file

from landslide_nb.core.base import PatchError
from landslide_nb.data.synth import write_world
from landslide_nb.data.store import read_split, pack_data
from landslide_nb.data.loader import landslide_dls
from landslide_nb.data.block import BatchAugment
from landslide_nb.model.losses import JaccardCE
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.train.recipe import DEMO, Recipe
from landslide_nb.train.loop import nesterov
from landslide_nb.app.report import run_demo

TINY = Recipe('tiny', [replace(s, iters=2, every=1, bs=2, backbone='test_resnet' if s.arch != 'hrnet' else s.backbone)
                       for s in DEMO.stages if s.name in ('model1', 'model2', 'model3', 'model2_without', 'model3_without', 'final')])


def demo(out, seed):
    "Everything the demo leaves but pictures and seconds"
    run_demo(out, seed, TINY, (4, 3, 2), progress=False)
    files = {str(o.relative_to(out)): o.read_bytes() for o in out.rglob('*.h5') if 'predictions' in o.parts}
    weights = {f'{o.parent.name}.{k}': v for o in out.rglob('*.safetensors') for k, v in load_file(o).items()}
    return files, (out/'ablation.csv').read_text(), weights


def test_the_demo_twice(tmp_path):
    (files, table, weights), (again, table2, weights2), (_, _, others) = (demo(tmp_path/k, s) for k, s in (('a', 3), ('b', 3), ('c', 4)))
    assert files == again and table == table2
    assert weights.keys() == weights2.keys() and all(torch.equal(weights[k], weights2[k]) for k in weights)
    assert any(not torch.equal(weights[k], others[k]) for k in weights)


def fit(world, seed):
    set_seed(seed, reproducible=True)
    dls = landslide_dls(world, bs=2, batch_tfms=BatchAugment(64), progress=False)
    learn = Learner(dls, create_segmenter(backbone='test_resnet'), JaccardCE(), opt_func=nesterov(), lr=.01)
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    return torch.cat([o.flatten().float() for o in learn.model.state_dict().values()])


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp('seed')/'world'
    write_world(folder, 6, 1, 1, progress=False)
    return folder


def test_a_fit_twice(world):
    once = fit(world, 0)
    assert torch.equal(fit(world, 0), once) and not torch.equal(fit(world, 1), once)


def test_a_store_that_is_cut_short_in_training_is_named(tmp_path):
    write_world(tmp_path/'world', 6, 1, 1, progress=False)
    pack_data(tmp_path/'world', tmp_path/'store', progress=False)
    split, file = read_split(tmp_path/'store', 'train'), tmp_path/'store/train-x.npy'

    class CutShort(Callback):
        def after_batch(self): os.truncate(file, file.stat().st_size // 2)

    dls = landslide_dls(split, valid_pct=0, bs=2, iters=3, shuffle_seed=0)
    learn = Learner(dls, create_segmenter(backbone='test_resnet'), JaccardCE(), cbs=CutShort())
    with pytest.raises(PatchError, match=f'{file.name}: the file was cut short'), learn.no_bar(), learn.no_logging(): learn.fit(1)
