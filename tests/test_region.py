"A model taken to a region by its statistics: the commands, kills, processes, and regions that cannot be measured."
import json
import subprocess
import time

import numpy as np
import pytest
import torch

from landslide_nb.app.commands import adapt_command, map_command, predict
from landslide_nb.data.bands import L4S
from landslide_nb.data.files import read_mask, write_patch
from landslide_nb.data.synth import LABELLED, UNSEEN, synth_patch
from landslide_nb.data.store import Split
from landslide_nb.model.files import load_model, save_model
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.predict.adapt import adapt_to_region, with_statistics, region_statistics
from test_commands import BIN, run

rasterio = pytest.importorskip('rasterio')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "Random weights that mark a tenth of the labelled region, with its statistics"
    torch.manual_seed(0)
    split = Split(np.stack([synth_patch(LABELLED, n)[0] for n in range(24)]), None, [*range(1, 25)])
    net = create_segmenter(backbone='test_resnet', scaling=split.measure_scaling()).eval()
    net = with_statistics(net, region_statistics(net, split, progress=False), 1)
    with torch.no_grad():
        logits = net(torch.from_numpy(split.x[:8]))
        head = [o for o in net.modules() if isinstance(o, torch.nn.Conv2d) and o.out_channels == 2][-1]
        head.bias[0] += (logits[:, 1] - logits[:, 0]).quantile(.9)
    return save_model(tmp_path_factory.mktemp('model'), net)


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    out = tmp_path_factory.mktemp('scene')
    assert run('synth', out, '--scene', 400, '--seed', 1).returncode == 0
    return out


def folder(path, patches):
    path.mkdir()
    for n, x in enumerate(patches, 1): write_patch(path/f'image_{n}.h5', x)
    return path


def said(capsys, command, *args, **kwargs):
    capsys.readouterr()
    command(*args, device='cpu', **kwargs)
    return capsys.readouterr().out.strip().splitlines()


CLOUD = (np.array([5000, 5000, 5000, 5200, 5300, 5500, 5600, 5500, 2500, 60, 3000, 2000, 20, 773]) / L4S.means)[:, None].astype(np.float32)
UNSEEN_PATCHES = [synth_patch(UNSEEN, n)[0] for n in range(8)]
CASES = dict(
    away=(UNSEEN_PATCHES, 'the region differs from the source region (weight 0.'),
    home=([synth_patch(LABELLED, n)[0] for n in range(100, 108)], 'no shift beyond chance (weight 0.50 of 8 patches): '),
    alone=(UNSEEN_PATCHES[:1], 'one patch does not show a region: left as it is'),
    white=([np.repeat(CLOUD, 128*128, 1).reshape(14, 128, 128)]*3, 'all 3 patches are cloud, snow or water: left as it is'))


@pytest.mark.parametrize('case', CASES)
def test_predict_says_in_a_line_what_became_of_the_model(model, tmp_path, capsys, case):
    patches, words = CASES[case]
    data = folder(tmp_path/'data', patches)
    lines = said(capsys, predict, model, data, tmp_path/'adapted', adapt=True)
    assert len(lines) == 2 and lines[0].startswith(words), lines
    said(capsys, predict, model, data, tmp_path/'plain')
    same = all((read_mask(tmp_path/f'adapted/mask_{n}.h5') == read_mask(tmp_path/f'plain/mask_{n}.h5')).all() for n in range(1, len(patches) + 1))
    assert same == ('left as it is' in lines[0])


def test_a_model_without_batch_norms_is_left_as_it_is(model):
    net, info = load_model(model)
    for m in [*net.modules()]:
        for k, o in [*m.named_children()]:
            if isinstance(o, torch.nn.modules.batchnorm._BatchNorm): setattr(m, k, torch.nn.Identity())
    same, how = adapt_to_region(net, Split(np.stack(UNSEEN_PATCHES), None, [*range(1, 9)]))
    assert str(how).startswith('the model has no batch norm') and how.weight == 0


def test_prediction_does_not_hang_on_the_order_of_the_patches(model):
    net, info = load_model(model)
    a = Split(np.stack(UNSEEN_PATCHES), None, [*range(1, 9)])
    first, second = (adapt_to_region(net, o, progress=False)[0].state_dict() for o in (a, a.subset([*range(8)][::-1])))
    assert all(torch.allclose(first[k], second[k], rtol=1e-4, atol=1e-4) for k in first)


