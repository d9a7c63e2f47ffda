"""The packed store as a user meets it: the command, a process that is killed, and training from it."""
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from landslide_nb.core.base import PatchError
from landslide_nb.data.bands import L4S, RGB
from landslide_nb.data.check import check_data, check_store
from landslide_nb.data.files import write_mask, write_patch
from landslide_nb.data.loader import landslide_dls
from landslide_nb.data.store import pack_data, read_split
from landslide_nb.data.synth import write_world
from test_commands import BIN, TINY, refused, run
from test_resume import small_files


@pytest.fixture(scope='module')
def many(tmp_path_factory):
    "A folder of 600 patches, hard links to a few"
    out = tmp_path_factory.mktemp('many')
    write_world(out/'world', 6, 1, 1, progress=False)
    for kind, folder in (('image', 'img'), ('mask', 'mask')):
        (out/f'data/TrainData/{folder}').mkdir(parents=True)
        for i in range(1, 601): os.link(out/f'world/TrainData/{folder}/{kind}_{(i - 1) % 6 + 1}.h5', out/f'data/TrainData/{folder}/{kind}_{i}.h5')
    return out


def names(folder): return sorted(o.name for o in folder.iterdir())


def written(store, old):
    "Bytes of the largest temporary file that is not one of the old"
    sizes = [0]
    for o in set(store.glob('.tmp-*')) - old:
        with suppress(FileNotFoundError): sizes.append(o.stat().st_size)
    return max(sizes)


