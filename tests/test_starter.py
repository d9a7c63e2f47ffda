"""The model that the library brings along: small, and of use without data, labels or network."""
import json
from pathlib import Path

import numpy as np
import pytest
from test_commands import run

from landslide_nb.data.store import Split, read_split
from landslide_nb.data.synth import write_world, synth_patch
from landslide_nb.model.files import load_for_patches, model_folder
from landslide_nb.predict.maps import evaluate
from landslide_nb.predict.adapt import adapt_to_region

REAL = Path(__file__).parents[2]/'shared/data/l4s_real'


def test_it_is_small_and_has_a_card():
    folder = model_folder('starter')
    assert sum(o.stat().st_size for o in folder.iterdir()) < 12e6
    assert {o.name for o in folder.iterdir()} == {'model.json', 'model.safetensors', 'README.md'}


def test_it_knows_mountains_that_it_has_not_seen():
    model, info = load_for_patches('starter')
    x, y = (np.stack(o) for o in zip(*(synth_patch(None, (12345, i)) for i in range(12))))
    assert evaluate(model, Split(x, y, [*range(1, 13)]))['f1'] > .7


@pytest.mark.skipif(not REAL.is_dir(), reason='no real patches are at hand')
def test_it_finds_landslides_on_real_patches_and_more_of_them_adapted():
    model, info = load_for_patches('starter')
    real = read_split(REAL, 'train', progress=False)
    there, how = adapt_to_region(model, Split(real.x, None, real.ns), progress=False)
    before, after = (evaluate(o, real)['f1'] for o in (model, there))
    assert how.outcome == 'adapted' and .3 < before < after


def test_a_map_without_anything(tmp_path, monkeypatch):
    pytest.importorskip('rasterio')
    assert run('synth', tmp_path/'s', '--scene', '400', '--seed', '4').returncode == 0
    monkeypatch.chdir(tmp_path)
    maps = {}
    for name, more in (('map', ()), ('plain', ('--no-adapt',))):
        res = run('map', 'starter', 's/scene.tif', name, '--dem', 's/dem.tif', '--device', 'cpu', *more)
        assert res.returncode == 0, res.stderr
        maps[name] = json.loads((tmp_path/name/'map.json').read_text())
    assert maps['plain']['adapted'] is None
    assert 'adapted, landslide share' in maps['map']['adapted']['line']
    assert maps['map']['model']['path'] == 'starter'


def test_patches_and_what_starts_from_it(tmp_path):
    write_world(tmp_path/'w', 6, 8, 1, progress=False)
    res = run('predict', 'starter', tmp_path/'w', tmp_path/'p', '--device', 'cpu')
    assert res.returncode == 0 and 'adapted, landslide share' in res.stdout, res.stderr
    (tmp_path/'r.toml').write_text('[[stages]]\nname = "mine"\niters = 2\nbs = 2\nevery = 1\n')
    res = run('train', tmp_path/'w', tmp_path/'run', '--recipe', tmp_path/'r.toml', '--init', 'starter', '--device', 'cpu')
    assert res.returncode == 0, res.stderr
    mine, starter = (load_for_patches(o) for o in (tmp_path/'run/mine', 'starter'))
    assert mine[1].config['backbone'] == starter[1].config['backbone'] and mine[0].scaling == starter[0].scaling
    (tmp_path/'odd.toml').write_text('[[stages]]\nname = "mine"\nbackbone = "resnet18"\ninit = "starter"\niters = 2\n')
    res = run('train', tmp_path/'w', tmp_path/'odd', '--recipe', tmp_path/'odd.toml', '--device', 'cpu')
    assert (res.returncode, len(res.stderr.splitlines())) == (1, 1) and 'cannot start from the starter' in res.stderr
