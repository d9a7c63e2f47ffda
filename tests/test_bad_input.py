"Whatever is wrong with the data, every command says so in one line that names the file, and leaves nothing half-done."
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from landslide_nb.app import commands as cli
from landslide_nb.data.files import read_mask, read_patch, write_h5, write_mask, write_patch
from landslide_nb.data.store import open_store, read_split
from landslide_nb.data.check import check_data
from landslide_nb.data.synth import write_world
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.model.files import load_model, save_model
from test_commands import BIN, refused, run

TINY = '[[stages]]\nname = "only"\nbackbone = "test_resnet"\niters = 2\nevery = 2\nbs = 2\nsize = 128\n'


@pytest.fixture(scope='module')
def world(tmp_path_factory): return write_world(tmp_path_factory.mktemp('data')/'world', 4, 2, 2, progress=False)


@pytest.fixture(scope='module')
def model(world, tmp_path_factory):
    scaling = read_split(world, progress=False).measure_scaling()
    return save_model(tmp_path_factory.mktemp('model'), create_segmenter('deeplabv3plus', 'test_resnet', scaling=scaling))


@pytest.fixture
def root(world, tmp_path):
    "A copy of the world that a test may break; files are links until they are replaced"
    return shutil.copytree(world, tmp_path/'world', copy_function=os.link)


@pytest.fixture
def recipe(tmp_path):
    (tmp_path/'tiny.toml').write_text(TINY)
    return tmp_path/'tiny.toml'


def said(capsys, command, *args, **kwargs):
    "Status, standard output and standard error of a command that runs in this process"
    capsys.readouterr()
    status = 0
    try: getattr(cli, command)(*args, **kwargs)
    except SystemExit as e: status = e.code
    return status, *capsys.readouterr()


def one_line(status, out, err, *words):
    "The command ended with status 1 and one line of its own that holds the words"
    lines = [o for o in err.splitlines() if o and 'Warning' not in o and 'warnings.warn' not in o]
    assert status == 1 and len(lines) == 1 and lines[0].startswith('landslide-'), err
    assert 'Traceback' not in err
    for w in words: assert w in lines[0], lines[0]


# One file is at fault

IMG, MASK = 'TrainData/img/image_3.h5', 'TrainData/mask/mask_3.h5'


def patch(root): return read_patch(root/'TrainData/img/image_1.h5').transpose(1, 2, 0)


def bad_value(v):
    def values(root):
        x = patch(root).copy()
        x[5, 6, 7] = v
        return dict(img=x)
    return values


def bad_mask(v, dtype='u1'): return lambda root: dict(mask=np.full((128, 128), v, dtype))


ARRAYS = {  # name: (file, arrays to write, a word of the fault)
    'wrong key': (IMG, lambda r: dict(image=patch(r)), 'img'),
    'bands first': (IMG, lambda r: dict(img=patch(r).transpose(2, 0, 1)), 'transpose'),
    '13 bands': (IMG, lambda r: dict(img=patch(r)[..., :13]), '128 x 128 x 13'),
    'half a patch': (IMG, lambda r: dict(img=patch(r)[:64]), '64 x 128 x 14'),
    'one band': (IMG, lambda r: dict(img=patch(r)[..., 0]), '128 x 128,'),
    'no pixels': (IMG, lambda r: dict(img=patch(r)[:0]), '0 x 128 x 14'),
    'whole numbers': (IMG, lambda r: dict(img=(1000*patch(r)).astype('i2')), 'int16'),
    'bytes': (IMG, lambda r: dict(img=patch(r).astype('u1')), 'uint8'),
    'NaN': (IMG, bad_value(np.nan), 'not finite (bands B8)'),
    'infinity': (IMG, bad_value(-np.inf), 'not finite'),
    'beyond float32': (IMG, lambda r: dict(img=patch(r).astype('f8') * 1e300), 'not finite'),
    'words': (IMG, lambda r: dict(img=[b'a', b'b']), 'expected a float'),
    'complex numbers': (IMG, lambda r: dict(img=patch(r).astype('c16')), 'complex128'),
    'a folder inside': (IMG, lambda r: {'img/x': patch(r)}, 'not a data set'),
    'mask of 255': (MASK, bad_mask(255), 'such as 255'),
    'mask of 2': (MASK, bad_mask(2), 'such as 2'),
    'negative mask': (MASK, bad_mask(-1, 'i8'), 'such as -1'),
    'mask of floats': (MASK, bad_mask(1, 'f4'), 'float32'),
    'mask too small': (MASK, lambda r: dict(mask=np.zeros((64, 64), 'u1')), '64 x 64'),
    'mask with a band axis': (MASK, lambda r: dict(mask=np.zeros((128, 128, 1), 'u1')), '128 x 128 x 1'),
    'wrong key of a mask': (MASK, lambda r: dict(img=np.zeros((128, 128), 'u1')), 'mask'),
    'an image as mask': (MASK, lambda r: dict(img=patch(r)), 'mask')}


