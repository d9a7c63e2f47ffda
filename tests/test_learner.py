"""What a person who knows fastai writes, on every source of patches: one row a line."""
import multiprocessing
import pickle

import fastai.callback.all # gives a Learner its methods
import numpy as np
import pytest
import torch
from fastai.data.load import _FakeLoader
from fastai.interpret import Interpretation
from fastai.vision.augment import RandomErasing, RandomResizedCropGPU, Resize, Rotate, aug_transforms

from landslide_nb.data.block import BandImage, BatchAugment, LandslideMask
from landslide_nb.data.files import patch_files
from landslide_nb.data.loader import landslide_dls
from landslide_nb.data.store import pack_data, read_split
from landslide_nb.data.synth import write_world
from landslide_nb.model.dropout import dropout_site
from landslide_nb.train.learner import landslide_learner, load_segmenter

SOURCES = ('folder', 'store', 'memory', 'files', 'pairs')


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp('sources')
    write_world(root/'world', 8, 2, 2, progress=False)
    pack_data(root/'world', root/'store', progress=False)
    files = patch_files(root/'world', 'train')
    return dict(folder=root/'world', store=root/'store', memory=read_split(root/'world', progress=False), files=files,
                pairs=[(str(f.img), str(f.mask)) for f in files])


def make(source, path, **kw):
    torch.manual_seed(0)
    dls = landslide_dls(source, bs=3, batch_tfms=BatchAugment(), progress=False, device='cpu', shuffle_seed=0, **kw)
    return landslide_learner(dls, 'test_resnet', path=path)


@pytest.fixture(params=SOURCES)
def learn(request, sources, tmp_path):
    res = make(sources[request.param], tmp_path)
    with res.no_bar(), res.no_logging(): yield res


def finite(learn): return all(p.isfinite().all() for p in learn.model.state_dict().values())


def losses(learn): return [float(o) for o in learn.recorder.losses]


LINES = {
    'show_batch': lambda learn, item: learn.dls.show_batch(max_n=2),
    'show_results': lambda learn, item: learn.show_results(max_n=2),
    'fit_one_cycle': lambda learn, item: learn.fit_one_cycle(1, 1e-3),
    'fine_tune': lambda learn, item: learn.fine_tune(1),
    'freeze': lambda learn, item: (learn.freeze(), learn.fit(1, slice(1e-4, 1e-3)), learn.unfreeze()),
    'to_fp16': lambda learn, item: learn.to_fp16().fit(1, 1e-3),
    'to_bf16': lambda learn, item: learn.to_bf16().fit(1, 1e-3),
    'to_fp32': lambda learn, item: learn.to_fp32().fit(1, 1e-3),
    'lr_find': lambda learn, item: learn.lr_find(num_it=4, show_plot=False),
    'top_losses': lambda learn, item: Interpretation.from_learner(learn).plot_top_losses(1),
    'validate': lambda learn, item: learn.validate(),
    'validate on the training patches': lambda learn, item: learn.validate(ds_idx=0),
    'save and load': lambda learn, item: learn.load(learn.save('kept').stem),
}


@pytest.mark.parametrize('line', LINES)
def test_a_line_runs(learn, line):
    LINES[line](learn, None)
    assert finite(learn)
    if hasattr(learn, 'recorder') and getattr(learn.recorder, 'losses', None): assert np.isfinite(losses(learn)).all()


def test_predictions_agree(learn, sources):
    "A path, a string, a `PatchFile`, an array, a tensor, `get_preds` and `test_dl`: one answer"
    f, x = sources['files'][0], sources['memory'].x[0]
    mask, decoded, prob = learn.predict(f.img)
    assert type(mask) is LandslideMask and torch.equal(torch.as_tensor(mask), decoded) and torch.equal(decoded, prob.argmax(0))
    assert prob.shape == (2, 128, 128) and torch.allclose(prob.sum(0), torch.ones(128, 128), atol=1e-5)
    for o in (str(f.img), f, x, torch.from_numpy(x), BandImage(x)): assert torch.equal(learn.predict(o)[2], prob)
    got, _ = learn.get_preds(dl=learn.dls.test_dl([f.img]))
    assert torch.equal(got[0], prob)
    both, truth = learn.get_preds(dl=learn.dls.test_dl(sources['files'][:2], with_labels=True))
    assert torch.allclose(both[0], prob, atol=1e-2) and torch.equal(truth[0], torch.from_numpy(sources['memory'].y[0]).long())