def test_a_killed_run_starts_again_and_ends_the_same(many, tmp_path):
    assert run('pack', many/'data', tmp_path/'whole').returncode == 0
    store, kills = tmp_path/'store', 0
    for tenth in (1, 2, 4, 6, 8):
        p = subprocess.Popen([BIN/'landslide-pack', many/'data', store], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        old = set(store.glob('.tmp-*')) # of the run before; they vanish as this one begins
        while p.poll() is None and written(store, old) < tenth * 55_000_000: time.sleep(.001)
        if p.poll() is None: kills += 1
        p.send_signal(signal.SIGKILL)
        p.wait()
        assert not (store/'index.json').exists() and len(names(store)) == 2, 'patches and masks, neither by its final name'
    assert kills == 5
    res = run('pack', many/'data', store)
    assert res.returncode == 0, res.stderr
    assert names(store) == ['index.json', 'train-x.npy', 'train-y.npy']
    for name in ('index.json', 'train-x.npy', 'train-y.npy'): assert (store/name).read_bytes() == (tmp_path/'whole'/name).read_bytes(), name
    assert check_store(store, progress=False) == 600
    refused(run('pack', many/'data', store), 'pack', 'already holds a packed store')


def test_a_full_disk_is_one_line_and_leaves_nothing(many, tmp_path):
    args = [BIN/'landslide-pack', many/'data', tmp_path/'store']
    res = subprocess.run(args, capture_output=True, encoding='utf-8', preexec_fn=small_files(2**22))
    refused(res, 'pack', 'train-x.npy', 'more than 4.0 MB are needed', 'are free')
    assert names(tmp_path/'store') == []


def test_training_from_the_store_gives_the_same_weights_and_half_a_store_is_refused(tmp_path):
    write_world(tmp_path/'world', 4, 3, 2, progress=False)
    (tmp_path/'tiny.toml').write_text(TINY)
    assert run('pack', tmp_path/'world', tmp_path/'store', '--check').returncode == 0
    for k in ('world', 'store'):
        res = run('train', tmp_path/k, tmp_path/f'run-{k}', '--recipe', tmp_path/'tiny.toml', '--truth', tmp_path/'world/truth')
        assert res.returncode == 0, res.stderr
        res = run('predict', tmp_path/f'run-{k}/student', tmp_path/k, tmp_path/f'pred-{k}', '--split', 'test', '--uncertainty')
        assert res.returncode == 0, res.stderr
    for name in ('run-{}/student/model.safetensors', 'pred-{}/uncertainty_2.h5', 'pred-{}/mask_1.h5'):
        assert (tmp_path/name.format('world')).read_bytes() == (tmp_path/name.format('store')).read_bytes(), name
    half, out = tmp_path/'store', tmp_path/'out'
    (half/'index.json').unlink() # what a kill leaves between the last array and the index
    refused(run('train', half, out, '--recipe', tmp_path/'tiny.toml'), 'train', str(half))
    refused(run('predict', tmp_path/'run-world/student', half, out, '--split', 'test'), 'predict', str(half))
    res = run('check', half)
    assert res.returncode == 1 and res.stdout.splitlines()[-1].startswith('1 fault ('), res.stdout
    with pytest.raises(PatchError, match='not a packed store'): check_store(half)
    assert not out.exists()


def test_what_cannot_be_packed_is_one_line(many, tmp_path):
    (tmp_path/'empty').mkdir()
    refused(run('pack', tmp_path/'none', tmp_path/'s'), 'pack', 'none')
    refused(run('pack', tmp_path/'empty', tmp_path/'s'), 'pack', 'empty')
    img = tmp_path/'bad/TrainData/img'
    img.mkdir(parents=True)
    (img/'image_1.h5').write_bytes((many/'world/TrainData/img/image_1.h5').read_bytes()[:5000])
    refused(run('pack', tmp_path/'bad', tmp_path/'s'), 'pack', 'image_1.h5')
    assert not (tmp_path/'s/index.json').exists()
    (tmp_path/'s/index.json').write_text('{"format": "other"}')
    refused(run('predict', tmp_path, tmp_path/'s', tmp_path/'o'), 'predict')
    refused(run('train', tmp_path/'s', tmp_path/'o'), 'train', 'index.json')


FOUR = L4S.some('B4 B3 B2 dem')


@pytest.fixture
def four(tmp_path):
    "Patches of four bands in files of three kinds, 64 x 96 pixels"
    rng = np.random.default_rng(0)
    for n in range(1, 7):
        x, m = rng.uniform(.5, 1.5, (4, 64, 96)).astype(np.float32), (rng.random((64, 96)) < .1).astype(np.uint8)
        folder = tmp_path/'four'
        for o in ('images', 'masks'): (folder/o).mkdir(parents=True, exist_ok=True)
        if n < 4: np.save(folder/f'images/image_{n}.npy', x)
        else: write_patch(folder/f'images/image_{n}.h5', x)
        if n % 2: write_mask(folder/f'masks/mask_{n}.h5', m)
        else: Image.fromarray(m*255).save(folder/f'masks/mask_{n}.png')
    return tmp_path/'four'


def test_other_bands_and_sizes_are_packed_and_read_as_the_folder_is(four, tmp_path):
    res = run('pack', four, tmp_path/'store', '--bands', 'B4,B3,B2,dem', '--check')
    assert res.returncode == 0 and '6 train' in res.stdout, res.stderr
    assert [o[0] for o in json.loads((tmp_path/'store/index.json').read_text())['bands']] == [*FOUR.names]
    a, b = read_split(four, bands=FOUR, progress=False), read_split(tmp_path/'store')
    assert a.bands == b.bands == FOUR and a.digest() == b.digest() and b.x.shape == (6, 4, 64, 96)
    sources = (four, FOUR), (tmp_path/'store', None)
    folder, store = (landslide_dls(o, bands=k, bs=2, shuffle_seed=0, progress=False, device='cpu') for o, k in sources)
    for (x, y), (x2, y2) in zip(folder.train, store.train, strict=True):
        assert x2.bands == FOUR and (x == x2).all() and (y == y2).all()
    res = run('check', four, '--bands', 'B4 B3 B2 dem')
    assert (res.returncode, res.stdout) == (0, 'no faults (images: 6 images, 6 masks)\n'), res.stdout
    assert run('check', tmp_path/'store').returncode == 0


def test_bands_that_do_not_fit_are_one_line(four, tmp_path):
    refused(run('pack', four, tmp_path/'s', '--bands', 'B4,B8A'), 'pack', '--bands', "unknown band 'B8A'")
    refused(run('pack', four, tmp_path/'s', '--bands', 'RGB'), 'pack', 'image_1.npy', 'expected 3 bands')
    refused(run('pack', four, tmp_path/'s'), 'pack', 'holds no image_N.h5')
    assert not (tmp_path/'s/index.json').exists()
    np.save(four/'images/image_2.npy', np.ones((4, 64, 64)))
    refused(run('pack', four, tmp_path/'s', '--bands', 'B4,B3,B2,dem'), 'pack', 'image_2.npy', 'is 64 x 64 pixels, the first patch 64 x 96')
    res = run('pack', four, tmp_path/'s', '--bands', 'B4,B3,B2,dem', '--skip-bad')
    assert res.returncode == 0 and '1 bad file left out' in res.stderr, res.stderr
    with pytest.raises(PatchError, match='holds the bands B4 B3 B2 dem, not red green blue'): read_split(tmp_path/'s', bands=RGB)
    index = json.loads((tmp_path/'s/index.json').read_text())
    for bands in ([], [['x'*99, 1, 'DN', 1, 1]]*4, 'RGB', [[*o[:3], 0, 1] for o in index['bands']]):
        (tmp_path/'s/index.json').write_text(json.dumps({**index, 'bands': bands}))
        with pytest.raises(PatchError, match='index.json: the index is damaged'): read_split(tmp_path/'s')


REAL = Path(__file__).parents[2]/'shared/data/l4s_regions_rgb'


@pytest.mark.skipif(not REAL.is_dir(), reason='the real three-band patches are not here')
@pytest.mark.parametrize('region, n', [('nepal', 48), ('hokkaido', 114)])
def test_real_regions_are_packed_and_checked(region, n, tmp_path):
    faults, counts = check_data(REAL/region, progress=False, bands=RGB)
    assert (faults, counts) == ([], dict(images=(n, n)))
    pack_data(REAL/region, tmp_path/'store', np.float16, progress=False, bands=RGB)
    dls = landslide_dls(tmp_path/'store', bs=8, progress=False, device='cpu')
    x, y = dls.one_batch()
    assert x.bands == dls.train_ds.bands == RGB and x.shape == (8, 3, 128, 128) and 0 < x.max() <= 1 and {*y.unique().tolist()} == {0, 1}
