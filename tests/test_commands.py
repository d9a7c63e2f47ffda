"""The commands as a user runs them: processes with arguments, files, exit statuses and one-line errors."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest

BIN = Path(sys.executable).parent
REAL = Path(__file__).parents[2]/'shared/data/real_patches'
TINY = '''
[defaults]
backbone = "test_resnet"
iters = 4
every = 2
bs = 2
size = 128

[[stages]]
name = "teacher"

[[stages]]
name = "student"
teacher = "teacher"
unlabelled = ["valid", "test"]
init = "teacher"
'''


def run(command, *args):
    return subprocess.run([BIN/f'landslide-{command}', *map(str, args)], capture_output=True, encoding='utf-8')


def refused(res, command, *words):
    "One line on standard error that starts with the command and holds the words, status 1"
    assert res.returncode == 1, res.stderr
    lines = res.stderr.strip().splitlines()
    lines = [o for o in lines if 'Warning' not in o and 'warnings.warn' not in o]
    assert len(lines) == 1 and lines[0].startswith(f'landslide-{command}: '), res.stderr
    assert all(w in lines[0] for w in words), lines[0]


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp('data')/'a world'
    res = run('synth', out, '--train', 6, '--valid', 3, '--test', 2, '--seed', 3)
    assert res.returncode == 0, res.stderr
    return out


@pytest.fixture(scope='module')
def trained(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    (folder/'tiny.toml').write_text(TINY)
    res = run('train', world, folder/'run', '--recipe', folder/'tiny.toml', '--truth', world/'truth')
    assert res.returncode == 0, res.stderr
    assert 'epoch' in res.stdout and '█' not in res.stdout, 'a table, but no bars in a pipe'
    return folder/'run'


def test_synth_writes_the_contest_layout(world):
    for split, n in (('Train', 6), ('Valid', 3), ('Test', 2)):
        assert len(list((world/f'{split}Data/img').glob('image_*.h5'))) == n
    assert len(list((world/'TrainData/mask').glob('mask_*.h5'))) == 6
    assert not (world/'ValidData/mask').exists()
    assert len(list((world/'truth/valid').glob('mask_*.h5'))) == 3
    with h5py.File(world/'TrainData/img/image_1.h5') as f:
        assert f['img'].shape == (128, 128, 14) and f['img'].dtype == np.float64
    with h5py.File(world/'truth/test/mask_1.h5') as f:
        assert f['mask'].shape == (128, 128) and f['mask'].dtype == np.uint8


def test_synth_refuses_to_write_over_a_world(world):
    before = sorted(world.rglob('*'))
    refused(run('synth', world, '--train', 1, '--valid', 1, '--test', 1), 'synth', str(world))
    assert sorted(world.rglob('*')) == before


def test_train_leaves_a_folder_a_stage(trained):
    for stage in ('teacher', 'student'):
        assert {p.name for p in (trained/stage).iterdir()} >= {'model.safetensors', 'model.json', 'metrics.csv', 'curves.png'}
        assert json.loads((trained/stage/'model.json').read_text())['config']['backbone'] == 'test_resnet'
    summary = json.loads((trained/'summary.json').read_text())
    assert set(summary['stages']['student']['scores']) == {'valid', 'test'}
    assert summary['patches'] == {'train': 6, 'valid': 3, 'test': 2}


def test_huggingface_layout_trains_to_the_same_weights(world, trained, tmp_path):
    hf = tmp_path/'hf'
    for ours, theirs in (('Train', 'train'), ('Valid', 'validation'), ('Test', 'test')):
        (hf/'images').mkdir(parents=True, exist_ok=True)
        (hf/f'images/{theirs}').symlink_to(world/f'{ours}Data/img')
    (hf/'annotations').mkdir()
    (hf/'annotations/train').symlink_to(world/'TrainData/mask')
    (tmp_path/'tiny.toml').write_text(TINY)
    res = run('train', hf, tmp_path/'run', '--recipe', tmp_path/'tiny.toml', '--truth', world/'truth')
    assert res.returncode == 0, res.stderr
    model = 'student/model.safetensors'
    assert (tmp_path/'run'/model).read_bytes() == (trained/model).read_bytes()


def test_predict_writes_masks_maps_and_a_zip(world, trained, tmp_path):
    res = run('predict', trained/'student', world, tmp_path/'p', '--split', 'test', '--crf', '--uncertainty', '--prob', '--zip')
    assert res.returncode == 0, res.stderr
    assert len(res.stdout.splitlines()) == 1 and '%|' not in res.stderr, 'no bars in a pipe'
    names = [f'{k}_{n}.h5' for k in ('mask', 'prob', 'uncertainty') for n in (1, 2)]
    assert sorted(p.name for p in (tmp_path/'p').iterdir()) == sorted([*names, 'submission.zip'])
    with h5py.File(tmp_path/'p/mask_2.h5') as f:
        assert f['mask'].dtype == np.uint8 and set(np.unique(f['mask'])) <= {0, 1}
    with h5py.File(tmp_path/'p/uncertainty_2.h5') as f:
        assert f['uncertainty'].shape == (128, 128) and (f['uncertainty'][()] >= 0).all()
    with zipfile.ZipFile(tmp_path/'p/submission.zip') as z:
        assert z.namelist() == ['mask_1.h5', 'mask_2.h5'] and z.testzip() is None


def test_score_of_truth_against_itself(world):
    res = run('score', world/'truth/valid', world/'truth/valid', '--json')
    assert json.loads(res.stdout) == dict(precision=1., recall=1., f1=1., iou=1., patches=3)


def test_score_pools_pixels(tmp_path):
    "Patch 1: 1 of 4 landslide pixels found, 0 false. Patch 2: no landslide, 3 false alarms. Pooled P = 1/4, R = 1/4"
    for name, masks in (('pred', ([1, 0, 0, 0], [1, 1, 1, 0])), ('truth', ([1, 1, 1, 1], [0, 0, 0, 0]))):
        for n, m in enumerate(masks, 1):
            (tmp_path/name).mkdir(exist_ok=True)
            with h5py.File(tmp_path/name/f'mask_{n}.h5', 'w') as f:
                f['mask'] = np.array(m, dtype=np.uint8).reshape(2, 2)
    s = json.loads(run('score', tmp_path/'pred', tmp_path/'truth', '--json').stdout)
    assert (s['precision'], s['recall'], s['f1']) == (.25, .25, .25)
    assert abs(s['iou'] - 1/7) < 1e-12


def test_mistakes_are_one_line(world, trained, tmp_path):
    empty = tmp_path/'empty'
    empty.mkdir()
    out, student, masks = tmp_path/'o', trained/'student', world/'truth/valid'
    mistakes = (
        ('train', (tmp_path/'none', out), 'none', 'no such folder'),
        ('train', (empty, out), 'empty'),
        ('train', (world, out, '--recipe', 'papper'), 'papper'),
        ('train', (world, trained, '--recipe', 'demo'), 'already holds'),
        ('train', (world, out, '--device', 'cuda:77'), '--device'),
        ('predict', (empty, world, out), 'empty'),
        ('predict', (student, empty, out), 'empty'),
        ('predict', (student, world, out, '--split', 'all'), 'all'),
        ('predict', (student, world, out, '--device', 'warp'), '--device', 'warp'),
        ('predict', (student, world, out, '--bs', 0), '--bs'),
        ('predict', (student, world, out, '--threshold', 50), '--threshold'),
        ('demo', (out, '--repeats', 0), '--repeats'),
        ('demo', (world,), 'not empty'),
        ('score', (empty, masks), 'empty'),
        ('score', (world/'truth/test', masks), 'mask_3.h5'))
    with ThreadPoolExecutor(2) as pool: answers = list(pool.map(lambda o: run(o[0], *o[1]), mistakes))
    for (command, _, *words), res in zip(mistakes, answers): refused(res, command, *words)
    assert not (tmp_path/'o').exists()


def test_a_broken_patch_is_named(world, trained, tmp_path):
    folder = tmp_path/'img'
    folder.mkdir()
    (folder/'image_1.h5').write_bytes((world/'TestData/img/image_1.h5').read_bytes())
    (folder/'image_7.h5').write_bytes(b'\x89HDF\r\n\x1a\n' + b'\0'*100)
    refused(run('predict', trained/'student', folder, tmp_path/'o'), 'predict', 'image_7.h5')
    assert not (tmp_path/'o').exists()


# Files that end the process that reads them

def deadly(path, key, shape):
    "A file of which the only block should hold gigabytes, nearly, and unpacks to 64 bytes"
    path.unlink(missing_ok=True)
    with h5py.File(path, 'w') as f:
        d = f.create_dataset(key, shape, 'f8' if key == 'img' else 'u1', chunks=(128, 7000 if key == 'img' else 8*10**5, *shape[2:]),
                             maxshape=(None,)*len(shape), compression='gzip')
        d.id.write_direct_chunk((0,)*len(shape), zlib.compress(bytes(64)) + bytes(10**5))


@pytest.fixture
def harmful(world, tmp_path):
    "A world with an image and a mask that nothing outlives, and one file that is only broken"
    root = shutil.copytree(world, tmp_path/'world')
    deadly(root/'TrainData/img/image_2.h5', 'img', (128, 128, 14))
    deadly(root/'TrainData/mask/mask_4.h5', 'mask', (128, 128))
    (root/'ValidData/img/image_1.h5').write_bytes(b'')
    return root


def test_check_names_files_that_end_their_reader_and_goes_on(harmful):
    code = f'from landslide_nb.data.files import *; read_patch({str(harmful/"TrainData/img/image_2.h5")!r})'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == -signal.SIGSEGV, 'not deadly'
    res = run('check', harmful)
    assert (res.returncode, res.stderr) == (1, '')
    lines = res.stdout.splitlines()
    assert [o.split()[0] for o in lines[:-1]] == ['TrainData/img/image_2.h5', 'TrainData/mask/mask_4.h5', 'ValidData/img/image_1.h5']
    assert all(o.endswith(f'ends the process that reads it (signal {signal.SIGSEGV:d})') for o in lines[:2])
    assert lines[-1] == '3 faults (train: 6 images, 6 masks, valid: 3 images, 0 masks, test: 2 images, 0 masks)'


CHECK = """import sys
from landslide_nb.data.check import check_data
faults, counts = check_data(sys.argv[1], progress=False)
print(len(faults), *counts)
assert 'torch' not in sys.modules
"""


def test_check_works_in_a_script_and_as_a_module(harmful, tmp_path):
    "A script without a guard, which no second process may import; in a folder of modules that must not be taken for those of the library"
    (tmp_path/'json.py').write_text('raise SystemExit("a module of the folder was imported")')
    (tmp_path/'scripts').mkdir()
    (tmp_path/'scripts/one.py').write_text(CHECK)
    res = subprocess.run([sys.executable, 'scripts/one.py', 'world'], cwd=tmp_path, capture_output=True, text=True)
    assert (res.stdout, res.stderr) == ('3 train valid test\n', '')
    res = subprocess.run([sys.executable, '-m', 'one', '../world'], cwd=tmp_path/'scripts', capture_output=True, text=True)
    assert (res.stdout, res.stderr) == ('3 train valid test\n', '')


SLOW = """import sys
from landslide_nb.data import check
slow = f"import time, landslide_nb.data.check as c; c.read_patch = lambda *args: time.sleep({sys.argv[2]})"
class Slow(check.Reader):
    code = check.Reader.code.replace(' serve()', f' {slow}; serve()')
    def start(self):
        super().start()
        print(self.process.pid, flush=True)