def cut(p): p.write_bytes(p.with_name(p.name.replace('3', '1')).read_bytes()[:-1000])
def missing(p): pass
def twice(p): [os.link(p.with_name(p.name.replace('3', '1')), p.with_name(p.name.replace('3', n))) for n in ('3', '03')]
def folder(p): p.mkdir()


def zstd(p):
    (plan := h5py.h5p.create(h5py.h5p.DATASET_CREATE)).set_chunk((128, 128, 14))
    plan.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(p, 'w') as f:
        d = h5py.h5d.create(f.id, b'img', h5py.h5t.IEEE_F64LE, h5py.h5s.create_simple((128, 128, 14)), plan)
        d.write_direct_chunk((0, 0, 0), b'packed')


def written_half(p):
    with h5py.File(p, 'w') as f: f.create_dataset('img', (128, 128, 14), 'f8', chunks=(64, 64, 14))[:64] = 1


FILES = {  # name: (file that is taken away, what comes in its place, the file and a word of the fault)
    'empty file': (IMG, lambda p: p.write_bytes(b''), 'image_3.h5', '0 bytes'),
    'cut short': (IMG, cut, 'image_3.h5', 'truncated'),
    'text pointer': (IMG, lambda p: p.write_text('version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n'),
                     'image_3.h5', 'text pointer'),
    'a web page': (IMG, lambda p: p.write_text('<html>404: not found</html>'), 'image_3.h5', 'text file'),
    'other bytes': (IMG, lambda p: p.write_bytes(bytes(range(256))*9), 'image_3.h5', 'not an HDF5 file'),
    'a folder': (IMG, folder, 'image_3.h5', 'a folder'),
    'a pipe': (IMG, os.mkfifo, 'image_3.h5', 'not a regular file'),
    'a link to nothing': (IMG, lambda p: p.symlink_to('gone'), 'image_3.h5', 'link to nothing'),
    'a link to itself': (IMG, lambda p: p.symlink_to(p.name), 'image_3.h5', 'symbolic links'),
    'a filter that is not there': (IMG, zstd, 'image_3.h5', 'packed with zstd'),
    'half of its blocks': (IMG, written_half, 'image_3.h5', 'not all 4 blocks'),
    'mask without its image': (IMG, missing, 'mask_3.h5', 'no image'),
    'image without its mask': (MASK, missing, 'image_3.h5', 'no mask'),
    'one number twice': (IMG, twice, 'image_3.h5', 'same number as image_03.h5'),
    'one mask twice': (MASK, twice, 'mask_3.h5', 'same number as mask_03.h5'),
    'empty mask': (MASK, lambda p: p.write_bytes(b''), 'mask_3.h5', '0 bytes'),
    'mask cut short': (MASK, cut, 'mask_3.h5', 'truncated'),
    'text pointer of a mask': (MASK, lambda p: p.write_text('version https://git-lfs.github.com/spec/v1\n'), 'mask_3.h5', 'text pointer')}


