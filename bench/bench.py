"""Measure where a user's time goes, against what people use today, and write bench/RESULTS.md.

    make bench        everything, in less than ten minutes on two cores
    python bench/bench.py --only store crf

Each comparison runs its sides in turn, several times over, and gives medians and the range of the ratio.
"""
import argparse
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

warnings.filterwarnings('ignore')
from fastai.callback.core import Callback, CancelValidException
from fastai.learner import Learner

from landslide_nb.core.base import amp_dtype, autocast
from landslide_nb.data.files import patch_files
from landslide_nb.data.synth import LABELLED, synth_patch, write_world
from landslide_nb.data.store import Split, pack_data, read_split
from landslide_nb.data.loader import landslide_dls, SplitDL
from landslide_nb.data.block import BatchAugment
from landslide_nb.model.dropout import mc_dropout
from landslide_nb.model.losses import JaccardCE
from landslide_nb.model.metrics import confusion, binary_scores
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.model.files import load_model
from landslide_nb.predict.maps import predict_split, unlabelled_dl, predict_folder
from landslide_nb.predict.adapt import ground_statistics
from landslide_nb.predict.meanfield import meanfield_crf
from landslide_nb.predict.crf import CRFParams, crf_split, guide_image
from landslide_nb.selftrain.selection import UncertaintyHistogram, uncertainty_bin
from landslide_nb.selftrain.bank import PseudoBank
from landslide_nb.look.explorers import explore, explore_adapt, explore_crf, explore_threshold
from landslide_nb.selftrain.callback import SelfTraining, draw_lam, mixed_loss, mixup
from landslide_nb.train.recipe import DEMO, PAPER
from landslide_nb.train.loop import nesterov
from landslide_nb.train.run import train_stage
from landslide_nb.scene.explore import explore_map
from landslide_nb.scene.map import map_scene
from landslide_nb.scene.reader import Scene
from landslide_nb.scene.synthetic import write_scene

BS = 8
BACKBONE = 'resnet18'
REAL = Path(__file__).resolve().parents[2]/'shared/data/l4s_real'


def interleave(repeats, warm=False, **sides):
    "Seconds of each side, run in turn; with `warm`, each turn begins with a run that does not count"
    for f in sides.values(): f()
    seconds = {k: [] for k in sides}
    for _ in range(repeats):
        for k, f in sides.items():
            if warm: f()
            start = time.perf_counter()
            f()
            seconds[k].append(time.perf_counter() - start)
    return seconds


def ratio(a, b):
    "Median of a / b over the rounds, and its range"
    r = np.array(a) / np.array(b)
    return float(np.median(r)), f'{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})'


def ms(seconds, per=1): return f'{1000*np.median(seconds)/per:.2f} ms'


class PerFile(torch.utils.data.Dataset):
    "One HDF5 file an item, as the public loaders of this benchmark do it"
    def __init__(self, files): self.files = files
    def __len__(self): return len(self.files)
    def __getitem__(self, i):
        with h5py.File(self.files[i].img) as f: x = f['img'][:]
        with h5py.File(self.files[i].mask) as f: y = f['mask'][:]
        return np.asarray(x, np.float32).transpose(2, 0, 1).copy(), y.astype(np.int64)