def test_symmetries_are_turned_back(learn, sources):
    x = sources['memory'].x[0]
    upright, _ = learn.tta(dl=learn.dls.test_dl(x))
    turned, _ = learn.tta(dl=learn.dls.test_dl(np.rot90(x, axes=(1, 2)).copy()))
    assert torch.allclose(turned[0].rot90(-1, (1, 2)), upright[0], atol=.02)
    assert learn.tta()[0].shape == learn.get_preds()[0].shape


def test_what_is_kept(learn, sources, tmp_path):
    learn.recipe = dict(by='a test')
    again = load_segmenter(learn.save_segmenter(tmp_path/'model'), device='cpu')
    f = sources['files'][0]
    with again.no_bar(): assert torch.equal(again.predict(f)[2], learn.predict(f)[2])
    assert again.model.scaling == learn.model.scaling and again.recipe == learn.recipe
    assert dropout_site(again.model).train_p == dropout_site(learn.model).train_p == 0
    with pytest.raises(RuntimeError, match='save_segmenter'): learn.export()


@pytest.mark.parametrize('source', SOURCES)
def test_a_source_is_as_good_as_another(sources, tmp_path, source):
    weights = []
    for o in (source, 'memory'):
        learn = make(sources[o], tmp_path)
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
        weights.append(learn.model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights)))


@pytest.mark.parametrize('source', ['store', 'memory']) # the others lie in memory, too
def test_workers_that_are_spawned(sources, source, monkeypatch):
    spawn = multiprocessing.get_context('spawn')
    monkeypatch.setattr(_FakeLoader, 'multiprocessing_context', property(lambda self: spawn if self.num_workers else None))
    loaders = [landslide_dls(sources[source], bs=2, shuffle_seed=0, num_workers=n, progress=False, device='cpu').train for n in (0, 2)]
    for (x, y), (x2, y2) in zip(*loaders, strict=True): assert torch.equal(x, x2) and torch.equal(y, y2)
    assert len(pickle.dumps(read_split(sources['store']))) < 10_000


def test_a_model_that_magnifies(sources, tmp_path):
    "Patches that nobody augmented are magnified wherever they are, in training, too"
    split = sources['memory']
    dls = landslide_dls(split, valid=split, bs=4, batch_tfms=BatchAugment(192), progress=False, device='cpu')
    torch.manual_seed(0)
    learn = landslide_learner(dls, 'test_resnet', amp=False, path=tmp_path)
    sizes = []
    learn.model.net.register_forward_pre_hook(lambda m, x: sizes.append(x[0].shape[-1]))
    with learn.no_bar(), learn.no_logging():
        learn.fit(1)
        assert {*sizes} == {192}
        assert list(learn.validate(ds_idx=0)) == list(learn.validate(ds_idx=1))
        learn.dls = landslide_dls(split, valid_pct=0, bs=4, progress=False, device='cpu')
        learn.fit(1)
    assert {*sizes} == {192}


MOVES = dict(aug_transforms=aug_transforms(flip_vert=True, max_rotate=45.), rotate=[Rotate(30., p=1.)], crop=[RandomResizedCropGPU(96)],
             ours=[BatchAugment(96)])


@pytest.mark.parametrize('tfms', MOVES)
def test_image_and_mask_move_together(sources, tfms):
    "The elevation of a patch is its mask: still so in what the model is given"
    split = sources['memory']
    x = split.x.copy()
    x[:, 13] = split.y
    dls = landslide_dls(type(split)(x, split.y, split.ns), bs=8, valid_pct=0, batch_tfms=MOVES[tfms], progress=False, device='cpu')
    xb, yb = dls.one_batch()
    height = dls.train.decode((xb, yb))[0][:, 13]
    assert ((height > .5).long() == yb).float().mean() > .98 and 0 < yb.float().mean() < 1


@pytest.mark.parametrize('kw', [dict(item_tfms=Resize(64)), dict(batch_tfms=RandomErasing()), dict(batch_tfms=[Resize(64)])], ids=str)
def test_a_transform_that_cannot_be_right_is_refused_by_name(sources, kw):
    with pytest.raises(TypeError, match='Resize|RandomErasing'): landslide_dls(sources['memory'], **kw)