def break_it(root, name):
    "Break patch 3 of the training split; the file and the word that a message must hold"
    path, how = root/(ARRAYS.get(name) or FILES[name])[0], (ARRAYS.get(name) or FILES[name])[1]
    arrays = how(root) if name in ARRAYS else None
    path.unlink()
    if arrays:
        with h5py.File(path, 'w') as f:
            for k, v in arrays.items(): f[k] = v
        return path.name, ARRAYS[name][2]
    if not arrays: how(path)
    return FILES[name][2:]


@pytest.mark.parametrize('name', [*ARRAYS, *FILES])
def test_one_bad_file(name, root, model, recipe, tmp_path, capsys):
    words = break_it(root, name)
    status, out, err = said(capsys, 'check', root)
    hits = [o for o in out.splitlines() if all(w in o for w in words)]
    assert (status, len(hits), err) == (1, 1, '') and out.splitlines()[-1].startswith('1 fault ('), out
    before = sorted(root.rglob('*'))
    one_line(*said(capsys, 'pack', root, tmp_path/'store'), *words)
    assert not (tmp_path/'store/index.json').exists() and not list(tmp_path.glob('store/*.npy'))
    one_line(*said(capsys, 'train', root, tmp_path/'run', recipe=recipe), *words)
    one_line(*said(capsys, 'predict', model, root, tmp_path/'pred', split='train'), *words)
    assert not (tmp_path/'run').exists() and not (tmp_path/'pred').exists()
    assert sorted(root.rglob('*')) == before

    status, out, err = said(capsys, 'pack', root, tmp_path/'rest', skip_bad=True)
    assert status == 0 and 'landslide-pack: 1 bad file left out: ' in err and all(w in err for w in words), err
    index = open_store(tmp_path/'rest')
    assert index['splits']['train']['ns'] == [1, 2, 4] and len(index['skipped']) == 1 and words[0] in index['skipped'][0]
    bad = []
    assert read_split(root, progress=False, bad=bad).ns == [1, 2, 4] and len(bad) == 1
    assert check_data(tmp_path/'rest', progress=False) == ([], dict(patches=7))


def test_every_command_goes_on_without_bad_files(root, model, recipe, tmp_path, capsys):
    break_it(root, 'NaN')
    (root/'ValidData/img/image_2.h5').unlink()
    (root/'ValidData/img/image_2.h5').write_bytes(b'')
    (root/'truth/test/mask_1.h5').unlink()
    assert said(capsys, 'train', root, tmp_path/'run', recipe=recipe, truth=root/'truth')[0] == 1
    status, out, err = said(capsys, 'train', root, tmp_path/'run', recipe=recipe, truth=root/'truth', skip_bad=True)
    assert status == 0 and '3 bad files left out' in err and 'image_3.h5' in err and 'image_1.h5: has no mask' in err, err
    summary = json.loads((tmp_path/'run/summary.json').read_text())
    assert summary['patches'] == dict(train=3, valid=1, test=1) and len(summary['skipped']) == 3
    status, out, err = said(capsys, 'predict', tmp_path/'run/only', root, tmp_path/'pred', skip_bad=True)
    assert status == 0 and '1 bad file left out' in err
    assert [o.name for o in (tmp_path/'pred').iterdir()] == ['mask_1.h5']
    one_line(*said(capsys, 'score', tmp_path/'pred', root/'truth/valid'), 'mask_2.h5')
    status, out, err = said(capsys, 'score', tmp_path/'pred', root/'truth/valid', json=True, skip_bad=True)
    assert (status, json.loads(out)['patches']) == (0, 1) and '1 bad file left out' in err


