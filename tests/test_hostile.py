"""Files made to do harm: nothing is unpickled, fetched, followed or believed; each ends in a clear refusal."""
import ast
import json
import pickle
import shutil
import socket
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from landslide_nb.core.base import InputError, PatchError
from landslide_nb.data.bands import Scaling
from landslide_nb.data.files import read_patch, write_mask
from landslide_nb.data.store import open_store, pack_data, read_split
from landslide_nb.data.synth import write_world
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.model.files import ModelError, load_model, save_model
from landslide_nb.predict.maps import submission_zip
from landslide_nb.train.recipe import Recipe, RecipeError
from landslide_nb.train.loop import CHECKPOINT, load_checkpoint, save_checkpoint
from test_bad_input import one_line, said
from test_package import MODULES, tree

SCALING = Scaling((0.,)*14, (1.,)*14)


class Bomb:
    "Unpickling it writes a file"
    def __init__(self, path): self.path = path
    def __reduce__(self): return Path.write_text, (Path(self.path), 'boom')


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp('saved'), create_segmenter('deeplabv3plus', 'test_resnet', scaling=SCALING))


@pytest.fixture
def model(saved, tmp_path, monkeypatch):
    "A saved model to be tampered with, in a process that may open no connection"
    def no(*args, **kwargs): raise AssertionError('reached for the network')
    monkeypatch.setattr(socket.socket, 'connect', no)
    monkeypatch.setattr(socket, 'getaddrinfo', no)
    return Path(shutil.copytree(saved, tmp_path/'model'))


@pytest.fixture(scope='module')
def world(tmp_path_factory): return write_world(tmp_path_factory.mktemp('data')/'world', 2, 1, 1, progress=False)


def predict_refuses(model, world, capsys, *words):
    "`landslide-predict` with this model: one line, nothing written; so does `load_model`"
    with pytest.raises(ModelError) as e: load_model(model)
    for w in words: assert w in str(e.value), e.value
    one_line(*said(capsys, 'predict', model, world, model.parent/'out'), *words)
    assert not (model.parent/'out').exists()


# Pickle

def test_the_bomb_goes_off(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path/'boom')))
    assert (tmp_path/'boom').exists()


def test_a_pickle_bomb_in_place_of_weights(model, world, capsys):
    boom, weights = model.parent/'boom', model/'model.safetensors'
    for write in (lambda: weights.write_bytes(pickle.dumps(Bomb(boom))), lambda: torch.save({'net': Bomb(boom)}, weights),
                  lambda: torch.save({'net': Bomb(boom)}, weights, _use_new_zipfile_serialization=False)):
        write()
        predict_refuses(model, world, capsys, 'model.safetensors', 'not a safetensors file')
    assert not boom.exists()


def test_a_pickle_bomb_in_place_of_a_description(model, world, capsys):
    boom = model.parent/'boom'
    (model/'model.json').write_bytes(pickle.dumps(Bomb(boom)))
    predict_refuses(model, world, capsys, 'model.json', 'not JSON')
    assert not boom.exists()


def test_a_pickle_bomb_in_place_of_patches(world, tmp_path, capsys):
    boom = tmp_path/'boom'
    pack_data(world, tmp_path/'store', progress=False)
    np.save(tmp_path/'store/train-x.npy', np.array([Bomb(boom)]*2, dtype=object), allow_pickle=True)
    with pytest.raises(PatchError, match='train-x.npy'): read_split(tmp_path/'store')
    one_line(*said(capsys, 'train', tmp_path/'store', tmp_path/'out'), 'train-x.npy')
    img = tmp_path/'img'
    img.mkdir()
    (img/'image_1.h5').write_bytes(pickle.dumps(Bomb(boom)))
    with pytest.raises(PatchError): read_split(img, progress=False)
    with h5py.File(img/'image_1.h5', 'w') as f: f['img'] = np.void(pickle.dumps(Bomb(boom)))
    with pytest.raises(PatchError, match='expected a float'): read_split(img, progress=False)
    assert not boom.exists()


def test_a_pickle_bomb_in_place_of_a_checkpoint(tmp_path):
    path, boom = tmp_path/'checkpoint.pt', tmp_path/'boom'
    save_checkpoint(path, dict(epoch=1))
    raw = path.read_bytes()
    assert load_checkpoint(path)['epoch'] == 1 and load_checkpoint(tmp_path/'none') is None
    for write in (lambda: path.write_bytes(pickle.dumps(Bomb(boom))), lambda: torch.save(dict(format=CHECKPOINT, model=Bomb(boom)), path),
                  lambda: torch.save(dict(format=CHECKPOINT, model=Bomb(boom)), path, _use_new_zipfile_serialization=False),
                  lambda: torch.save([1, 2], path), lambda: torch.save(dict(epoch=1), path), lambda: path.write_bytes(b''),
                  lambda: path.write_bytes(raw[:-30]), lambda: path.write_bytes(raw[:30])):
        write()
        with pytest.raises(InputError, match='not a checkpoint'): load_checkpoint(path)
    assert not boom.exists()