def bench_store(tmp, rows, n=192, times=5):
    write_world(tmp/'world', n, 1, 1, progress=False)
    for kind, name in dict(img='image', mask='mask').items(): # the same patches over and over make a store that is too large to stay mapped
        folder = tmp/f'many/TrainData/{kind}'
        folder.mkdir(parents=True)
        for i in range(n * times): os.link(tmp/f'world/TrainData/{kind}/{name}_{i%n + 1}.h5', folder/f'{name}_{i + 1}.h5')
    for name, data, dtype in (('store', 'world', np.float32), ('large', 'many', np.float32), ('half', 'world', np.float16)):
        pack_data(tmp/data, tmp/name, dtype, progress=False)
    files, memory = patch_files(tmp/'world', 'train'), read_split(tmp/'world', 'train', progress=False)
    loader = lambda k: torch.utils.data.DataLoader(PerFile(files), batch_size=16, shuffle=True, num_workers=k, drop_last=True)
    gathered = lambda split: SplitDL(split, 16, shuffle=True, iters=n//16)
    stored = {k: read_split(tmp/k, 'train') for k in ('store', 'large', 'half')}
    def run(dl):
        for b in dl: pass
    # From the third batch on a training has freed pieces so large that the allocator keeps the memory of a batch; here as well, for all sides
    torch.empty(31 * 2**20, dtype=torch.uint8)
    s = interleave(7, True, files=lambda: run(loader(0)), workers=lambda: run(loader(2)), memory=lambda: run(gathered(memory)),
                   **{k: partial(lambda o: run(gathered(o)), o) for k, o in stored.items()})
    what = lambda k: f'the packed store of {len(stored[k]):,} patches ({stored[k].x.parts[0].nbytes/1e9:.1f} GB)'
    for a, b, one, more in (('files', 'store', 'one process', ''), ('workers', 'store', 'two workers', ''),
                            ('files', 'large', 'one process', ', too large to stay mapped, so that its pages are given back and found again'),
                            ('files', 'half', 'one process', ', in half precision')):
        m, text = ratio(s[a], s[b])
        rows.append((f'random batches of 16: one HDF5 file an item in a torch DataLoader, {one}, vs. {what(b)}{more}', text, '20 or more', m >= 20,
                     f'{ms(s[a], n//16)} vs. {ms(s[b], n//16)} a batch; from a split in memory {ms(s["memory"], n//16)}'))


def parts():
    "What a self-training step needs"
    xs, ys = map(np.stack, zip(*(synth_patch(LABELLED, i) for i in range(32))))
    labelled, region = Split(xs, ys, list(range(32))), Split(xs[:16], None, list(range(16)))
    torch.manual_seed(0)
    model, teacher = (create_segmenter(backbone=BACKBONE).to(memory_format=torch.channels_last) for _ in range(2))
    bank = PseudoBank(teacher.eval(), unlabelled_dl(region, BS, 'cpu'), passes=2, seed=0, progress=False).make()
    return labelled, model, bank


class TrainOnly(Callback):
    def before_validate(self): raise CancelValidException


def learner_steps(n, labelled, model, bank, bs=BS, amp=True, taught=True):
    "fastai's loop with the callback"
    aug = BatchAugment(128)
    dls = landslide_dls(labelled, valid_pct=0, bs=bs, iters=n, batch_tfms=aug, shuffle_seed=0, device='cpu')
    cbs = [TrainOnly(), *([SelfTraining(bank, aug, seed=0)] if taught else [])]
    learn = Learner(dls, model, JaccardCE(), opt_func=nesterov(), lr=.01, wd=5e-4, cbs=cbs)
    def steps():
        with autocast('cpu', amp), learn.no_bar(), learn.no_logging(): learn.fit(1)
    return steps


def bare_steps(n, labelled, model, bank, amp=True):
    "The same arithmetic in a plain loop"
    aug, loss_func = BatchAugment(128), JaccardCE()
    region = bank.dl.dataset.with_masks(bank.labels)
    rng = np.random.default_rng(0)
    def steps():
        opt = torch.optim.SGD(model.parameters(), lr=.01, momentum=.9, nesterov=True, weight_decay=5e-4)
        model.train()
        with autocast('cpu', amp):
            for _ in range(n):
                (x, y), (xu, yu) = (o.gather(rng.choice(len(o), BS, replace=False)) for o in (labelled, region))
                (x, y), (xu, yu) = (aug.augment(a.as_subclass(torch.Tensor), b) for a, b in ((x, y), (xu, yu)))
                lam, perm, perm_u = draw_lam(.4, rng), torch.randperm(BS), torch.randperm(BS)
                logits = model(torch.cat([mixup(x, lam, perm), mixup(xu, lam, perm_u)]))
                loss = mixed_loss(loss_func, logits[:BS], y, y[perm], lam) + mixed_loss(loss_func, logits[BS:], yu, yu[perm_u], lam)
                loss.backward()
                opt.step()
                opt.zero_grad()
    return steps


def bench_step(tmp, rows):
    n, p = 6, parts()
    s = interleave(7, ours=learner_steps(n, *p), bare=bare_steps(n, *p), supervised=learner_steps(n, *p, bs=2*BS, taught=False),
                   full=learner_steps(n, *p, amp=False))
    detail = f'DeepLabV3+ / {BACKBONE}, {BS} + {BS} patches of 128 px, {precision()}: {ms(s["ours"], n)} vs. {{}} a step'
    m, text = ratio(s['ours'], s['bare'])
    rows.append(('self-training step: fastai with our callback vs. a bare PyTorch loop of the same arithmetic', text, '1.05 or less', m <= 1.05,
                 detail.format(ms(s['bare'], n))))
    m, text = ratio(s['ours'], s['supervised'])
    rows.append(('self-training step vs. a supervised step on as many images', text, '1.1 or less', m <= 1.1, detail.format(ms(s['supervised'], n))))
    m, text = ratio(s['full'], s['ours'])
    rows.append((f'self-training step in float32 vs. {precision()}', text, '', None, detail.format(ms(s['full'], n))))
    return float(np.median(s['ours'])) / n


def bench_bank(tmp, rows, step):
    _, model, bank = parts()
    x = torch.from_numpy(bank.dl.dataset.x[:BS])
    teacher = bank.teacher
    def ask():
        with autocast('cpu'): mc_dropout(teacher, x, 10, .3, 0)
    s = interleave(5, ask=ask)
    t, stage = float(np.median(s['ask'])) / BS, next(o for o in DEMO.stages if o.name == 'model3')
    patches, its = 48, stage.iters
    every, once = its * (step + BS * t), its * step + patches * t * 1.1
    rows.append((f"a stage of the demo's recipe ({its} iterations of {BS} + {BS} patches, {patches} unlabelled ones): "
                 'teacher asked in every step vs. the bank', f'{every/once:.2f}', '', None,
                 f'from the measured step ({1000*step:.0f} ms) and ten passes ({1000*t:.1f} ms a patch): {every:.0f} s vs. {once:.0f} s'))
    its, patches, bs = 60_000, 245, 16
    rows.append((f"teacher's passes in a stage of the paper's recipe ({its} iterations of {bs}, {patches} unlabelled patches): "
                 'in every step vs. the bank', f'{10*its*bs/(11*patches):.0f}', '', None, f'{10*its*bs:,} vs. {11*patches:,} forwards of a patch'))


def bench_uncertainty(tmp, rows):
    model = create_segmenter(backbone='resnet50').to(memory_format=torch.channels_last).eval()
    x = torch.rand(BS, 14, 128, 128)
    out = {}
    def plain(n, amp):
        with torch.no_grad(), autocast('cpu', amp):
            for _ in range(n): model(x)
    def mc(amp, key):
        with autocast('cpu', amp): out[key] = mc_dropout(model, x, 10, .3, 0)[1].mean(1)
    s = interleave(5, one=lambda: plain(1, False), mc=lambda: mc(True, 'low'))
    mc(False, 'full')
    from scipy.stats import spearmanr
    rho = float(spearmanr(out['low'].flatten(), out['full'].flatten()).statistic)
    what = f'DeepLabV3+ / resnet50, {BS} patches of 128 px'
    m, text = ratio(s['mc'], s['one'])
    rows.append((f'ten passes in {precision()} vs. one float32 forward', text, '5.5 or less', m <= 5.5,
                 f'{what}: {ms(s["mc"], BS)} vs. {ms(s["one"], BS)} a patch'))
    rows.append((f'rank correlation of the uncertainty map in {precision()} with that in float32', f'{rho:.4f}', '0.99 or more', rho >= .99,
                 f'{what}, untrained'))


def bench_region(tmp, rows, n=96):
    split = Split(np.stack([synth_patch(LABELLED, i)[0] for i in range(n)]), None, [*range(1, n + 1)])
    model = create_segmenter(backbone=BACKBONE).eval()
    ask = lambda amp: predict_split(model, split, 16, 'cpu', amp=amp)
    s = interleave(5, measure=lambda: ground_statistics(model, split, 16), full=lambda: ask(False), ask=lambda: ask(True))
    m, text = ratio(s['measure'], s['full'])
    what = 'statistics of a region, without its clouds, snow and water, vs. predicting its patches, both in float32'
    rows.append((what, text, '1.2 or less', m <= 1.2,
                 f'DeepLabV3+ / {BACKBONE}, {n} patches of 128 px: {ms(s["measure"], n)} vs. {ms(s["full"], n)} a patch '
                 f'({ms(s["ask"], n)} in {precision()}): {1000*float(np.median(s["measure"]))/n:.0f} s for 1000'))


def live_hands(tmp):
    "Explorers in their shells, and the moves of a hand that each answers: name -> (function, values to set in turn)"
    write_scene(tmp/'scene', 400, seed=1)
    map_scene('starter', Scene(tmp/'scene/scene.tif', tmp/'scene/dem.tif'), tmp/'map', uncertainty='margin', progress=False)
    xs, ys = (np.stack(o) for o in zip(*(synth_patch(LABELLED, i) for i in range(16))))
    split, (model, info) = Split(xs, ys), load_model('starter')
    bank = PseudoBank(model, unlabelled_dl(Split(xs), BS, 'cpu'), uncertainty='margin', progress=False).make()
    def shell(e, name):
        e.on_screen()
        return e.inputs[name]
    steps = np.linspace(.1, .9, 21)
    return {'explore: opacity': (shell(explore(split, 'starter', uncertainty='margin', progress=False), 'opacity'), steps),
            'explore: another patch, asked for the first time, uncertainty=margin': (
                shell(explore(split, 'starter', uncertainty='margin', progress=False), 'n'), range(1, 16)),
            'explore: another patch, asked for the first time, uncertainty=symmetries': (
                shell(explore(split, 'starter', progress=False), 'n'), range(1, 16)),
            'bank.explore: share of landslide': (shell(bank.explore(ys), 'landslide'), steps),
            'explore_crf: reach': (shell(explore_crf(bank.prob[0], xs[0], ys[0]), 'sxy'), np.arange(5., 26.)),
            'explore_threshold': (shell(explore_threshold(bank.prob, ys, xs), 'threshold'), steps),
            'explore_adapt: swipe': (shell(explore_adapt('starter', split, weight=.5, progress=False), 'swipe'), steps),
            'explore_map: threshold, 400 x 400': (shell(explore_map(tmp/'map'), 'threshold'), steps)}


def bench_explore(tmp, rows):
    with redirect_stdout(io.StringIO()): hands = live_hands(tmp)
    for name, (hand, values) in hands.items():
        took = []
        for v in values:
            start = time.perf_counter()
            with redirect_stdout(io.StringIO()): hand.value = v # the texts are printed
            took.append(1000*(time.perf_counter() - start))
        most, live = float(np.quantile(took, .9)), 'symmetries' not in name
        rows.append((f'{name}: from a hand at the slider to the new pictures as bytes', f'{np.median(took):.0f} ms',
                     '100 ms in 9 of 10' if live else '', most <= 100 if live else None,
                     f'{min(took):.0f} to {max(took):.0f} ms, 9 of 10 within {most:.0f} ms'))


def bench_crf(tmp, rows, n=245):
    xs, ys = map(np.stack, zip(*(synth_patch(LABELLED, i) for i in range(n))))
    prob = np.clip(ys * .6 + .2 + .15*np.random.default_rng(0).standard_normal(ys.shape), .01, .99)
    s = interleave(3, serial=lambda: crf_split(prob, xs, progress=False, workers=1, backend='pydensecrf'),
                   all=lambda: crf_split(prob, xs, progress=False, backend='pydensecrf'))
    same = np.array_equal(*(crf_split(prob, xs, progress=False, workers=k, backend='pydensecrf') for k in (1, None)))
    m, text = ratio(s['serial'], s['all'])
    rows.append((f'CRF of {n} patches, as many as the benchmark has for validation, on {len(os.sched_getaffinity(0))} cores vs. one '
                 f'(outputs {"identical" if same else "DIFFER"})', text, '1.8 or more', m >= 1.8 and same,
                 f'{ms(s["all"], n)} vs. {ms(s["serial"], n)} a patch'))


def spoil(mask, seed):
    "A network-like probability: the blurred mask plus smooth noise, as logits"
    from scipy.ndimage import gaussian_filter
    bumps = gaussian_filter(np.random.default_rng(seed).normal(size=mask.shape), 1.5)
    logit = 6*(gaussian_filter(mask.astype(float), 1.5) - .5) + bumps/bumps.std() - .3
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def bench_meanfield(tmp, rows, n=14, timed=6):
    worlds = dict(synthetic=tuple(map(np.stack, zip(*(synth_patch(LABELLED, i) for i in range(n))))))
    if REAL.exists():
        real = read_split(REAL, 'train', progress=False)
        worlds['real'] = real.gather(np.arange(len(real)))
    else: rows.append(('CRF in torch and by pydensecrf, real patches', '', '', None, 'not measured: ../shared/data/l4s_real is not there'))
    for kind, (xs, ys) in worlds.items():
        xs, ys = np.asarray(xs), np.asarray(ys)
        prob = np.stack([spoil(o, i) for i, o in enumerate(ys)])
        guides = np.stack([guide_image(x).transpose(2, 0, 1) for x in xs])
        run = lambda **kw: crf_split(prob, xs, progress=False, **kw)
        results = prob, run(backend='pydensecrf'), run(backend='torch', device='cpu'), meanfield_crf(prob, guides, CRFParams(), truncate=4).numpy()
        before, lattice, ours, far = (o > .5 for o in results)
        same, moved = ours == lattice, (ours != before) | (lattice != before)
        f1 = {k: 100*binary_scores(*confusion(o, ys))['f1'] for k, o in dict(before=before, lattice=lattice, ours=ours).items()}
        rows.append((f'CRF of {len(xs)} {kind} patches in torch vs. by pydensecrf: share of pixels with the same mask', f'{same.mean():.3%}',
                     '99.5 % or more', bool(same.mean() >= .995),
                     f'F1 {f1["ours"]:.2f} vs. {f1["lattice"]:.2f}, before {f1["before"]:.2f}; of the {moved.mean():.2%} of the pixels that either '
                     f'changes {same[moved].mean():.1%}; the same mask as sums out to four standard deviations: torch {(ours == far).mean():.3%}, '
                     f'pydensecrf {(lattice == far).mean():.3%}'))
    xs, prob = xs[:timed], prob[:timed]
    run = lambda backend: crf_split(prob, xs, progress=False, workers=1, backend=backend, device='cpu')
    s = interleave(3, torch=lambda: run('torch'), lattice=lambda: run('pydensecrf'))
    rows.append((f'CRF of {timed} patches in torch vs. by pydensecrf, one core', ratio(s['torch'], s['lattice'])[1], '', None,
                 f'{ms(s["torch"], timed)} vs. {ms(s["lattice"], timed)} a patch'))


def precision(): return {torch.bfloat16: 'bfloat16', torch.float16: 'float16', None: 'float32'}[amp_dtype('cpu')]


def bench_rate(tmp, rows):
    from torch.utils.flop_counter import FlopCounterMode
    dtype = amp_dtype('cpu') or torch.float32
    a, b = (torch.rand(4096, 4096, dtype=dtype) for _ in range(2))
    model = create_segmenter(backbone='resnet50').to(memory_format=torch.channels_last)
    x, y, loss_func = torch.rand(16, 14, 128, 128), torch.zeros(16, 128, 128, dtype=torch.long), JaccardCE()
    def infer():
        model.eval()
        with torch.no_grad(), autocast('cpu'): model(x)
    def train():
        model.train()
        with autocast('cpu'): loss = loss_func(model(x), y)
        loss.backward()
    flops = {}
    for k, f in dict(infer=infer, train=train).items():
        with FlopCounterMode(display=False) as c: f()
        flops[k] = c.get_total_flops()
    s = interleave(4, matmul=lambda: a @ b, infer=infer, train=train)
    peak = 2*4096**3 / np.median(s['matmul'])
    for k, what in dict(infer='inference', train='training (forward and backward)').items():
        rate = flops[k] / np.median(s[k])
        rows.append((f'share of the measured {precision()} matrix-multiply rate that {what} reaches', f'{rate/peak:.0%}', '', None,
                     f'{rate/1e9:.0f} of {peak/1e9:.0f} GFLOP/s, DeepLabV3+ / resnet50, 16 patches of 128 px'))


def bench_quantile(tmp, rows, total=10**9, step=2**22):
    "Log-normal uncertainties, over ten orders of magnitude, never more than a chunk of them in memory"
    def chunks():
        rng = np.random.default_rng(0)
        for i in range(0, total, step): yield np.exp(3*rng.standard_normal(min(step, total - i), dtype=np.float32))
    start, hist = time.perf_counter(), UncertaintyHistogram(1)
    for u in chunks(): hist.counts[0] += np.bincount(uncertainty_bin(u), minlength=2**21)
    cuts = {k: hist.cut(0, k)[0] for k in (.9, .7)}
    kept = dict.fromkeys(cuts, 0)
    for u in chunks():
        bins = uncertainty_bin(u)
        for k, c in cuts.items(): kept[k] += int((bins <= c).sum())
    worst = max(abs(kept[k]/total - k) for k in cuts)
    rows.append(('error of the kept share with a streaming threshold, 10^9 simulated pixels', f'{100*worst:.5f} points', '0.1 points or less',
                 worst <= 1e-3,
                 'if the whole bin that holds the threshold is kept; the selection takes from it only as many pixels as are asked, '
                 f'so its own error is below one pixel; {time.perf_counter() - start:.0f} s'))


def peak():
    "Largest resident memory of this process so far, kB; unlike getrusage's it does not start with the parent's"
    return int(next(o for o in Path('/proc/self/status').read_text().splitlines() if o.startswith('VmHWM')).split()[1])


def grow(kind, n, folder):
    "One cell of the growth table, in a process of its own: seconds and the largest resident memory"
    folder = Path(folder)
    model = create_segmenter(backbone='test_resnet').eval()
    before, start = peak(), time.perf_counter()
    split = read_split(folder/f'store-{n}', 'valid')
    if kind == 'bank': PseudoBank(model, unlabelled_dl(split, 16, 'cpu'), passes=2, seed=0, progress=False).make()
    elif kind == 'region': ground_statistics(model, split)
    else: predict_folder(model, split, folder/f'pred-{n}', progress=False)
    print(time.perf_counter() - start, before, peak())


# What landslide-pack does, in a process that imports no more than the command
PACK = '''
import sys, time
peak = lambda: next(o.split()[1] for o in open('/proc/self/status') if o.startswith('VmHWM'))
before, start = peak(), time.perf_counter()
pack_data(*sys.argv[1:], progress=False)
print(time.perf_counter() - start, before, peak())
'''


def bench_growth(tmp, sizes):
    write_world(tmp/'seed', 1, 64, 1, progress=False)
    kinds = 'pack', 'bank', 'region', 'predict'
    lines = ['| patches | ' + ' | '.join(f'{k}: a patch | {k}: resident memory' for k in kinds) + ' |', '|---|' + '---|---|'*len(kinds)]
    for n in sizes:
        (tmp/f'files-{n}').mkdir()
        for i in range(1, n + 1): os.link(tmp/f'seed/ValidData/img/image_{(i - 1) % 64 + 1}.h5', tmp/f'files-{n}/image_{i}.h5')
        cells = []
        for kind in kinds:
            what = [__file__, '--grow', kind, str(n), str(tmp)] if kind != 'pack' else ['-c', PACK, str(tmp/f'files-{n}'), str(tmp/f'store-{n}')]
            out = subprocess.run([sys.executable, *what], capture_output=True, text=True, check=True).stdout
            seconds, before, after = map(float, out.split()[-3:])
            cells.append(f'{1000*seconds/n:.1f} ms | {after/1024:.0f} MB ({(after - before)/1024:.0f} more than after the imports)')
        lines.append(f'| {n:,} | ' + ' | '.join(cells) + ' |')
        for o in ('files', 'store', 'pred'): shutil.rmtree(tmp/f'{o}-{n}')
    return lines


def gpu_section():
    if not torch.cuda.is_available(): return ['Not measured: no GPU was at hand.']
    lines, hours = ['| stage | iterations a second | hours | memory |', '|---|---|---|---|'], 0
    x = np.random.default_rng(0).random((64, 14, 128, 128), dtype=np.float32)
    split = Split(x, (x[:, 0] > .9).astype(np.uint8), list(range(64)))
    from dataclasses import replace
    models = {}
    for s in PAPER.stages:
        t = []
        for iters in (20, 120):
            torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            with tempfile.TemporaryDirectory() as out:
                data = dict(train=split, valid=split, test=split)
                models[s.name] = train_stage(replace(s, iters=iters, pretrained=False), data, models, out,
                                             device='cuda', progress=False)
            torch.cuda.synchronize()
            t.append(time.perf_counter() - start)
        rate = 100 / (t[1] - t[0])
        hours += s.iters / rate / 3600
        lines.append(f'| {s.name} | {rate:.1f} | {s.iters/rate/3600:.1f} | {torch.cuda.max_memory_allocated()/2**30:.1f} GiB |')
    return [f'{torch.cuda.get_device_name()}: {hours:.1f} hours for the whole recipe.', '', *lines]


def cpu_name():
    info = Path('/proc/cpuinfo')
    names = [o.split(':')[1].strip() for o in info.read_text().splitlines() if o.startswith('model name')] if info.exists() else []
    return names[0] if names else platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ('store', 'step', 'uncertainty', 'region', 'explore', 'crf', 'meanfield', 'rate', 'quantile', 'growth')
    parser.add_argument('--only', nargs='+', choices=names, default=names)
    parser.add_argument('--out', default=Path(__file__).parent/'RESULTS.md', type=Path)
    parser.add_argument('--sizes', nargs='+', type=int, default=(100, 1000, 10_000), help='patches of the growth table')
    parser.add_argument('--grow', nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.grow: return grow(args.grow[0], int(args.grow[1]), args.grow[2])
    start, rows, growth = time.perf_counter(), [], []
    for k in args.only:
        print(f'{time.perf_counter() - start:5.0f} s  {k}', flush=True)
        with tempfile.TemporaryDirectory() as tmp:
            if k == 'growth': growth = bench_growth(Path(tmp), args.sizes)
            else:
                res = globals()[f'bench_{k}'](Path(tmp), rows)
                if k == 'step': bench_bank(Path(tmp), rows, res)
    mark = {True: 'yes', False: '**no**', None: ''}
    lines = ['# Speed', '', 'Made by `make bench`; every number is a ratio of medians from runs in turn, with its range over the rounds in brackets, '
             'unless it says otherwise.'
             ' Batches are read with an allocator that keeps the memory of a batch, as it does from the third batch of a training on.', '',
             f'{cpu_name()}, {len(os.sched_getaffinity(0))} cores, torch {torch.__version__.split("+")[0]}, {precision()}, '
             f'Python {platform.python_version()}; {time.strftime("%Y-%m-%d")}, {time.perf_counter() - start:.0f} s in all.', '',
             '| what | ratio | bar | met | in figures |', '|---|---|---|---|---|',
             *(f'| {a} | {b} | {c} | {mark[d]} | {e} |' for a, b, c, d, e in rows)]
    if growth:
        lines += ['', '## Growth', '', 'Patches of 128 px, each figure in a process of its own, pack in one that imports no more than the command; '
                  'the bank asks a small model (timm\'s `test_resnet`) for two passes and a plain forward, and measures a region with it, '
                  'so the times are mostly what surrounds the model. Memory is the largest resident set of the process.', '', *growth]
    lines += ['', '## GPU', '', *gpu_section(), '']
    text = '\n'.join(lines)
    print(text)
    args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__': main()
