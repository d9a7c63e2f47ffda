"""What must hold for every input, tried on many: selection, mix-up, losses, metrics, pairing, packing, reading."""
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from landslide_nb.core.base import PatchError
from landslide_nb.data.bands import IGNORE, L4S, PATCH, Scaling, measure_scaling
from landslide_nb.data.files import numbered, patch_files, read_h5, write_mask, write_patch
from landslide_nb.data.store import Rows, Split, pack_data, read_split
from landslide_nb.data.check import check_store
from landslide_nb.data.loader import SplitDL
from landslide_nb.model.losses import JaccardCE, cross_entropy, jaccard_loss
from landslide_nb.model.metrics import LandslideF1, calibration, confusion, count_pixels, risk_coverage, binary_scores
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.predict.maps import predict_split, score_masks
from landslide_nb.selftrain.selection import UncertaintyHistogram, select_class_balanced, select_streaming, uncertainty_bin
from landslide_nb.selftrain.callback import mixed_loss, mixup

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 6))
SHARES = st.tuples(*[st.one_of(st.sampled_from([0., 1., .9, .7, .5]), st.floats(0, 1))]*2)
SEEDS = st.integers(0, 2**32 - 1)
few = settings(max_examples=12)


def rng_of(seed): return np.random.default_rng(seed)


def close(a, b, eps=1e-5): assert abs(float(a) - float(b)) <= eps * max(1, abs(float(a)), abs(float(b))), (float(a), float(b))


@st.composite
def teachers(draw):
    "Predicted classes and uncertainties: all different, or full of ties"
    shape, rng = draw(SHAPES), rng_of(draw(SEEDS))
    pred = (rng.random(shape) < draw(st.sampled_from([0., .1, .5, 1.]))).astype(np.uint8)
    n = pred.size
    unc = rng.permutation(n) + 1. if draw(st.booleans()) else rng.integers(0, 4, n)
    return pred, (unc.reshape(shape) * draw(st.sampled_from([1e-12, 1e-3, 1., 1e9]))).astype(np.float32)


# Selection

@pytest.mark.parametrize('select', [select_class_balanced, select_streaming])
@given(teachers(), SHARES)
def test_selection_keeps_the_surest_share_of_each_class(select, teacher, keep):
    pred, unc = teacher
    labels, thresholds = select(pred, unc, keep)
    assert labels.shape == pred.shape and labels.dtype == np.uint8
    for c, share in enumerate(keep):
        mine, kept = pred == c, labels == c
        assert kept.sum() == round(share * int(mine.sum())) and not (kept & ~mine).any()
        if kept.any(): assert thresholds[c] == unc[kept].max()
        else: assert (thresholds[c] == -math.inf) if mine.any() else math.isnan(thresholds[c])
        left = mine & ~kept
        if kept.any() and left.any():
            if select is select_class_balanced: assert unc[kept].max() <= unc[left].min()
            else: assert uncertainty_bin(unc[kept]).max() <= uncertainty_bin(unc[left]).min()
    assert set(np.unique(labels)) <= {0, 1, IGNORE}


@pytest.mark.parametrize('select', [select_class_balanced, select_streaming])
@given(teachers(), SHARES, SEEDS)
def test_the_order_of_patches_does_not_matter(select, teacher, keep, seed):
    "Where no two pixels are equally sure: ties go by position"
    pred, unc = teacher
    assume(len(np.unique(uncertainty_bin(unc))) == unc.size)
    perm = rng_of(seed).permutation(len(pred))
    (a, ta), (b, tb) = select(pred, unc, keep), select(pred[perm], unc[perm], keep)
    assert (a[perm] == b).all() and np.array_equal(ta, tb, equal_nan=True)


@given(teachers(), SHARES, SEEDS)
def test_ties_move_pixels_but_not_counts(teacher, keep, seed):
    pred, unc = teacher
    perm = rng_of(seed).permutation(len(pred))
    (a, ta), (b, tb) = select_class_balanced(pred, unc, keep), select_class_balanced(pred[perm], unc[perm], keep)
    assert np.array_equal(ta, tb, equal_nan=True)
    for c in (0, 1): assert np.array_equal(np.sort(unc[a == c]), np.sort(unc[perm][b == c]))


