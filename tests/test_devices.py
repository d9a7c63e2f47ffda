"""Where tensors live, without a GPU: meta and fake tensors have a device but no data, and cannot be mixed with those of another one."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.torch_core import to_device
from torch._subclasses.fake_tensor import FakeTensorMode

from landslide_nb.data.synth import write_world
from landslide_nb.data.store import read_split
from landslide_nb.data.loader import landslide_dls
from landslide_nb.data.block import BatchAugment
from landslide_nb.model.dropout import dropout_site, mc_dropout
from landslide_nb.model.losses import JaccardCE
from landslide_nb.model.metrics import count_pixels
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.predict.maps import unlabelled_dl
from landslide_nb.selftrain.bank import PseudoBank
from landslide_nb.selftrain.callback import SelfTraining

SIZE, BS = 64, 4
MODELS = pytest.mark.parametrize('arch, backbone', [('deeplabv3plus', 'test_resnet'), ('hrnet', 'hrnet_w18_small')])


@pytest.fixture(scope='module')
def split(tmp_path_factory):
    root = tmp_path_factory.mktemp('world')
    write_world(root, 6, 1, 1, progress=False)
    return read_split(root, progress=False)


def model_on(device, arch, backbone):
    with torch.device(device): model = create_segmenter(arch, backbone)
    dropout_site(model).train_p = .3
    return model


def batch(dl, split):
    "What the loader makes of the first patches"
    dl.after_batch.split_idx = 0
    return dl.after_batch(to_device(split.gather(np.arange(BS)), dl.device))


def test_the_devices_cannot_be_mixed():
    with pytest.raises(RuntimeError, match='device'): torch.ones(3, device='meta') + torch.ones(3)


@MODELS
def test_a_self_training_step_stays_on_its_device(split, arch, backbone):
    model, augment = model_on('meta', arch, backbone), BatchAugment(SIZE)
    bank = PseudoBank(None, unlabelled_dl(split, BS, 'meta'))
    labelled = landslide_dls(split, valid_pct=0, bs=BS, batch_tfms=augment, shuffle_seed=0, device='meta').train
    st = SelfTraining(bank, augment)
    st.rng, st.batches, st.tfms = np.random.default_rng(0), iter([batch(bank.dl, split)]), [augment]
    x, y = batch(labelled, split)
    learn = st.learn = SimpleNamespace(model=model, loss_func=JaccardCE(), xb=(x,), yb=(y,), training=True)
    st.before_batch()
    assert learn.xb[0].shape == (2*BS, 14, SIZE, SIZE)
    learn.pred = model(learn.xb[0])
    st.after_pred()
    learn.loss_grad = learn.loss_func(learn.pred, learn.yb[0])
    st.after_loss()
    learn.loss_grad.backward()
    assert {p.grad.device.type for p in model.parameters()} == {'meta'}
    assert {v.device.type for v in st.history[0].values() if isinstance(v, torch.Tensor)} == {'meta'}
    assert count_pixels(learn.pred.argmax(1), learn.yb[0]).device.type == 'meta'


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason='this PyTorch knows no CUDA devices')
@MODELS
def test_a_gpu_makes_many_passes_in_one_forward(arch, backbone):
    with FakeTensorMode():
        model, x, seen = model_on('cuda', arch, backbone), torch.empty(BS, 14, SIZE, SIZE, device='cuda'), []
        model.register_forward_pre_hook(lambda m, xs: seen.append(len(xs[0])))
        for n, forwards in ((10, [10*BS]), (20, [16*BS, 4*BS])): # as many passes as fill 64 patches
            mean, var = mc_dropout(model, x, n)
            assert seen == forwards
            seen.clear()
        assert (var.device.type, var.shape, var.dtype) == ('cuda', (BS, 2, SIZE, SIZE), torch.float32)