def test_a_store_goes_on_without_bad_truth(root, recipe, tmp_path, capsys):
    said(capsys, 'pack', root, tmp_path/'store')
    (root/'truth/valid/mask_1.h5').unlink()
    write_h5(root/'truth/test/mask_2.h5', mask=np.full((128, 128), 7))
    assert said(capsys, 'train', tmp_path/'store', tmp_path/'run', recipe=recipe, truth=root/'truth')[0] == 1
    assert not (tmp_path/'run').exists()
    status, out, err = said(capsys, 'train', tmp_path/'store', tmp_path/'run', recipe=recipe, truth=root/'truth', skip_bad=True)
    assert status == 0 and '2 bad files left out' in err, err


def test_nothing_is_left_out_of_sound_data(root, tmp_path, capsys):
    status, out, err = said(capsys, 'pack', root, tmp_path/'store', skip_bad=True)
    assert (status, err) == (0, '') and open_store(tmp_path/'store')['skipped'] == []


def test_when_every_patch_is_bad(root, model, recipe, tmp_path, capsys):
    for p in (root/'TrainData/img').iterdir():
        p.unlink()
        p.write_bytes(b'')
    for command, *args in (('pack', root, tmp_path/'o'), ('train', root, tmp_path/'o', recipe), ('predict', model, root, tmp_path/'o', 'train')):
        status, out, err = said(capsys, command, *args, skip_bad=True)
        assert status == 1 and '4 bad files left out' in err and 'no patch of split' in err.splitlines()[-1]
    assert not (tmp_path/'o').exists()


# Many at once

def test_check_lists_every_fault(root, capsys):
    break_it(root, 'NaN')
    for n, p in enumerate(sorted((root/'ValidData/img').iterdir()) + sorted((root/'TestData/img').iterdir())):
        p.unlink()
        p.write_bytes(b'\x89HDF\r\n\x1a\n'[:n*2])
    (root/'TrainData/mask/mask_1.h5').unlink()
    status, out, err = said(capsys, 'check', root)
    assert status == 1 and len(out.splitlines()) == 7 and out.splitlines()[-1].startswith('6 faults (train: 4 images, 3 masks')
    assert [o.split()[0] for o in out.splitlines()[:-1]] == ['TrainData/img/image_1.h5', 'TrainData/img/image_3.h5', 'ValidData/img/image_1.h5',
                                                             'ValidData/img/image_2.h5', 'TestData/img/image_1.h5', 'TestData/img/image_2.h5']


def test_check_of_sound_data(world, capsys):
    assert said(capsys, 'check', world) == (0, 'no faults (train: 4 images, 4 masks, valid: 2 images, 0 masks, test: 2 images, 0 masks)\n', '')


# Folders

def both_layouts(root): (root/'images/train').mkdir(parents=True)
def no_images(root): [o.unlink() for o in (root/'TrainData/img').iterdir()]


def emptied(root):
    shutil.rmtree(root)
    root.mkdir()


def a_file(root):
    shutil.rmtree(root)
    root.write_text('data')


def mixed_numbers(root):
    for o in (root/'TrainData/mask').iterdir(): o.rename(o.with_name(o.name.replace('mask_', 'mask_10')))


FOLDERS = {'missing': (shutil.rmtree, 'no such folder'), 'empty': (emptied, 'holds no image_N.h5'), 'a file': (a_file, 'not a folder'),
           'both layouts': (both_layouts, 'both'), 'no images': (no_images, 'no image'), 'other numbers': (mixed_numbers, 'has no mask')}


@pytest.mark.parametrize('name', FOLDERS)
def test_bad_folder(name, root, model, recipe, tmp_path, capsys):
    how, word = FOLDERS[name]
    how(root)
    assert said(capsys, 'check', root)[0] == 1
    for skip in (False, True):
        for command, *args in (('pack', root, tmp_path/'o'), ('train', root, tmp_path/'o', recipe), ('predict', model, root, tmp_path/'o', 'train')):
            status, out, err = said(capsys, command, *args, skip_bad=skip)
            if skip: assert status == 1 and 'Traceback' not in err
            else: one_line(status, out, err, str(root), word)
    assert not (tmp_path/'o').exists()