@given(teachers(), SHARES)
def test_streaming_is_exact_but_for_one_bin(teacher, keep):
    "And wholly where no two different uncertainties share a bin"
    pred, unc = teacher
    exact, stream = select_class_balanced(pred, unc, keep)[0], select_streaming(pred, unc, keep)[0]
    differ = exact != stream
    for c in (0, 1): assert len(np.unique(uncertainty_bin(unc[differ & (pred == c)]))) <= 1
    if len(np.unique(uncertainty_bin(unc))) == len(np.unique(unc)): assert not differ.any()


@given(st.floats(2.**-99, 2.**99, width=32), st.floats(0, 2.**99, width=32))
def test_bins_are_narrow_and_in_order(a, b):
    u, v = uncertainty_bin(np.array([a, b], np.float32))
    assert u <= v if a <= b else u >= v
    assert uncertainty_bin(np.float32(a)) < uncertainty_bin(np.float32(a * 1.00025))


@given(teachers(), SHARES, st.integers(1, 9), st.integers(1, 9))
def test_streaming_does_not_depend_on_the_step(teacher, keep, a, b):
    pred, unc = teacher
    (la, ta), (lb, tb) = select_streaming(pred, unc, keep, a), select_streaming(pred, unc, keep, b)
    assert (la == lb).all() and np.array_equal(ta, tb, equal_nan=True)


@given(teachers(), st.integers(0, 7))
@settings(max_examples=25)
def test_histograms_add(teacher, at):
    pred, unc = teacher
    whole = UncertaintyHistogram().add(pred, unc)
    parts = UncertaintyHistogram().add(pred[:at], unc[:at]) + UncertaintyHistogram().add(pred[at:], unc[at:])
    assert (whole.counts == parts.counts).all() and whole.counts.sum() == pred.size


@given(teachers(), SHARES, SHARES)
def test_keeping_more_keeps_what_was_kept(teacher, a, b):
    pred, unc = teacher
    less, more = tuple(map(min, a, b)), tuple(map(max, a, b))
    kept, wider = (select_class_balanced(pred, unc, o)[0] != IGNORE for o in (less, more))
    assert (wider | ~kept).all()


# Mix-up

@st.composite
def batches(draw, ignored=True):
    "Logits, masks, a permutation, and the generator they came from"
    n, side, rng = draw(st.integers(1, 5)), draw(st.integers(1, 6)), rng_of(draw(SEEDS))
    logits = torch.from_numpy(rng.normal(0, draw(st.sampled_from([.1, 1., 10.])), (n, 2, side, side)))
    y = rng.choice([0, 1, IGNORE] if ignored else [0, 1], (n, side, side), p=[.5, .3, .2] if ignored else [.6, .4])
    return logits.float(), torch.from_numpy(y), torch.from_numpy(rng.permutation(n)), rng


LAMS = st.integers(0, 64).map(lambda o: o / 64) # sums of these with 1 are exact


@given(batches(), LAMS)
def test_mixup_is_symmetric(batch, lam):
    x, _, perm, _ = batch
    inv = perm.argsort()
    assert torch.equal(mixup(x, 1., perm), x) and torch.equal(mixup(x, 0., perm), x[perm])
    assert torch.allclose(mixup(x, lam, perm)[inv], mixup(x, 1 - lam, inv), atol=1e-5)
    assert torch.allclose(mixup(x, lam, torch.arange(len(x))), x, atol=1e-5)
    assert torch.allclose(mixup(x, lam, perm).mean(0), x.mean(0), atol=1e-4), 'a batch keeps its mean'
    lo, hi = torch.minimum(x, x[perm]), torch.maximum(x, x[perm])
    assert ((mixup(x, lam, perm) >= lo - 1e-4) & (mixup(x, lam, perm) <= hi + 1e-4)).all()