def read(path):
    with rasterio.open(path) as src: return src.read(1)


def map_args(model, scene, out, *more):
    return ['map', model, scene/'scene.tif', out, '--dem', scene/'dem.tif', '--bs', 4, '--device', 'cpu', '--adapt', *more]


@pytest.fixture(scope='module')
def mapped(model, scene, tmp_path_factory):
    out = tmp_path_factory.mktemp('map')/'m'
    res = run(*map_args(model, scene, out))
    assert res.returncode == 0 and res.stderr == '', res.stderr
    return out, res.stdout.splitlines()


def test_a_map_says_where_its_model_was_taken(model, scene, mapped, tmp_path):
    out, lines = mapped
    info = json.loads((out/'map.json').read_text())
    assert len(lines) == 2 and lines[0] == info['adapted']['line'] and info['adapted']['outcome'] == 'adapted', lines
    assert info['model']['sha256'] == info['adapted']['sha256'] and info['adapted']['patches'] == 9
    assert run(*[o for o in map_args(model, scene, tmp_path/'plain') if o != '--adapt']).returncode == 0
    assert not (read(tmp_path/'plain/probability.tif') == read(out/'probability.tif')).all()
    assert json.loads((tmp_path/'plain/map.json').read_text())['adapted'] is None


def test_dask_workers_map_with_the_adapted_model(model, scene, mapped, tmp_path):
    pytest.importorskip('distributed')
    res = run(*map_args(model, scene, tmp_path/'m', '--workers', 2, '--dask'))
    assert res.returncode == 0, res.stderr
    assert (tmp_path/'m/probability.tif').read_bytes() == (mapped[0]/'probability.tif').read_bytes()


def test_a_killed_map_goes_on_with_the_model_it_had(model, scene, mapped, tmp_path):
    out = tmp_path/'m'
    command = [BIN/'landslide-map', *map(str, map_args(model, scene, out)[1:])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    saved = out/'.partial/adapted/model.json'
    while process.poll() is None and not saved.exists(): time.sleep(.01)
    process.kill()
    process.wait()
    if (out/'map.json').exists(): pytest.skip('the map was finished before it could be killed')
    assert run(*map_args(model, scene, out)).returncode == 0
    assert (out/'probability.tif').read_bytes() == (mapped[0]/'probability.tif').read_bytes()
    assert not (out/'.partial').exists()


def test_a_scene_adapts_a_model_without_labelled_patches(model, scene, tmp_path, capsys):
    out = tmp_path/'new'
    lines = said(capsys, adapt_command, model, scene/'scene.tif', out, dem=scene/'dem.tif', iters=2, bs=4)
    assert lines[-1].startswith(f'{out}: adapted to') and any('the region differs' in o for o in lines), lines
    info = load_model(out)[1]
    assert info.adapted['outcome'] == 'adapted' and info.recipe['stage']['teacher'] is None
    about = json.loads((out/'adapt.json').read_text())
    assert about['labelled'] is None and about['windows'] == 9
    assert said(capsys, map_command, out, scene/'scene.tif', tmp_path/'m', dem=scene/'dem.tif')


def test_an_adaptation_killed_after_training_goes_on_to_the_same_model(model, scene, tmp_path, monkeypatch, capsys):
    "Statistics are measured after the last iteration: a kill before that must not leave a model that looks finished"
    from landslide_nb.scene.adapt import adapt
    from landslide_nb.scene.reader import Scene
    from landslide_nb.train import run
    def killed(*args): raise KeyboardInterrupt
    kwargs, ground = dict(iters=2, bs=4, device='cpu', progress=False), Scene(scene/'scene.tif', scene/'dem.tif')
    whole = adapt(model, ground, tmp_path/'whole', **kwargs)
    with monkeypatch.context() as m:
        m.setattr(run, 'region_model', killed)
        with pytest.raises(KeyboardInterrupt): adapt(model, ground, tmp_path/'new', checkpoint=0, **kwargs)
    assert not (tmp_path/'new/model.json').exists()
    new = adapt(model, ground, tmp_path/'new', resume=True, **kwargs)
    assert all(torch.equal(v, new.state_dict()[k]) for k, v in whole.state_dict().items())