@pytest.mark.parametrize('name', ['missing', 'empty', 'a file'])
def test_bad_folder_of_masks(name, world, tmp_path, capsys):
    root = shutil.copytree(world/'truth/valid', tmp_path/'masks')
    how, _ = FOLDERS[name]
    how(root)
    for args in ((root, world/'truth/valid'), (world/'truth/valid', root)): one_line(*said(capsys, 'score', *args), 'masks')


def test_a_folder_of_truth_that_holds_none(world, recipe, tmp_path, capsys):
    for truth, word in ((tmp_path/'none', 'no such folder'), (recipe, 'not a folder'), (world/'truth/valid', 'neither')):
        one_line(*said(capsys, 'train', world, tmp_path/'o', recipe=recipe, truth=truth), str(truth), word)
    assert not (tmp_path/'o').exists()


def test_masks_of_other_sizes(tmp_path, capsys):
    write_mask(tmp_path/'a/mask_1.h5', np.zeros((4, 4)))
    write_mask(tmp_path/'b/mask_1.h5', np.zeros((4, 5)))
    one_line(*said(capsys, 'score', tmp_path/'a', tmp_path/'b'), 'mask_1.h5', '4 x 4', '4 x 5')


def test_an_output_folder_that_is_a_file(world, model, recipe, tmp_path, capsys):
    (tmp_path/'o').write_text('mine')
    for command, *args in (('pack', world, tmp_path/'o'), ('train', world, tmp_path/'o', recipe), ('predict', model, world, tmp_path/'o'),
                           ('synth', tmp_path/'o'), ('demo', tmp_path/'o')):
        one_line(*said(capsys, command, *args), str(tmp_path/'o'))
    assert (tmp_path/'o').read_text() == 'mine'


@pytest.mark.parametrize('layout', ['huggingface', 'bare'])
def test_other_layouts(layout, world, model, tmp_path, capsys):
    img = tmp_path/'data'/('images/validation' if layout == 'huggingface' else '')
    shutil.copytree(world/'ValidData/img', img)
    assert said(capsys, 'check', tmp_path/'data')[0] == 0
    (img/'image_2.h5').write_bytes(b'')
    status, out, err = said(capsys, 'check', tmp_path/'data')
    assert status == 1 and 'image_2.h5' in out.splitlines()[0]
    one_line(*said(capsys, 'predict', model, tmp_path/'data', tmp_path/'o'), 'image_2.h5')
    assert not (tmp_path/'o').exists()
    assert said(capsys, 'predict', model, tmp_path/'data', tmp_path/'o', skip_bad=True)[0] == 0
    assert [o.name for o in (tmp_path/'o').iterdir()] == ['mask_1.h5']


# Stores

STORE_FAULTS = {'not JSON': lambda o: (o/'index.json').write_text('{'),
                'deep JSON': lambda o: (o/'index.json').write_text('['*10**5),
                'another index': lambda o: (o/'index.json').write_text('{"format": "x"}'),
                'no array': lambda o: (o/'train-x.npy').unlink(),
                'array cut short': lambda o: os.truncate(o/'train-x.npy', 10**6),
                'header cut short': lambda o: os.truncate(o/'train-x.npy', 50),
                'no bytes': lambda o: os.truncate(o/'train-x.npy', 0),
                'another array': lambda o: np.save(o/'train-x.npy', np.zeros((4, 14, 128, 128), 'i4')),
                'another byte order': lambda o: np.save(o/'train-x.npy', np.zeros((4, 14, 128, 128), '>f4')),
                'long floats': lambda o: np.save(o/'train-x.npy', np.zeros((4, 14, 128, 128), np.longdouble)),
                'other numbers': lambda o: np.save(o/'train-y.npy', np.zeros((3, 128, 128), 'u1'))}