@given(batches(), LAMS)
def test_mixed_loss_is_linear_and_symmetric(batch, lam):
    z, y, perm, _ = batch
    loss, inv = JaccardCE(), perm.argsort()
    got = mixed_loss(loss, z, y, y[perm], lam)
    close(got, lam * loss(z, y) + (1 - lam) * loss(z, y[perm]))
    close(got, mixed_loss(loss, z, y[perm], y, 1 - lam))
    close(got, mixed_loss(loss, z[inv], y, y[inv], 1 - lam))
    close(mixed_loss(loss, z, y, y[perm], 1), loss(z, y), 0)
    close(mixed_loss(loss, z, y, y, lam), loss(z, y))


# Losses

LOSSES = {'cross entropy': cross_entropy, 'Jaccard': jaccard_loss, 'sum': JaccardCE(), 'landslide alone': JaccardCE(classes=[1]),
          'weighted': JaccardCE(weight=[1., 5.])}
each_loss = pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES.keys())


@each_loss
@given(batches(), SEEDS)
def test_ignored_pixels_have_no_influence(loss, batch, seed):
    z, y, _, _ = batch
    other = torch.from_numpy(rng_of(seed).normal(0, 50, z.shape)).float()
    out = (y == IGNORE)[:, None]
    close(loss(z, y), loss(torch.where(out, other, z), y))
    z.requires_grad_()
    grad, = torch.autograd.grad(loss(z, y), z)
    assert grad.isfinite().all() and (grad.masked_select(out.expand_as(grad)) == 0).all()


@each_loss
@given(batches(), st.integers(-50, 50))
def test_losses_do_not_depend_on_order_or_on_a_shift(loss, batch, shift):
    z, y, perm, rng = batch
    close(loss(z[perm], y[perm]), loss(z, y))
    pixels = torch.from_numpy(rng.permutation(y[0].numel()))
    close(loss(z.flatten(2)[..., pixels].reshape(z.shape), y.flatten(1)[:, pixels].reshape(y.shape)), loss(z, y))
    close(loss(z + shift, y), loss(z, y), 1e-4)
    assert loss(z, y) >= 0 and (y != IGNORE).any() or loss(z, y) == 0


@each_loss
@given(batches())
def test_a_patch_that_is_ignored_might_not_be_there(loss, batch):
    z, y, _, _ = batch
    gone = torch.full_like(y[:1], IGNORE)
    close(loss(torch.cat([z, 9*z[:1]]), torch.cat([y, gone])), loss(z, y))
    assert float(loss(z[:1], gone)) == 0


@given(batches(), st.data())
def test_cross_entropy_of_a_batch_is_the_mean_by_counted_pixels(batch, data):
    z, y, _, _ = batch
    at = data.draw(st.integers(0, len(y)))
    n, m = (int((o != IGNORE).sum()) for o in (y[:at], y[at:]))
    part = lambda s: cross_entropy(z[s], y[s]) if len(y[s]) else 0.
    close(cross_entropy(z, y) * (n + m), part(slice(at)) * n + part(slice(at, None)) * m, 1e-4)


@given(batches(), st.integers(1, 4))
def test_jaccard_of_a_batch_is_a_quotient_of_sums(batch, k):
    "Not a mean over its patches: a batch repeated k times has the same loss if the smoothing grows with it"
    z, y, _, _ = batch
    close(jaccard_loss(z.repeat(k, 1, 1, 1), y.repeat(k, 1, 1), eps=float(k)), jaccard_loss(z, y, eps=1.))
    close(cross_entropy(z.repeat(k, 1, 1, 1), y.repeat(k, 1, 1)), cross_entropy(z, y))


@given(batches())
def test_a_loss_for_each_patch_does_not_depend_on_the_batch(batch):
    z, y, _, _ = batch
    whole = JaccardCE(reduction='none')(z, y)
    for i in range(len(y)): close(whole[i], JaccardCE()(z[i:i + 1], y[i:i + 1]))


