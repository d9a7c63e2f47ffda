"""Self-training beside what fastai users add: works with the right value, or is refused in one line. One row a line."""
import numpy as np
import pytest
import torch
from fastai.callback.all import (
    ChannelsLast, CSVLogger, CutMix, EarlyStoppingCallback, GradientAccumulation, GradientClip, MCDropoutCallback, MixedPrecision, MixUp,
    ReduceLROnPlateau, SaveModelCallback, ShortEpochCallback)
from fastai.callback.core import Callback
from fastai.learner import Learner
from torch import nn

from landslide_nb.data.block import BatchAugment
from landslide_nb.data.loader import landslide_dls
from landslide_nb.data.store import Split
from landslide_nb.model.losses import JaccardCE, MaskCutMix
from landslide_nb.model.metrics import landslide_metrics
from landslide_nb.selftrain.bank import PseudoBank
from landslide_nb.selftrain.callback import SelfTraining
from landslide_nb.train.loop import Checkpoint
from landslide_nb.train.learner import GradScaling



def patches(n, seed):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 14, 32, 32), np.float32)
    return Split(x, (x[:, 3] > .8).astype(np.uint8))


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(14, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))


class Watch(Callback):
    "Every step's gradients and loss, before anything is stepped"
    order = 90
    def before_fit(self): self.grads, self.losses = [], []
    def before_step(self): self.grads.append(torch.cat([p.grad.flatten().clone() for p in self.model.parameters()]))
    def after_batch(self):
        if self.training: self.losses.append(self.loss.item())


@pytest.fixture
def fit(tmp_path):
    def run(*cbs, epochs=1, selftrain=True, lr=.05, iters=4, **kw):
        torch.manual_seed(0)
        dls = landslide_dls(patches(12, 0), valid=patches(4, 1), bs=4, iters=iters, batch_tfms=BatchAugment(), shuffle_seed=0,
                            device='cpu')
        learn = Learner(dls, net(), JaccardCE(), lr=lr, metrics=landslide_metrics(), path=tmp_path)
        bank = PseudoBank(net().eval(), dls.test_dl(patches(8, 2)), passes=2, seed=0, progress=False)
        watch = Watch()
        own = [SelfTraining(bank, seed=0, **kw)] if selftrain else []
        with learn.no_bar(), learn.no_logging(): learn.fit(epochs, cbs=[*own, watch, *cbs])
        assert all(p.isfinite().all() for p in learn.model.parameters())
        return learn, watch, (own or [None])[0]
    return run


def test_the_unlabelled_half_is_augmented_as_the_labelled_one(fit):
    own, same, none = (fit(lr=0., alpha=0, **kw)[1].losses for kw in ({}, dict(augment=BatchAugment()), dict(augment=False)))
    assert own == same and own != none


def test_scoring_asks_no_teacher(fit):
    learn, _, st = fit()
    history, labels = list(st.history), st.bank.labels
    learn.add_cb(st)
    st.bank.labels = None
    with learn.no_bar(), learn.no_logging(): learn.validate(), learn.get_preds()
    assert st.bank.labels is None and st.history == history and labels is not None


def test_clipping(fit):
    _, watch, _ = fit(GradientClip(.01))
    assert all(float(g.norm()) <= .0101 for g in watch.grads)


def test_the_best_model_is_saved(fit, tmp_path):
    learn, _, _ = fit(SaveModelCallback(monitor='valid_loss', fname='best'), epochs=3)
    assert (tmp_path/'models/best.pth').exists()
    values = [o[1] for o in learn.recorder.values]
    with learn.no_bar(), learn.no_logging(): assert learn.validate()[0] == pytest.approx(min(values), abs=1e-5)


def test_stopping_early(fit):
    learn, _, st = fit(EarlyStoppingCallback(monitor='valid_loss', min_delta=100., patience=1), epochs=5)
    assert len(learn.recorder.values) == 2 and len(st.history) == 8 and {type(v) for h in st.history for v in h.values()} == {float}


def test_a_plateau_lowers_the_rate(fit):
    learn, _, _ = fit(ReduceLROnPlateau(monitor='valid_loss', min_delta=100., patience=1, factor=10.), epochs=3)
    assert learn.opt.hypers[-1]['lr'] < .05