@pytest.mark.parametrize('name', STORE_FAULTS)
def test_bad_store(name, world, model, recipe, tmp_path, capsys):
    said(capsys, 'pack', world, tmp_path/'store')
    STORE_FAULTS[name](tmp_path/'store')
    assert said(capsys, 'check', tmp_path/'store')[0] == 1
    one_line(*said(capsys, 'train', tmp_path/'store', tmp_path/'o', recipe=recipe), 'store')
    one_line(*said(capsys, 'predict', model, tmp_path/'store', tmp_path/'o', split='train'), 'store')
    assert not (tmp_path/'o').exists()


# Names and permissions

@pytest.mark.parametrize('name', ['a folder with spaces', 'Rutschungen in Österreich – 山崩れ', "quote's & $dollar; 'x'", '-dash', '*?[a]'])
def test_odd_names(name, world, model, tmp_path, capsys):
    home = tmp_path/name/name
    shutil.copytree(world, home/'data')
    assert said(capsys, 'check', home/'data')[0] == 0
    assert said(capsys, 'pack', home/'data', home/'store')[0] == 0
    assert said(capsys, 'predict', model, home/'store', home/'pred', zip=True)[0] == 0
    assert said(capsys, 'score', home/'pred', home/'data/truth/valid')[0] == 0
    (home/'data/TrainData/img/image_2.h5').write_bytes(b'')
    one_line(*said(capsys, 'pack', home/'data', home/'again'), name, 'image_2.h5')


@pytest.mark.parametrize('name', ['x'*300, 'x\ny', 'x\0y'], ids=['long', 'of two lines', 'with a zero'])
def test_names_that_cannot_be(name, model, recipe, tmp_path, capsys):
    o, out = tmp_path/name, tmp_path/'out'
    commands = (('check', o), ('pack', o, out), ('train', o, out, recipe), ('predict', model, o, out), ('predict', o, tmp_path, out), ('score', o, o))
    for command, *args in commands:
        one_line(*said(capsys, command, *args), 'x')
    assert not out.exists()


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1'])
def test_a_terminal_that_cannot_show_the_name(encoding, world, tmp_path):
    root = shutil.copytree(world, tmp_path/'山崩れ')
    os.rename(root/'ValidData/img/image_1.h5', os.fsencode(root/'ValidData/img')+b'/image_1.h5')
    (root/'ValidData/img/image_1.h5').write_bytes(b'')
    env = {**os.environ, 'PYTHONIOENCODING': encoding}
    for command, *args in (('check', root), ('synth', tmp_path/'山', '--train', '1', '--valid', '1', '--test', '1')):
        res = subprocess.run([BIN/f'landslide-{command}', *args], capture_output=True, text=True, encoding=encoding, env=env)
        assert res.returncode == (command == 'check') and 'Traceback' not in res.stderr, res.stderr


@contextlib.contextmanager
def nobody():
    "Without the rights of root, who may read everything"
    if os.geteuid(): yield
    else:
        os.seteuid(65534)
        try: yield
        finally: os.seteuid(0)


@pytest.fixture
def shared(world):
    "A copy of the world that everybody may read"
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = Path(shutil.copytree(world, Path(folder)/'world'))
        for o in (root, *root.rglob('*')): o.chmod(0o755)
        yield root
        for o in (root, *root.rglob('*')): o.chmod(0o755)


@pytest.mark.parametrize('what', ['TrainData/img/image_2.h5', 'TrainData/mask/mask_2.h5', 'TrainData/img', 'TrainData/mask', 'TrainData', ''])
def test_unreadable(what, shared, tmp_path, capsys):
    (shared/what).chmod(0)
    shared.parent.chmod(0o777)
    with nobody():
        try: (shared/what).open().close() if (shared/what).is_file() else list((shared/what).iterdir())
        except PermissionError: pass
        else: pytest.skip('permissions do not bind this user')
        assert check_status(said(capsys, 'check', shared))
        for skip in (False, True):
            status, out, err = said(capsys, 'pack', shared, shared.parent/'store', skip_bad=skip)
            if skip and what.endswith('.h5'): assert status == 0 and '1 bad file left out' in err and 'ermission denied' in err
            else: one_line(status, out, err, Path(what).name or 'world', 'ermission denied')
    assert (shared.parent/'store/index.json').exists() == what.endswith('.h5')