@given(batches(ignored=False))
def test_losses_do_not_prefer_a_class(batch):
    z, y, _, _ = batch
    close(JaccardCE()(z.flip(1), 1 - y), JaccardCE()(z, y))


# Metrics

@given(batches(), st.data())
def test_counts_add_over_any_division(batch, data):
    z, y, perm, _ = batch
    pred = z.argmax(1)
    at = data.draw(st.integers(0, len(y)))
    whole = count_pixels(pred, y)
    assert torch.equal(whole, count_pixels(pred[:at], y[:at]) + count_pixels(pred[at:], y[at:]))
    assert torch.equal(whole, count_pixels(pred[perm], y[perm])) and whole.sum() == (y != IGNORE).sum() and (whole >= 0).all()
    assert confusion(pred.numpy().astype('u1'), y.numpy().astype('u1')) == tuple(whole.tolist())
    tp, fp, fn, tn = confusion(pred, y.where(y != IGNORE, 0))
    assert confusion(y.where(y != IGNORE, 0), pred) == (tp, fn, fp, tn)
    metric = LandslideF1()
    metric.reset()
    for s in (slice(at), slice(at, None)):
        if len(y[s]): metric.accumulate(SimpleNamespace(pred=z[s], y=y[s]))
    assert metric.value == binary_scores(*whole.tolist())['f1']
    assert score_masks(pred.numpy(), y.numpy()) == binary_scores(*whole.tolist())


COUNTS = st.integers(0, 10**12)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
@example(0, 0, 0, 5)
def test_scores_agree_with_each_other(tp, fp, fn, tn):
    s = binary_scores(tp, fp, fn, tn)
    p, r, f, j = (s[k] for k in ('precision', 'recall', 'f1', 'iou'))
    assert all(0 <= o <= 1 for o in s.values())
    assert min(p, r) - 1e-12 <= f <= max(p, r) + 1e-12
    close(j, f / (2 - f), 1e-12)
    if p + r: close(f, 2*p*r / (p + r), 1e-12)
    assert binary_scores(tp, fn, fp) == dict(precision=r, recall=p, f1=f, iou=j)
    assert binary_scores(tp + 1, fp, fn)['f1'] >= f and binary_scores(tp, fp + 1, fn)['f1'] <= f


@given(SHAPES, SEEDS, st.integers(1, 20))
def test_risk_and_calibration_do_not_depend_on_order(shape, seed, points):
    rng = rng_of(seed)
    unc, error, prob = rng.integers(0, 5, shape) / 4, rng.random(shape) < .3, rng.integers(0, 33, shape) / 32
    truth, perm = rng.choice([0, 1, IGNORE], shape), rng.permutation(math.prod(shape))
    coverage, risk = risk_coverage(unc, error, points)
    assert np.allclose(risk, risk_coverage(unc.reshape(-1)[perm], error.reshape(-1)[perm], points)[1])
    close(risk[-1], error.mean(), 1e-12)
    assert ((risk >= -1e-12) & (risk <= 1 + 1e-12)).all() and coverage[-1] == 1
    assume((truth != IGNORE).any())
    table, ece = calibration(prob, truth)
    close(ece, calibration(prob.reshape(-1)[perm], truth.reshape(-1)[perm])[1], 1e-12)
    assert table['pixels'].sum() == (truth != IGNORE).sum() and 0 <= ece <= 1


# Pairing

NAMES = st.dictionaries(st.integers(0, 10**6), st.integers(0, 9), max_size=12) # number -> zeros in front


def touch(folder, stem, names):
    folder.mkdir(parents=True, exist_ok=True)
    for n, zeros in names.items(): (folder/f'{stem}_{"0"*zeros}{n}.h5').touch()


@given(NAMES, NAMES, st.sets(st.sampled_from(['image_.h5', 'image_x.h5', 'image_1.hdf5', 'Image_1.h5', 'image_-1.h5',
                                              'image_1.h5.part', 'image_1_2.h5'])))
