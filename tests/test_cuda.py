"""On a GPU, where there is one: the method trains, and says what it says on the processor."""
import numpy as np
import pytest
import torch

from landslide_nb.data.synth import LABELLED, UNSEEN, synth_patch
from landslide_nb.data.store import Split, on_device
from landslide_nb.model.files import load_for_patches
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.predict.crf import CRFParams, guide_image
from landslide_nb.predict.meanfield import meanfield_crf
from landslide_nb.predict.maps import predict_split, query_teacher, unlabelled_dl
from landslide_nb.predict.adapt import region_statistics
from landslide_nb.train.recipe import Stage
from landslide_nb.train.run import train_stage

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU is at hand')


@pytest.fixture(scope='module')
def world():
    def split(region, n):
        xs, ys = zip(*(synth_patch(region, s) for s in range(n)))
        return Split(np.stack(xs), np.stack(ys), [*range(1, n + 1)])
    return dict(train=split(LABELLED, 16), test=split(UNSEEN, 8))


def close(a, b, tol): assert float(np.abs(np.asarray(a) - np.asarray(b)).max()) < tol


def test_a_gpu_says_what_the_processor_says(world):
    torch.manual_seed(0)
    here = create_segmenter(backbone='resnet10t', scaling=world['train'].measure_scaling()).eval()
    with torch.no_grad():
        for k in range(3): here.train()(torch.randn(8, 14, 128, 128))
    here.eval()
    there = create_segmenter(backbone='resnet10t').eval()
    there.load_state_dict(here.state_dict())
    there.cuda()
    probs = [predict_split(m, world['test'], amp=False) for m in (here, there)]
    close(*probs, 1e-3)
    close(probs[0], predict_split(there, world['test']), .1) # in the lower precision
    a, b = (region_statistics(m, world['test'], progress=False) for m in (here, there))
    for k in a.norms: close(a.norms[k].mean.cpu(), b.norms[k].mean.cpu(), 1e-3)
    guide = np.stack([guide_image(o).transpose(2, 0, 1) for o in world['test'].x[:2]])
    close(*(meanfield_crf(probs[0][:2], guide, CRFParams(), device=d).cpu() for d in ('cpu', 'cuda')), 1e-3)


@pytest.mark.parametrize('fields', [dict(), dict(region=True, radiometry=.5)])
def test_a_stage_trains_on_a_gpu(world, fields, tmp_path):
    small = dict(backbone='resnet10t', size=128, bs=4, iters=4, every=2)
    first = train_stage(Stage('first', **small), world, {}, tmp_path/'first', device='cuda', progress=False)
    stage = Stage('second', teacher='first', init='first', unlabelled=('test',), **small, **fields)
    model = train_stage(stage, on_device(world, 'cuda'), dict(first=first), tmp_path/'second', device='cuda', progress=False)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    prob, unc = query_teacher(model, unlabelled_dl(world['test'], 4, 'cuda'), progress=False, seed=0)
    assert np.isfinite(prob).all() and (unc >= 0).all() and unc.max() > 0
    saved = load_for_patches(tmp_path/'second')[0]
    close(predict_split(saved, world['test'], amp=False), predict_split(model, world['test'], amp=False), 1e-2)


def test_an_explorer_asks_on_a_gpu(world):
    from landslide_nb.look.explorers import Patches, copied_model, predictor
    model = copied_model('starter')
    assert next(model.parameters()).is_cuda
    there = predict_split(load_for_patches('starter')[0], world['test'], amp=False)
    close(predictor(model, Patches(world['test']), 'margin')(0)[0], there[0], .1) # in the lower precision