@pytest.mark.parametrize('module', MODULES)
def test_no_module_can_unpickle(module):
    "By what the code calls: checkpoints only with `weights_only=True`, arrays only with `allow_pickle=False`, no learner is exported or loaded"
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call): continue
        call, given = ast.unparse(node.func), {o.arg: ast.unparse(o.value) for o in node.keywords}
        name = call.rpartition('.')[2]
        if call in ('np.load', 'np.lib.format.open_memmap', 'np.lib.format.read_array'):
            assert given.get('allow_pickle') == 'False', f'{call} in {module}'
        if call == 'torch.load': assert given.get('weights_only') == 'True', f'{call} in {module}'
        assert name not in ('loads', 'load') or call in ('json.loads', 'tomllib.loads', 'np.load', 'torch.load'), f'{call} in {module}'
        fetches = ('load_model_from_hf', 'from_pretrained', 'load_state_dict_from_url')
        assert name not in ('load_learner', *fetches, 'eval_', '__import__'), f'{call} in {module}'
        assert call not in ('os.system', 'os.popen', 'eval', 'exec', 'compile') and not call.startswith('subprocess.'), f'{call} in {module}'
        if name == 'Popen': assert module == 'data.check' and ast.unparse(node.args[0]).startswith('[sys.executable, '), f'{call} in {module}'
        assert name not in ('extractall', 'extract', 'unpack_archive'), f'{call} in {module}'
        assert given.get('allow_pickle', 'False') == 'False' and given.get('trust_remote_code', 'False') == 'False', f'{call} in {module}'


# Weights

def header(weights, size, head): weights.write_bytes(struct.pack('<Q', size) + head)


HEADERS = {'a header of 16 exabytes': (2**64 - 1, b'{}'), 'a header of 8 gigabytes': (2**33, b'{}'), 'no header': (0, b''),
           'a header cut short': (99, b'{"a'), 'a header that is no JSON': (4, b'\xff'*4), 'a deep header': (10**5, b'['*10**5),
           'a tensor of petabytes': (93, b'{"a":{"dtype":"F32","shape":[999999999,999999999],"data_offsets":[0,3999999992000000004]}}   '),
           'a tensor before the start': (60, b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}'.ljust(60)),
           'two tensors in one place': (120, (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                                              b'"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}').ljust(120) + bytes(4))}


@pytest.mark.parametrize('name', HEADERS)
def test_headers_that_lie(name, model, world, capsys):
    header(model/'model.safetensors', *HEADERS[name])
    predict_refuses(model, world, capsys, 'model.safetensors', 'not a safetensors file')


def tampered(model, change):
    state = load_file(model/'model.safetensors')
    change(state)
    save_file(state, model/'model.safetensors')


WEIGHTS = {'lacks': lambda s: s.pop(sorted(s)[3]), 'has': lambda s: s.update({'../../x': torch.zeros(1)}),
           'expected (': lambda s: s.update({sorted(s)[3]: torch.zeros(7, 7)}),
           'expected torch.float32': lambda s: s.update({k: v.double() for k, v in s.items() if k.endswith('conv1.weight')}),
           'not finite': lambda s: s[next(k for k in sorted(s) if k.endswith('conv1.weight'))].view(-1)[3:4].fill_(torch.nan)}


@pytest.mark.parametrize('word', WEIGHTS)
def test_weights_of_another_model(word, model, world, capsys):
    tampered(model, WEIGHTS[word])
    predict_refuses(model, world, capsys, 'model.safetensors', word)


def test_weights_cut_short_missing_or_no_file(model, world, capsys):
    weights = model/'model.safetensors'
    raw = weights.read_bytes()
    for n in (0, 7, 8, 1000, len(raw) - 1):
        weights.write_bytes(raw[:n])
        predict_refuses(model, world, capsys, 'model.safetensors')
    weights.unlink()
    predict_refuses(model, world, capsys, 'model.safetensors', 'no such file')
    weights.mkdir()
    predict_refuses(model, world, capsys, 'model.safetensors', 'a folder')


# Descriptions