def test_images_and_masks_pair_by_number(imgs, masks, stray):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        img, mask = root/'TrainData/img', root/'TrainData/mask'
        touch(img, 'image', imgs)
        touch(mask, 'mask', masks)
        for o in stray: (img/o).touch()
        assert list(numbered(img, 'image')) == sorted(imgs)
        both, lone, bad = sorted(imgs.keys() & masks.keys()), imgs.keys() ^ masks.keys(), []
        want = both if masks else sorted(imgs)
        if want:
            files = patch_files(root, bad=bad)
            assert [f.n for f in files] == want
            for f in files: assert int(f.img.stem.split('_')[1]) == f.n and (not masks or int(f.mask.stem.split('_')[1]) == f.n)
        else:
            with pytest.raises(PatchError): patch_files(root, bad=bad)
        assert len(bad) == (len(lone) if masks and (imgs or masks) else 0)
        if want and not bad: assert [f.n for f in patch_files(root)] == want
        else:
            with pytest.raises(PatchError): patch_files(root)


@given(NAMES.filter(len), st.data())
def test_two_files_of_one_number_are_left_out(names, data):
    twice = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
    with tempfile.TemporaryDirectory() as folder:
        touch(Path(folder), 'image', names)
        touch(Path(folder), 'image', {n: names[n] + 1 for n in twice})
        bad = []
        assert list(numbered(folder, 'image', bad)) == sorted(names.keys() - twice) and len(bad) == len(twice)
        with pytest.raises(PatchError, match='same number'): numbered(folder, 'image')


# Packing and reading

@st.composite
def patches(draw):
    rng, scale = rng_of(draw(SEEDS)), draw(st.sampled_from([1e-6, 1., 1000.]))
    return abs(rng.normal(0, scale, (draw(st.integers(1, 3)), len(L4S), PATCH, PATCH))).astype(np.float32), rng


@few
@given(patches(), st.booleans(), st.booleans(), st.sampled_from([np.float32, np.float16]))
def test_a_store_is_the_folder(xs, masks, gzip, dtype):
    x, rng = xs
    ns = sorted(rng.choice(1000, len(x), replace=False).tolist())
    y = (rng.random((len(x), PATCH, PATCH)) < .2).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for n, a, m in zip(ns, x, y):
            write_patch(root/f'data/ValidData/img/image_{n}.h5', a)
            if gzip:
                with h5py.File(root/f'data/ValidData/img/image_{n}.h5', 'w') as f:
                    f.create_dataset('img', data=a.transpose(1, 2, 0), compression='gzip', shuffle=True)
            if masks: write_mask(root/f'data/ValidData/mask/mask_{n}.h5', m)
        pack_data(root/'data', root/'store', dtype, progress=False)
        a, b = (read_split(root/o, 'valid', progress=False) for o in ('data', 'store'))
        assert a.ns == b.ns == ns and check_store(root/'store', progress=False) == len(x)
        assert (a.x == x).all() and (np.asarray(b.x[:]) == x.astype(dtype)).all()
        error = np.abs(np.asarray(b.x[:]).astype(np.float64) - x)
        assert (error <= (0 if dtype is np.float32 else np.abs(x.astype(np.float64)) * 2**-11 + 2**-25)).all()
        assert (a.y is None) == (b.y is None) == (not masks)
        if masks: assert (a.y == y).all() and (b.y[:] == y).all()
        scale_a, scale_b = a.measure_scaling(), b.measure_scaling()
        if dtype is np.float32: assert scale_a == scale_b
        idxs = rng.integers(0, len(x), 5)
        for o, p in zip(a.gather(idxs), b.gather(idxs)): assert dtype is np.float16 or torch.equal(o, p)


@st.composite
def arrays(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=9))
    dtype = draw(st.sampled_from(['f2', 'f4', '>f4', 'f8', '>f8', 'u1', '>u2', 'i4', 'i8', '?']))
    return draw(hnp.arrays(dtype, shape)), draw(st.tuples(*[st.integers(1, n) for n in shape]))


