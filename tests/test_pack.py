"""The packed store as a user meets it: the command, a process that is killed, and training from it."""
import os
import signal
import subprocess
import time
from contextlib import suppress

import pytest

from landslide_nb.core.base import PatchError
from landslide_nb.data.check import check_store
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