check.Reader = Slow
from landslide_nb.app.commands import check as command
command(sys.argv[1])
"""


def alive(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    stat = Path(f'/proc/{pid}/stat')
    return not stat.exists() or stat.read_text().rpartition(')')[2].split()[0] != 'Z'


@pytest.mark.parametrize('sent, seconds', [(signal.SIGINT, 99), (signal.SIGTERM, .5), (signal.SIGKILL, .5)])
def test_no_process_is_left_behind(sent, seconds, world):
    "Ctrl-C, which goes to the whole group of a terminal, ends a reader whatever it does; one whose command was killed ends after its file"
    p = subprocess.Popen([sys.executable, '-c', SLOW, world, str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         start_new_session=True)
    reader = int(p.stdout.readline())
    assert alive(reader)
    os.killpg(p.pid, sent)
    assert p.wait(30) == (130 if sent == signal.SIGINT else -sent)
    if sent == signal.SIGINT: assert not alive(reader) and p.stderr.read() == 'landslide-check: interrupted\n'
    for _ in range(100):
        if not alive(reader): break
        time.sleep(.1)
    assert not alive(reader) and p.stderr.read() == ''


@pytest.mark.skipif(not REAL.is_dir(), reason='the folder with real Sentinel-2 patches is not beside this checkout')
def test_real_pixels(trained, tmp_path):
    res = run('predict', trained/'student', REAL, tmp_path/'p', '--crf', '--uncertainty')
    assert res.returncode == 0, res.stderr
    assert len(list((tmp_path/'p').glob('mask_*.h5'))) == len(list((REAL/'ValidData/img').glob('*.h5'))) == 4
    for p in (tmp_path/'p').glob('uncertainty_*.h5'):
        with h5py.File(p) as f:
            assert np.isfinite(f['uncertainty'][()]).all()