@given(arrays(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from(['earliest', 'latest']), st.sampled_from([0, 512, 1024]))
def test_arrays_are_read_as_hdf5_reads_them(array, chunked, gzip, shuffle, check, version, userblock):
    a, chunks = array
    kw = dict(chunks=chunks, compression='gzip' if gzip else None, shuffle=shuffle, fletcher32=check) if chunked else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'x.h5'
        with h5py.File(path, 'w', libver=version, userblock_size=userblock) as f: f.create_dataset('x', data=a, **kw)
        got = read_h5(path, 'x')
        with h5py.File(path) as f: want = f['x'][()]
    assert got.dtype == want.dtype and got.shape == want.shape and got.tobytes() == want.tobytes() == a.tobytes()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_arrays_end_to_end_are_one_array(sizes, data):
    parts = [np.arange(i*100, i*100 + n*6).reshape(n, 2, 3) for i, n in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder)/'x.npy', parts[0])
        whole, joined = np.concatenate(parts), Rows(Path(folder)/'x.npy', *parts[1:])
        n = len(whole)
        assert len(joined) == n and joined.shape == whole.shape
        idx = data.draw(st.one_of(st.integers(-n, n - 1), st.slices(n), st.lists(st.integers(0, n - 1), min_size=1)))
        assert np.array_equal(joined[idx], whole[idx])


@given(patches(), SEEDS)
@few
def test_scaling_does_not_depend_on_the_order(xs, seed):
    x, _ = xs
    perm = rng_of(seed).permutation(len(x))
    a, b = measure_scaling(x), measure_scaling(x[perm])
    assert a.shift[:12] == b.shift[:12] and a.scale[:12] == b.scale[:12] and np.allclose(a.scale, b.scale, rtol=1e-6)
    assert np.allclose(a.decode(a.encode(x.astype(np.float64))), x, rtol=1e-9, atol=1e-9)
    z = a.encode(x.astype(np.float64))[:, :12]
    assert abs(z.min()) < 1e-9 and abs(z.max() - 1) < 1e-9 and Scaling.from_dict(a.to_dict()) == a


# Batches

@given(st.integers(1, 40), st.integers(1, 50))
def test_a_loader_gives_every_patch_once_in_order(n, bs):
    x = np.arange(n, dtype=np.float32)[:, None, None, None].repeat(len(L4S), 1)
    dl = SplitDL(Split(x, None, list(range(n))), bs)
    got = [b[0][:, 0, 0, 0].tolist() for b in dl]
    assert sum(got, []) == list(range(n)) and all(len(o) == bs for o in got[:-1]) and len(got) == len(dl)


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 30), SEEDS)
def test_a_shuffled_loader_deals_evenly(n, bs, iters, seed):
    "No patch is seen twice more often than another"
    x = np.arange(n, dtype=np.float32)[:, None, None, None].repeat(len(L4S), 1)
    seen = torch.cat([b[0][:, 0, 0, 0] for b in SplitDL(Split(x, None, list(range(n))), bs, shuffle=True, iters=iters, seed=seed)]).long()
    counts = torch.bincount(seen, minlength=n)
    assert len(seen) == bs*iters and counts.max() - counts.min() <= 1


@pytest.fixture(scope='module')
def net(): return create_segmenter('deeplabv3plus', 'test_resnet').eval()


@given(st.integers(1, 7), SEEDS)
@settings(max_examples=8)
def test_predictions_do_not_depend_on_the_batch_size(net, bs, seed):
    x = rng_of(seed).random((5, len(L4S), 32, 32), dtype=np.float32)
    split = Split(x, None, list(range(5)))
    want = predict_split(net, split, 5, 'cpu', amp=False)
    perm = rng_of(seed).permutation(5)
    assert np.abs(predict_split(net, split, bs, 'cpu', amp=False) - want).max() < 1e-5
    assert np.abs(predict_split(net, Split(x[perm], None, perm.tolist()), bs, 'cpu', amp=False) - want[perm]).max() < 1e-5