def check_status(res):
    status, out, err = res
    return status == 1 and 'ermission denied' in out + err and 'Traceback' not in err


def test_a_folder_where_nothing_may_be_written(shared, world, model, recipe, tmp_path, capsys):
    shared.parent.chmod(0o555)
    for o in (recipe, *model.iterdir()): shutil.copy(o, shared/o.name)
    with nobody():
        for command, *args in (('pack', shared, shared.parent/'o'), ('synth', shared.parent/'o'), ('predict', shared, shared, shared.parent/'o'),
                               ('train', shared, shared.parent/'o', shared/recipe.name)):
            one_line(*said(capsys, command, *args), 'ermission denied')
    assert not (shared.parent/'o').exists()


# What is odd but no reason to stop

@pytest.mark.parametrize('kw', [dict(dtype='f4'), dict(dtype='f2'), dict(dtype='>f8'), dict(compression='gzip', shuffle=True),
                                dict(compression='lzf', fletcher32=True),
                                dict(chunks=(16, 16, 14))], ids=str)
def test_floats_of_every_kind_load(kw, root):
    x, path = patch(root), root/IMG
    path.unlink()
    with h5py.File(path, 'w') as f: f.create_dataset('img', data=x, **kw)
    got = read_patch(path)
    assert got.dtype == np.float32 and np.allclose(got, x.transpose(2, 0, 1), rtol=1e-3, atol=1e-3)
    assert check_data(root, progress=False)[0] == []


def test_masks_of_every_integer_kind_load(root):
    for dtype in ('?', 'i1', 'u2', 'i8'):
        with h5py.File(root/'m.h5', 'w') as f: f['mask'] = np.eye(128).astype(dtype)
        assert (read_mask(root/'m.h5') == np.eye(128)).all() and read_mask(root/'m.h5').dtype == np.uint8


@pytest.mark.parametrize('band, value', [(8, 0.), (8, 1.234), (13, 0.), (13, 1.234), (12, 3e4)])
def test_a_constant_band_is_named_and_can_be_learned_from(band, value, root, recipe, tmp_path, capsys):
    "In every patch, so that the whole split has no range in this band"
    from landslide_nb.data.bands import L4S
    for p in root.glob('*/img/*.h5'):
        x = read_patch(p)
        x[band] = value
        p.unlink()
        write_patch(p, x)
    status, out, err = said(capsys, 'check', root)
    assert status == 1 and len([o for o in out.splitlines() if f'constant: band {L4S[band].name}' in o]) == 8
    status, out, err = said(capsys, 'train', root, tmp_path/'run', recipe=recipe)
    assert status == 0, err
    assert load_model(tmp_path/'run/only')[0].scaling.scale[band] == 1
    assert said(capsys, 'predict', tmp_path/'run/only', root, tmp_path/'pred', prob=True, force=True)[0] == 0
    for p in (tmp_path/'pred').glob('prob_*'):
        with h5py.File(p) as f: assert np.isfinite(f['prob'][()]).all()


# As processes

def test_check_as_a_process(root):
    assert run('check', root).returncode == 0
    break_it(root, 'mask of 255')
    res = run('check', root)
    assert res.returncode == 1 and res.stderr == '' and 'mask_3.h5' in res.stdout
    refused(run('check', root/'none'), 'check', 'none', 'no such folder')
    refused(run('pack', root, root/'store'), 'pack', 'mask_3.h5')
    res = run('pack', root, root/'store', '--skip-bad')
    assert res.returncode == 0 and res.stderr.startswith('landslide-pack: 1 bad file left out: ') and 'mask_3.h5' in res.stderr