CONFIGS = {'arch': ['resnet', 'unet/../x', '', 'dpt', 7, None, ['unet']],
           'backbone': ['resnet5000', '../../x', 'hf-hub:timm/resnet18.a1_in1k', 'hf_hub:timm/resnet18', 'local-dir:.', 'local-dir:/', 'tu-resnet18',
                        'tu-hf-hub:timm/resnet18', 'resnet18@x', 'RESNET18\n', '', 7, None, {}, 'eva_giant_patch14_224'],
           'classes': [0, 10**12, 2.5, True, [], 1],
           'zoom': [0, -1., 17, 1e9, 1e308, float('nan'), float('inf'), '1', None, True],
           'drop': [1, -.1, 1e308, float('nan'), '.3', None, True]}


@pytest.mark.parametrize('key, value', [(k, v) for k, vs in CONFIGS.items() for v in vs], ids=lambda o: str(o)[:20])
def test_configs_that_cannot_be(key, value, model, world, capsys):
    meta = json.loads((model/'model.json').read_text())
    meta['config'][key] = value
    (model/'model.json').write_text(json.dumps(meta))
    predict_refuses(model, world, capsys, str(model))


def test_what_a_description_must_not_hold(model, world, capsys):
    path = model/'model.json'
    good = path.read_text()
    meta = lambda **kw: json.dumps({**json.loads(good), **kw})
    config = json.loads(good)['config']
    for text in ('', '[]', 'null', '{}', '['*10**5, '{"a":'*10**5, '1'*10**5, '{"format": ' + '9'*5000 + '}', good[:-20], good + good, '\0'*99,
                 meta(format=1), meta(format=None), meta(bands=[]), meta(bands=None), meta(config=None), meta(config=[]), meta(config={}),
                 meta(config={**config, 'pretrained': True}), meta(config={**config, 'checkpoint_path': '/etc/passwd'}), ' '*2**25 + good):
        path.write_text(text)
        predict_refuses(model, world, capsys, 'model.json')
    path.write_bytes(b'\xff\xfe' + good.encode('utf-16-le'))
    predict_refuses(model, world, capsys, 'model.json')
    path.unlink()
    path.symlink_to('/dev/zero')
    predict_refuses(model, world, capsys, 'model.json', 'not a regular file')


SCALINGS = {'NaN': dict(shift=[float('nan')]*14, scale=[1]*14), 'infinity': dict(shift=[0]*14, scale=[float('inf')]*14),
            'zero': dict(shift=[0]*14, scale=[0]*14), 'negative': dict(shift=[0]*14, scale=[1]*13 + [-1]),
            'zero in float32': dict(shift=[0]*14, scale=[1e-60]*14), 'infinite in float32': dict(shift=[1e60]*14, scale=[1]*14),
            '13 values': dict(shift=[0]*13, scale=[1]*13), 'no scale': dict(shift=[0]*14),
            'words': dict(shift=['a']*14, scale=[1]*14), 'lists': dict(shift=[[0]]*14, scale=[1]*14), 'a list': [1, 2], 'a word': 'x', 'a number': 5,
            'beyond floats': dict(shift=[10**400]*14, scale=[1]*14), 'none': None}


@pytest.mark.parametrize('name', SCALINGS)
def test_scalings_that_would_give_nonsense(name, model, world, capsys):
    "In a description of format 2, which held them"
    meta, weights = json.loads((model/'model.json').read_text()), load_file(model/'model.safetensors')
    (model/'model.json').write_text(json.dumps({**meta, 'format': 2, 'scaling': SCALINGS[name], 'bands': [b[0] for b in meta['bands']],
                                                      'config': {**meta['config'], 'in_channels': 14}}))
    save_file({k: v for k, v in weights.items() if k not in ('shift', 'scale')}, model/'model.safetensors')
    if name == 'none': one_line(*said(capsys, 'predict', model, world, model.parent/'out'), 'without its scaling')
    else: predict_refuses(model, world, capsys, 'model.json', 'scaling')


@pytest.mark.parametrize('key, value', [('shift', float('nan')), ('scale', float('inf')), ('scale', 0.), ('scale', -1.)])
def test_weights_that_would_scale_to_nonsense(key, value, model, world, capsys):
    weights = load_file(model/'model.safetensors')
    weights[key][3] = value
    save_file(weights, model/'model.safetensors')
    predict_refuses(model, world, capsys, 'model.safetensors', key)


def test_a_large_backbone_takes_no_memory_before_it_is_refused(model, world, capsys, monkeypatch):
    "Gigabytes of weights by the description, a few megabytes in the file"
    made = []
    def make(*args, **kwargs):
        made.append(create_segmenter(*args, **kwargs))
        return made[-1]
    monkeypatch.setattr('landslide_nb.model.files.create_segmenter', make)
    meta = json.loads((model/'model.json').read_text())
    meta['config'].update(arch='unet', backbone='regnety_2560')
    (model/'model.json').write_text(json.dumps(meta))
    predict_refuses(model, world, capsys, 'model.safetensors', 'which the model has not')
    weights = list(made[0].parameters())
    assert sum(o.numel() for o in weights) > 10**9 and all(o.is_meta for m in made for o in m.parameters())