def test_a_short_epoch(fit):
    _, watch, st = fit(ShortEpochCallback(.5), lr=0.)
    assert len(st.history) == len(watch.grads) == 3 and {type(v) for h in st.history for v in h.values()} == {float}


def test_a_log(fit, tmp_path):
    fit(CSVLogger(), epochs=2)
    assert len((tmp_path/'history.csv').read_text().splitlines()) == 3


def test_channels_last(fit):
    _, plain, _ = fit()
    _, watch, _ = fit(ChannelsLast())
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(watch.grads, plain.grads))


def test_accumulating(fit):
    _, each, _ = fit(lr=0., weight=.5)
    _, two, _ = fit(GradientAccumulation(8), lr=0., weight=.5)
    assert len(two.grads) == 2 and two.losses == pytest.approx(each.losses)
    for got, want in zip(two.grads, torch.stack(each.grads).reshape(2, 2, -1).mean(1)): assert torch.allclose(got, want, atol=1e-6)


class Scaled(GradScaling):
    "Half precision whose scaler really scales"
    def before_fit(self):
        super().before_fit()
        assert self.learn.scaler.is_enabled() and self.learn.scaler.get_scale() > 1


class Unscaled(Callback):
    "The gradients as the optimiser gets them"
    order = 91
    def before_fit(self): self.grads = []
    def after_step(self): self.grads.append(torch.cat([p.grad.flatten().clone() for p in self.model.parameters()]))


def test_half_precision_with_a_scaler(fit):
    (_, plain, _), seen = fit(lr=0.), Unscaled()
    _, watch, _ = fit(Scaled('fp16', init_scale=1024.), seen, lr=0.)
    assert watch.losses == pytest.approx(plain.losses, rel=.01) and len(seen.grads) == 4
    for got, want in zip(seen.grads, plain.grads): assert torch.allclose(got, want, atol=.02*float(want.abs().max()))


def test_fastai_mixed_precision_on_a_processor(fit):
    _, plain, _ = fit(lr=0.)
    _, watch, _ = fit(MixedPrecision(), lr=0.)
    assert watch.losses == pytest.approx(plain.losses, rel=.01)


def test_dropout_of_fastai(fit):
    _, watch, _ = fit(MCDropoutCallback())
    assert np.isfinite(watch.losses).all()


@pytest.mark.parametrize('cb', [MixUp, CutMix, MaskCutMix])
def test_mixing_twice_is_refused(fit, cb):
    with pytest.raises(ValueError, match=f'mix-up is inside SelfTraining already.*{cb.__name__}'): fit(cb())


@pytest.mark.parametrize('cb', [MixUp, MaskCutMix])
def test_mixing_without_self_training(fit, cb):
    learn, watch, _ = fit(cb(), selftrain=False, epochs=8, iters=12)
    assert type(learn.loss_func) is JaccardCE and learn.loss_func.reduction == 'mean'
    assert np.mean(watch.losses[-12:]) < np.mean(watch.losses[:12])


def test_a_checkpoint_that_could_not_be_resumed(fit, tmp_path):
    learn, _, _ = fit()
    learn.dls.loaders[0] = torch.utils.data.DataLoader(patches(4, 0), 2)
    with pytest.raises(ValueError, match='a DataLoader cannot continue within an epoch'), learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=Checkpoint(tmp_path/'run.pt'))


def test_a_batch_that_is_never_full(fit):
    learn, _, st = fit()
    learn.dls.loaders[0] = torch.utils.data.DataLoader(patches(4, 0), 8, drop_last=True)
    with pytest.raises(ValueError, match='no batch'), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=SelfTraining(st.bank))


def test_after_an_error_a_fit_is_as_new(fit):
    class Stop(Callback):
        order = 30
        def after_loss(self):
            if self.train_iter == 2: raise KeyboardInterrupt
    learn, _, st = fit()
    for error in (KeyboardInterrupt,):
        with pytest.raises(error), learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=[st, Stop()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=st)
    assert len(st.history) == 4 and {type(v) for h in st.history for v in h.values()} == {float}
