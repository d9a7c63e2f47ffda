"""The CRF where pydensecrf cannot be had: everything goes on in torch."""
import subprocess
import sys

import numpy as np
import pytest

from landslide_nb.predict import crf
from landslide_nb.data.synth import LABELLED, synth_patch
from landslide_nb.predict.crf import crf_backend, crf_mask, crf_split, search_crf

ABSENT = '''
import sys
import numpy as np
sys.modules['pydensecrf'] = None
from landslide_nb.predict.crf import crf_backend, crf_mask, crf_pool, crf_split, guided_crf
data = np.load(sys.argv[1])
with crf_pool(2) as pool: assert pool is None
try: guided_crf(data['probs'][0], np.zeros((128, 128, 3)), backend='pydensecrf')
except ImportError as e: assert "backend='torch'" in str(e), e
else: raise AssertionError('pydensecrf was found')
split = crf_split(data['probs'], data['xs'], progress=False)
np.savez(sys.argv[2], mask=crf_mask(data['probs'][0], data['xs'][0]), split=split)
print(crf_backend())
'''


@pytest.fixture(scope='module')
def patches():
    xs, masks = map(np.stack, zip(*(synth_patch(LABELLED, seed=i) for i in range(3))))
    noise = np.random.default_rng(0).normal(size=masks.shape)
    return xs, masks, (1 / (1 + np.exp(3 - 6.*masks - 1.5*noise))).astype(np.float32)


def test_without_pydensecrf_the_masks_are_the_same(patches, tmp_path):
    xs, masks, probs = patches
    np.savez(tmp_path/'in.npz', xs=xs, probs=probs)
    res = subprocess.run([sys.executable, '-c', ABSENT, tmp_path/'in.npz', tmp_path/'out.npz'], capture_output=True, encoding='utf-8')
    assert res.returncode == 0, res.stderr
    assert res.stdout.split() == ['torch']
    out = np.load(tmp_path/'out.npz')
    theirs = crf_split(probs, xs, progress=False, backend='pydensecrf') > .5
    # doing nothing would not do, nor calling everything background
    assert (theirs != (probs > .5)).mean() > .01 and (theirs & (masks == 1)).sum() > masks.sum() / 2
    assert ((out['split'] > .5) == theirs).mean() >= .995
    assert out['mask'].dtype == np.uint8 and (out['mask'] == (out['split'][0] > .5)).mean() > .9999


@pytest.mark.parametrize('backend, other', [('torch', '_lattice_crf'), ('pydensecrf', 'meanfield_crf')])
def test_the_backend_is_passed_on(patches, monkeypatch, backend, other):
    xs, masks, probs = (o[:2, ..., :48, :48] for o in patches)
    def never(*args, **kwargs): raise AssertionError(f'{other} was called')
    monkeypatch.setattr(crf, other, never)
    one = crf_mask(probs[0], xs[0], backend=backend)
    assert ((crf_split(probs, xs, progress=False, backend=backend, device='cpu')[0] > .5) == one).mean() > .999
    _, table = search_crf(probs, xs, masks, dict(compat=(4.,)), progress=False, backend=backend, device='cpu')
    assert len(table) == 2


def test_the_backend_by_default():
    assert crf_backend('cuda') == 'torch' and crf_backend('cpu') == 'pydensecrf'
    with pytest.raises(ValueError, match="no backend 'numpy'"): crf_split(np.zeros((0, 8, 8)), np.zeros((0, 14, 8, 8)), backend='numpy')