def test_a_sound_model_loads_without_network(model):
    net, info = load_model(model)
    assert net.scaling == SCALING and net(torch.zeros(1, 14, 32, 32)).shape == (1, 2, 32, 32)


# Recipes

@pytest.mark.parametrize('name', ['..', '.', '../x', '/tmp/x', 'a/b', '.hidden', ''])
def test_stage_names_stay_inside_the_run(name):
    with pytest.raises(RecipeError): Recipe.from_dict(dict(stages=[dict(name=name)]))


@pytest.mark.parametrize('backbone', ['hf-hub:timm/resnet18.a1_in1k', 'local-dir:/', '../x', 'resnet5000'])
def test_recipes_name_known_backbones(backbone, world, tmp_path, capsys):
    (tmp_path/'r.toml').write_text(f'[[stages]]\nname = "only"\nbackbone = "{backbone}"\n')
    one_line(*said(capsys, 'train', world, tmp_path/'out', recipe=tmp_path/'r.toml'), 'only', 'backbone')
    assert not (tmp_path/'out').exists()


# Data

NUMBERS = [['../../../evil', 2], ['1', '2'], [1, 1], [2, 1], [-1, 2], [1., 2.], [True, 2], [None, 2], [[1], 2], [1, 2, 3], [1],
           'huge', {'a': 1}, 'ab', None]


@pytest.mark.parametrize('ns', NUMBERS, ids=lambda o: str(o)[:20])
def test_numbers_of_a_store_are_numbers(ns, world, model, tmp_path, capsys):
    "They become file names, so `..` there would write outside of the output folder"
    store = tmp_path/'deep/er/store'
    pack_data(world, store, progress=False)
    index = json.loads((store/'index.json').read_text())
    index['splits']['train']['ns'] = ns
    (store/'index.json').write_text(json.dumps(index).replace('"huge"', f'[1, {"9"*5000}]'))
    before = sorted(tmp_path.rglob('*'))
    one_line(*said(capsys, 'predict', model, store, tmp_path/'deep/er/out', split='train'), str(store))
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('split', ['../../x', '..', '/etc', 'train/../..', 'TRAIN', ''])
def test_splits_of_a_store_have_known_names(split, world, tmp_path):
    pack_data(world, tmp_path/'store', progress=False)
    index = json.loads((tmp_path/'store/index.json').read_text())
    index['splits'][split] = index['splits'].pop('valid')
    (tmp_path/'store/index.json').write_text(json.dumps(index))
    with pytest.raises(PatchError, match='damaged'): open_store(tmp_path/'store')


def test_a_patch_cannot_hand_out_another_file(tmp_path):
    "External storage and links read what lies elsewhere; without the check the secret comes back as numbers"
    secret = tmp_path/'secret'
    secret.write_bytes(np.full(128*128*14, .5).tobytes())
    with h5py.File(tmp_path/'other.h5', 'w') as f: f['img'] = np.ones((128, 128, 14))
    path = tmp_path/'image_1.h5'
    with h5py.File(path, 'w') as f: f.create_dataset('img', (128, 128, 14), 'f8', external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
    with h5py.File(path) as f: assert f['img'][5, 5, 5] == .5
    with pytest.raises(PatchError, match='other files'): read_patch(path)
    for link in (h5py.ExternalLink('other.h5', 'img'), h5py.SoftLink('/other')):
        with h5py.File(path, 'w') as f: f['other'], f['img'] = h5py.ExternalLink('other.h5', 'img'), link
        with h5py.File(path) as f: assert f['img'][5, 5, 5] == 1
        with pytest.raises(PatchError, match='not followed'): read_patch(path)


# What is written

def test_a_submission_holds_plain_names(tmp_path):
    out = tmp_path/'a folder/in a folder'
    for n in (10, 2): write_mask(out/f'mask_{n}.h5', np.eye(128))
    (out/'mask_3.txt').write_text('no mask')
    (out/'.mask_4.h5').write_text('no mask')
    submission_zip(out)
    with zipfile.ZipFile(out/'submission.zip') as z:
        assert z.namelist() == ['mask_2.h5', 'mask_10.h5'] and z.testzip() is None
        for o in z.infolist(): assert not o.is_dir() and o.filename == Path(o.filename).name and not o.comment and not o.extra
