"""What adapting is worth, region by region, on real ground and on synthetic: every method beside its simplest control, row after row.

A row is written to bench/regions.jsonl as it is measured, and every world and model is kept under OUT, so a run that was stopped goes on.
`--seeds` names the trainings (and synthetic worlds), `--only` picks jobs by words in their names, `--list` shows them, `--jobs N` takes several
processes. At the end bench/REGIONS.md is made of all rows; `--table` does nothing else. Real patches are read beside the checkout; without
them their rows are left out.
"""
import argparse
import json
import os
import sys
import time
import traceback
from copy import copy
from dataclasses import dataclass, replace
from fcntl import LOCK_EX, flock
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from PIL import Image
from torch import nn

from landslide_nb.core.base import atomic_path
from landslide_nb.data.bands import L4S
from landslide_nb.data.synth import LABELLED, UNSEEN, synth_patch
from landslide_nb.data.store import Split, read_split
from landslide_nb.model.dropout import dropout_site
from landslide_nb.model.files import load_for_patches
from landslide_nb.model.uncertainty import Symmetric, UNCERTAINTIES
from landslide_nb.model.metrics import risk_coverage
from landslide_nb.predict.maps import predict_split, query_teacher, unlabelled_dl
from landslide_nb.predict.adapt import adapt_to_region, clear_patches, ground_statistics, with_statistics, norms, region_statistics
from landslide_nb.selftrain.selection import select_class_balanced
from landslide_nb.train.recipe import Stage
from landslide_nb.train.run import spread_over, train_stage

DATA = Path(__file__).parents[2]/'shared/data'
ROWS = Path(__file__).with_name('regions.jsonl')
SMALL = dict(backbone='resnet10t', size=128, bs=8, every=100, lr=.02, iters=500)


def bare(split): return Split(split.x, None, split.ns)


def seeds(world, part, n): return [np.random.SeedSequence((world, part, i)) for i in range(1, n + 1)]


def greenness(split): return ((split.x[:, 7] - split.x[:, 3]) / (split.x[:, 7] + split.x[:, 3])).mean((1, 2))


def first(split, n): return split.subset(range(min(n, len(split))))


def read_region(folder):
    "Patches of three bands in fourteen: those that are missing stand at the benchmark's mean, a little off in each patch"
    paths = sorted((folder/'images').glob('*.png'), key=lambda p: int(p.stem.split('_')[1]))
    ns = [int(p.stem.split('_')[1]) for p in paths]
    x, y = np.empty((len(paths), 14, 128, 128), np.float16), np.empty((len(paths), 128, 128), np.uint8)
    for i, (p, n) in enumerate(zip(paths, ns)):
        x[i] = 1 + .02*np.random.default_rng(n).standard_normal((14, 1, 1))
        x[i][L4S.at(['B4', 'B3', 'B2'])] = np.asarray(Image.open(p))[..., :3].transpose(2, 0, 1) / 255 * 4
        y[i] = np.asarray(Image.open(folder/f'masks/mask_{n}.png').convert('L')) > 127
    return Split(x, y, ns)


def blocks(split, n=60, rim=41, at=(150, 750, 1350)):
    "Blocks held back, and what is left without a rim around each; neighbours in number are neighbours on the ground, a row is 41 patches"
    out = {i for a in at for i in range(a - rim, a + n + rim)}
    return [split.subset(range(a, a + n)) for a in at], split.subset([i for i in range(len(split)) if i not in out])


# How a model trains: fields of its stage, and dropout elsewhere than where the library has it

class Dropouts(Callback):
    "Dropout while a base trains, at the first convolution and in the ASPP: in front of the batch norm, as it was, behind it, or not at all"
    order = -1
    def __init__(self, site=0., aspp=0., behind=False, until=1.): self.site, self.aspp, self.behind, self.until = site, aspp, behind, until

    def before_fit(self):
        model, self.hooks = self.model, []
        dropout_site(model).train_p = 0 if self.behind else self.site
        self.inner = [m for m in model.modules() if type(m) is nn.Dropout]
        for m in self.inner: m.p = 0. if self.behind else self.aspp
        if not self.behind: return
        drop = lambda p: lambda m, inp, out: nn.functional.dropout(out, p) if m.training else out
        self.hooks = [next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).register_forward_hook(drop(self.site))]
        if hasattr(model.net.decoder, 'aspp'): self.hooks.append(model.net.decoder.aspp[2].register_forward_hook(drop(self.aspp)))

    def before_batch(self):
        if not self.training or self.train_iter < self.until * self.n_epoch * self.n_iter: return
        dropout_site(self.model).train_p = 0.
        for m in self.inner: m.p = 0.

    def after_fit(self):
        for h in self.hooks: h.remove()


BASES = {'none': (dict(), dict()), 'as before': (dict(), dict(site=.3, aspp=.5)), 'aspp alone': (dict(), dict(aspp=.5)), 'site alone': (dict(),
    dict(site=.3)),
         'behind': (dict(), dict(site=.3, aspp=.5, behind=True)), 'until 4/5': (dict(), dict(site=.3, aspp=.5, until=.8)),
         'none, 2000': (dict(iters=2000), dict()), 'as before, 2000': (dict(iters=2000), dict(site=.3, aspp=.5)),
         'none, radiometry': (dict(radiometry=.5), dict()),
         'none, hrnet': (dict(arch='hrnet', backbone='hrnet_w18_small', lr=.1), dict()), 'as before, hrnet': (dict(arch='hrnet',
             backbone='hrnet_w18_small', lr=.1), dict(site=.3)),
         'none, resnet50': (dict(backbone='resnet50'), dict()), 'as before, resnet50': (dict(backbone='resnet50'), dict(site=.3, aspp=.5))}


@dataclass
class World:
    seed: int
    out: Path
    data: Path
    device: str = 'cpu'

    def patches(self, name, region, *parts):
        "Synthetic patches of a region, kept on disk; `parts` are pairs of a number and how many"
        path = self.out/f'{self.seed}/{name}.npz'
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            xs, ys = zip(*(synth_patch(region, s) for p in parts for s in seeds(self.seed, *p)))
            with atomic_path(path) as tmp: np.savez(tmp, x=np.stack(xs), y=np.stack(ys))
        with np.load(path) as f: return Split(f['x'], f['y'], [*range(1, len(f['x']) + 1)])

    @cached_property
    def regions(self):
        folder = self.data/'l4s_regions_rgb'
        return {n.title(): read_region(folder/n) for n in ('taiwan', 'hokkaido', 'nepal')} if folder.is_dir() else {}

    @cached_property
    def real(self): return read_split(self.data/'l4s_real', 'train', progress=False) if (self.data/'l4s_real').is_dir() else None

    @cached_property
    def hazy_real(self): return read_split(self.data/'l4s_real', 'test', progress=False)

    @cached_property
    def sets(self):
        "name -> labelled patches that a base learns from"
        res = {'synthetic': lambda: self.patches('train', LABELLED, (0, 160))}
        if not self.regions: return res
        t, h, n = self.regions.values()
        thin = t.subset(range(0, len(t), len(t) // 300))
        return res | {'but Hokkaido': lambda: t + n, 'but Nepal': lambda: t + h, 'but Taiwan': lambda: h + n,
            'but blocks': lambda: blocks(t)[1] + h + n,
                      'but Hokkaido, thin': lambda: thin + n, 'but Nepal, thin': lambda: thin + h}

    @cached_property
    def domains(self):
        "name -> (set of its base, unlabelled pool, patches to score)"
        unseen, held = self.patches('unseen', UNSEEN, (1, 48), (2, 48)), self.patches('home', LABELLED, (3, 60))
        dry, hazy = self.patches('dry', replace(UNSEEN, forest=.05, greenness=.1), (4, 40)), self.patches('hazy', replace(UNSEEN, haze=1.2), (5, 40))
        res = {'synthetic unseen': ('synthetic', unseen, unseen), 'synthetic held out': ('synthetic', held, held),
               'synthetic bare': ('synthetic', dry, dry), 'synthetic murky': ('synthetic', hazy, hazy)}
        many = self.patches('many', LABELLED, (6, 160))
        order = np.argsort(greenness(many)) # another composition of the source region, and no shift of light
        res |= {'synthetic barest': ('synthetic', many.subset(np.sort(order[:40])), many.subset(np.sort(order[:40]))),
                'synthetic greenest': ('synthetic', many.subset(np.sort(order[-40:])), many.subset(np.sort(order[-40:])))}
        for n in (7, 20): res |= {f'synthetic unseen, {n}': ('synthetic', first(unseen, n), unseen), f'synthetic held out, {n}': ('synthetic',
            first(held, n), held)}
        if self.real:
            other = self.hazy_real
            res |= {k: ('synthetic', pool, self.real) for k, pool in (('real 14 bands', self.real), ('real 14 bands, pool of 18 others', other),
                                                                      ('real 14 bands, pool of all 32', bare(self.real) + bare(other)))}
        if not self.regions: return res
        t, h, n = self.regions.values()
        some = t.subset(range(0, len(t), 5))
        goals = {'Hokkaido': ('but Hokkaido', h), 'Nepal': ('but Nepal', n), 'Taiwan': ('but Taiwan', some),
                 'Hokkaido, from thin': ('but Hokkaido, thin', h), 'Nepal, from thin': ('but Nepal, thin', n),
                 **{f'Taiwan block {i}': ('but blocks', b) for i, b in enumerate(blocks(t)[0], 1)}}
        res |= {k: (s, b, b) for k, (s, b) in goals.items()}
        for k in ('Hokkaido', 'Nepal', 'Taiwan', 'Taiwan block 1', 'Taiwan block 2', 'Taiwan block 3'):
            s, b = goals[k]
            res |= {f'{k}, {m}': (s, b.subset(range(20, 20 + m)), b) for m in (7, 20)}
        return res

    def model(self, set_name, name, data, drops=None, models=None, **fields):
        "A trained model, from its folder where that is there"
        folder = self.out/f'{self.seed}'/f'{set_name} {name}'.replace(' ', '_').replace(',', '').replace('/', '-')
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder/'lock', 'w') as lock:
            flock(lock, LOCK_EX) # another process may be training it
            if not (folder/'model.json').exists():
                stage = Stage(**{'name': 'base', 'train_drop': 0., **SMALL, **fields})
                train_stage(stage, data, models or {}, folder, self.seed, self.device, progress=False,
                            resume=(folder/'checkpoint.pt').exists(), cbs=(Dropouts(**drops),) if drops is not None else ())
        return load_for_patches(folder, self.device)[0]

    def base(self, set_name, name):
        fields, drops = BASES[name]
        return self.model(set_name, name, dict(train=self.sets[set_name]()), drops, **fields)


THRESHOLDS = np.arange(1, 100) / 100


def expected_f1_threshold(prob):
    "The threshold at which the F1 that the probabilities promise is largest; no label is needed"
    n, p = (o[::-1] for o in (np.histogram(prob, 200, (0, 1))[0], np.histogram(prob, 200, (0, 1), weights=prob)[0]))
    f1 = 2*np.cumsum(p) / (np.cumsum(n) + p.sum())
    return 1 - (np.argmax(f1) + 1) / 200


def scored(prob, y):
    "F1 at one half and at the best threshold, predicted and true share, in percent"
    y, q = np.stack([*y]).ravel(), np.ceil(np.stack([*prob]).ravel() * 100).clip(0, 100).astype(int) # prob > t/100 is q > t
    n, hit = np.bincount(q, minlength=101), np.bincount(q[y == 1], minlength=101)
    above, tp = (np.cumsum(o[::-1])[::-1] for o in (n, hit))
    p, r = tp[1:] / np.maximum(above[1:], 1), tp[1:] / max(hit.sum(), 1)
    f1 = 2*p*r / np.maximum(p + r, 1e-9)
    p, r, f1 = (o[1:] for o in (p, r, f1)) # of t = 1 … 99
    half, best = 49, int(np.argmax(f1))
    pct = lambda v: round(100*float(v), 2)
    auto = expected_f1_threshold(np.stack([*prob]))
    k = min(max(round(100*auto) - 1, 0), 98)
    return dict(auto=pct(f1[k]), auto_threshold=round(auto, 3), precision=pct(p[half]), recall=pct(r[half]), f1=pct(f1[half]), best=pct(f1[best]),
        threshold=float(THRESHOLDS[best]),
                share=pct(above[51] / len(y)), true=pct(hit.sum() / len(y)))


def variance_ratio(model, stats):
    "What a batch norm sees over what it remembers: at the first, and the lowest and highest median of a layer's channels"
    res = {k: float((stats.norms[k].var / m.running_var.double().cpu().clamp_min(1e-12)).median()) for k,
        m in norms(model).items() if k in stats.norms}
    return dict(first=round(res[stats.first], 3), lowest=round(min(res.values()), 3), highest=round(max(res.values()), 3))


def own_statistics(w, set_name, model):
    return region_statistics(model, spread_over(bare(w.sets[set_name]()), 256), progress=False)


def base_rows(w, rows, domain, b):
    "A base as it is and with other statistics"
    set_name, pool, truth = w.domains[domain]
    name = dict(domain=domain, base=b, seed=w.seed)
    if rows.has(**name, method='statistics, whole'): return
    model = w.base(set_name, b)
    def add(method, m, **more): rows.add(**name, method=method, **scored(predict_split(m, truth), truth.y), **more)
    own = own_statistics(w, set_name, model)
    add('source', model, **variance_ratio(model, own))
    if ', ' not in domain: add('source, eight symmetries', Symmetric(model))
    add('re-estimated', with_statistics(model, own, 1))
    stats = ground_statistics(model, clear_patches(bare(pool)))
    for k, v in (('quarter', .25), ('half', .5), ('whole', 1)): add(f'statistics, {k}', with_statistics(model, stats, v))


FOLDS = [{1, 2, 3}, {27, 28}, {40, 41}] # neighbours on the ground; the others are dealt to four folds


def folds(ns):
    "Four groups of patch numbers, neighbours together"
    alone, res = [n for n in ns if not any(n in o for o in FOLDS)], [set(o) for o in FOLDS] + [set()]
    for n in alone: min(res, key=len).add(n)
    return res


def few_rows(w, rows, domain, b, start):
    "Groups of the 14 real patches left out in turn: learned from scratch, or from a base of the synthetic world"
    name = dict(domain=domain, base=f'{b}, from {start}', seed=w.seed)
    if not w.real or rows.has(**name, method='statistics of the other 18, whole'): return
    fields, drops = BASES[b]
    probs = {}
    for i, out in enumerate(folds(w.real.ns)):
        held = [k for k, n in enumerate(w.real.ns) if n in out]
        kept = [k for k in range(len(w.real)) if k not in held]
        begin = dict(models=dict(base=w.base('synthetic', start)), init='base', lr=.01) if start != 'scratch' else {}
        model = w.model('synthetic', f'few {b} from {start} fold {i}', dict(train=w.real.subset(kept)), drops, **{**fields, 'iters': 300, **begin})
        seven = bare(w.real).subset((held + kept)[:7])
        def note(method, m): probs.setdefault(method, []).append(predict_split(m, w.real.subset(held)))
        note('source', model)
        note('re-estimated', with_statistics(model, region_statistics(model, bare(w.real).subset(kept), progress=False), 1))
        for text, pool in (('7', seven), ('the other 18', w.hazy_real)):
            if not len(pool := clear_patches(bare(pool))): continue
            stats = ground_statistics(model, pool)
            for k, v in (('half', .5), ('whole', 1)): note(f'statistics of {text}, {k}', with_statistics(model, stats, v))
            note(f'statistics of {text}, as adapt_to_region has it', adapt_to_region(model, pool, progress=False)[0])
    order = [k for out in folds(w.real.ns) for k, n in enumerate(w.real.ns) if n in out]
    for method, p in probs.items(): rows.add(**name, method=method, **scored(np.concatenate(p), w.real.subset(order).y))


def trust_rows(w, rows, domain, b):
    "How well each kind of uncertainty ranks errors, of a base as it is and with the statistics of the region; passes drop p = .3"
    set_name, pool, truth = w.domains[domain]
    y = np.stack([*truth.y])
    for when in ('source', 'whole'):
        for kind in [o for o in UNCERTAINTIES if o != 'members']:
            name = dict(domain=domain, base=b, method=f'trust, {when}: {kind}', seed=w.seed)
            if rows.has(**name): continue
            model = w.base(set_name, b)
            if when == 'whole': model = with_statistics(model, ground_statistics(model, clear_patches(bare(pool))), 1)
            prob, unc = query_teacher(model, unlabelled_dl(truth, device=w.device), seed=w.seed, progress=False, uncertainty=kind)
            pred = (prob > .5).astype(np.uint8)
            labels = np.stack([*select_class_balanced(pred, unc, (.9, .7))[0]])
            slide, rest = labels == 1, labels == 0
            area = [float(np.trapezoid(*risk_coverage(unc[pred == c], y[pred == c] != c)[::-1])) if (pred == c).any() else None for c in (0, 1)]
            mean = query_teacher(model, unlabelled_dl(truth, device=w.device), seed=w.seed, progress=False, uncertainty=kind,
                answer='mean')[0] if kind in ('logits', 'symmetries') else prob
            rows.add(**name, kept_precision=round(100*float(y[slide].mean()), 2) if slide.any() else None,
                all_precision=round(100*float(y[pred == 1].mean()), 2),
                     kept_background=round(100*float(y[rest].mean()), 3), all_background=round(100*float(y[pred == 0].mean()), 3),
                     aurc=[o and round(100*o, 3) for o in area], mean_f1=scored(mean, y)['f1'])


ON = dict(iters=200, lr=.005, every=50)
SYMMETRIES = dict(uncertainty='symmetries', answer='mean')
# name -> fields of a student's stage; where `on` says 'whole', teacher and start have the whole statistics of the region
STUDENTS = {'control': dict(teacher=None), 'symmetries': SYMMETRIES, 'symmetries, on whole': dict(SYMMETRIES, on='whole'), 'logits': dict(),
    'margin': dict(uncertainty='margin'),
            'logits, on whole': dict(on='whole'), 'control, on whole': dict(teacher=None, on='whole'),
                'margin, on whole': dict(uncertainty='margin', on='whole'),
            'symmetries, teacher alone on whole': dict(SYMMETRIES, on='teacher'), 'all pixels, on whole': dict(SYMMETRIES, on='whole', keep=(1., 1.)),
            '70/70, on whole': dict(SYMMETRIES, on='whole', keep=(.7, .7)), '50/50, on whole': dict(SYMMETRIES, on='whole', keep=(.5, .5)),
            '90/90, on whole': dict(SYMMETRIES, on='whole', keep=(.9, .9)), '100/70, on whole': dict(SYMMETRIES, on='whole', keep=(1., .7)),
            'no mix-up, on whole': dict(SYMMETRIES, on='whole', alpha=0.),
            'three times as long, on whole': dict(SYMMETRIES, on='whole', iters=600, every=150), 'control, three times as long': dict(teacher=None,
                iters=600, every=150),
            'twice as long, on whole': dict(SYMMETRIES, on='whole', iters=400, every=100),
            'twice the weight, on whole': dict(SYMMETRIES, on='whole', weight=2.)}

TAKEN_OUT = 'second round, on whole', 'halves apart, on whole', 'running average, on whole' # measured, and not in the library any more


def student_rows(w, rows, domain, b, method):
    "A student of a domain's pseudo labels, or of labels alone for as long; as it is, and with the region's statistics after"
    set_name, pool, truth = w.domains[domain]
    name = dict(domain=domain, base=b, seed=w.seed)
    if rows.has(**name, method=f'{method}, statistics after'): return
    base, pool = w.base(set_name, b), bare(pool)
    adapted = with_statistics(base, ground_statistics(base, clear_patches(pool)), 1)
    fields = {'teacher': 'teacher', **ON, **{k: v for k, v in BASES[b][0].items() if k in ('arch', 'backbone', 'radiometry')}, **STUDENTS[method]}
    on = fields.pop('on', '')
    models = dict(teacher=adapted if on else base, base=adapted if on == 'whole' else base)
    fields.update(init='base', unlabelled=('test',) if fields['teacher'] else ())
    began = time.perf_counter()
    where = domain if fields['teacher'] or on else '' # labels alone are the same for all domains of a base
    model = w.model(set_name, f'{where} {b} {method}', dict(train=w.sets[set_name](), test=pool), models=models, **fields)
    score = lambda m: scored(predict_split(m, truth), truth.y)
    rows.add(**name, method=method, **score(model), seconds=round(time.perf_counter() - began))
    rows.add(**name, method=f'{method}, eight symmetries', **score(Symmetric(model)))
    rows.add(**name, method=f'{method}, statistics after', **score(with_statistics(model, ground_statistics(model, clear_patches(pool)), 1)))


def ceiling_rows(w, rows, domain, b):
    "What labels of the region itself would give: a base fine-tuned on half of its patches, as long as a student, scored on the other, in turn"
    set_name, _, truth = w.domains[domain]
    name = dict(domain=domain, base=b, seed=w.seed, method='ceiling, labels of half of the region')
    if rows.has(**name): return
    half = len(truth) // 2
    halves = [truth.subset(range(half)), truth.subset(range(half, len(truth)))] # neighbours on the ground are neighbours in number
    probs = []
    for i, (learn, score) in enumerate((halves, halves[::-1])):
        model = w.model(set_name, f'{domain} {b} ceiling {i}', dict(train=learn), models=dict(base=w.base(set_name, b)), init='base', **ON)
        probs.append(predict_split(model, score))
    rows.add(**name, **scored(np.concatenate(probs[::-1]), truth.y))


def decided_rows(w, rows, domain, b):
    "A base adapted as far as `adapt_to_region` decides"
    set_name, pool, truth = w.domains[domain]
    name = dict(domain=domain, base=b, seed=w.seed, method='statistics, as decided')
    if rows.has(**name): return
    model, how = adapt_to_region(w.base(set_name, b), bare(pool), progress=False)
    rows.add(**name, **scored(predict_split(model, truth), truth.y), weight=how.weight, outcome=how.outcome, moved=how.moved, noise=how.noise)


class Rows:
    KEY = 'domain', 'base', 'method', 'seed'

    def __init__(self, path):
        self.path = path
        self.rows = [json.loads(o) for o in path.read_text().splitlines()] if path.exists() else []
        self.known = {tuple(r[k] for k in self.KEY) for r in self.rows}

    def has(self, **row): return tuple(row[k] for k in self.KEY) in self.known

    def add(self, **row):
        if self.has(**row): return
        self.rows.append(row)
        self.known.add(tuple(row[k] for k in self.KEY))
        with open(self.path, 'a') as f: f.write(json.dumps(row) + '\n')
        print(*(f'{k}={v}' for k, v in row.items() if v is not None), flush=True)


MAIN = 'Hokkaido', 'Nepal', 'Taiwan block 1', 'Taiwan block 2', 'Taiwan block 3', 'synthetic unseen', 'synthetic held out'


TAUGHT = 'Hokkaido', 'Nepal', 'Taiwan', 'Taiwan block 1', 'synthetic unseen', 'Hokkaido, from thin', 'Nepal, from thin'


def jobs(w, rows):
    "All work of a world: (name, function), what much depends on first"
    res = []
    def add(f, domain, *args): res.append((' / '.join((f.__name__, domain, *args)), lambda: f(w, rows, domain, *args)))
    for b in BASES:
        for d in w.domains:
            if b in ('none', 'as before') or d in MAIN: add(base_rows, d, b)
    for d in w.domains: add(decided_rows, d, 'none')
    for d in (*MAIN, 'Taiwan', 'real 14 bands'):
        if d in w.domains: add(trust_rows, d, 'none')
    for b, start in (('none', 'scratch'), ('as before', 'scratch'), ('none', 'none')): add(few_rows, 'real 14 bands, few labels', b, start)
    for d in TAUGHT:
        if d in w.domains and 'from thin' not in d: add(ceiling_rows, d, 'none')
    for m in STUDENTS:
        for d in TAUGHT:
            for b in ('none', 'none, radiometry'): add(student_rows, d, b, m)
    return res


def means(rows):
    "Rows of the same domain, base and method as one: figures averaged over the seeds"
    groups = {}
    for r in rows: groups.setdefault((r['domain'], r['base'], r['method']), []).append(r)
    return {k: {**{f: float(np.mean([r[f] for r in rs])) for f in rs[0] if isinstance(rs[0][f], (int,
        float)) and all(r.get(f) is not None for r in rs)},
                'seeds': len(rs), 'worst': min(r.get('f1', 0) for r in rs)} for k, rs in groups.items()}


def cell(r, key='f1'): return '' if r is None else f'{r[key]:.1f} ({r["best"]:.1f})'


def grid(title, head, lines):
    "A table with its heading and text, nothing where there are no lines"
    if not lines: return []
    row = lambda o: f'| {" | ".join(map(str, o))} |'
    return [f'## {title}', '', TEXTS[title], '', row(head), '|---'*len(head) + '|', *map(row, lines), '']


def tables(rows):
    "All tables of the rows that there are, as lines of Markdown"
    m = means(rows)
    domains = [*dict.fromkeys(r['domain'] for r in rows)]
    at = lambda d, b, how: m.get((d, b, how))
    bases = [b for b in BASES if any((d, b, 'source') in m for d in domains)]
    repair = [(d, b, f'{r["first"]:.2f}, {r["lowest"]:.2f} to {r["highest"]:.2f}', cell(r), cell(at(d, b, 're-estimated')), cell(at(d, b,
        'statistics, whole')), r['seeds'])
              for d in domains if not d[-1].isdigit() or d.startswith('Taiwan block') and ',' not in d for b in bases if (r := at(d, b, 'source'))]
    ways = 'source', 'statistics, quarter', 'statistics, half', 'statistics, whole', 'statistics, as decided', 'source, eight symmetries'
    adapted = [(d, *(cell(at(d, 'none', o)) for o in ways), f'{r["share"]:.2f} / {w["share"]:.2f} / {r["true"]:.2f}',
        f'{r["auto"]:.1f} / {w["auto"]:.1f}' if 'auto' in r and 'auto' in w else '', r['seeds'])
               for d in domains if (r := at(d, 'none', 'source')) and (w := at(d, 'none', 'statistics, whole'))]
    taught = [d for d in domains if any((d, 'none', o) in m for o in STUDENTS)]
    students = [(o, *(f'{cell(r)}, after {a["f1"]:.1f}' + ', 1 seed'*(r['seeds'] < 2) if (r := at(d, 'none', o)) and (a := at(d, 'none',
        f'{o}, statistics after')) else '' for d in taught)) for o in (*STUDENTS, *TAKEN_OUT)
                if any((d, 'none', o) in m for d in taught)]
    both = lambda o: (f'({o})', *(cell(at(d, 'none', o)) for d in taught))
    if students: students = [both('source'), both('statistics, whole'), *students, both('ceiling, labels of half of the region')]
    few = [(b, o, cell(r), r['seeds']) for (d, b, o), r in m.items() if d == 'real 14 bands, few labels']
    trust = {}
    for r in rows:
        if 'aurc' in r: trust.setdefault((r['domain'], r['method']), []).append(r)
    mean = lambda rs, f, k: '' if not (v := [f(r) for r in rs if f(r) is not None]) else f'{np.mean(v):.{k}f}'
    trust = [(d, o.removeprefix('trust, '), mean(rs, lambda r: r['kept_precision'], 1), mean(rs, lambda r: r['all_precision'], 1), mean(rs,
        lambda r: r['kept_background'], 2),
              mean(rs, lambda r: r['all_background'], 2), mean(rs, lambda r: r['aurc'][1], 1), mean(rs, lambda r: r['aurc'][0], 2), mean(rs,
                  lambda r: r['mean_f1'], 1), len(rs)) for (d, o), rs in trust.items()]
    return [*grid('Dropout in training', ('domain', 'training', 'variance', 'F1', 're-estimated', 'statistics of the region', 'seeds'), repair),
            *grid('Batch-norm adaptation', ('domain', 'source', 'weight .25', 'weight .5', 'weight 1', 'as decided',
                                            'source, eight symmetries',
                                            'shares, %', 'expected-F1 threshold', 'seeds'), adapted),
            *grid('Self-training', ('student', *taught), students),
            *grid('Fourteen real patches', ('base', 'method', 'F1', 'seeds'), few),
            *grid('Which uncertainty to trust', ('domain', 'model: uncertainty', 'precision of kept landslide', 'of all',
                                                 'landslide in kept background, %', 'in all',
                                                 'area under risk-coverage, landslide', 'background', 'F1 of the mean', 'seeds'), trust)]


TEXTS = {
    'Dropout in training': """How a base was trained, the variance that its batch norms see over what they remember (the first; lowest and highest
median of a layer), F1 as it is, with statistics measured again on its own training patches, and with those of the region.""",
    'Batch-norm adaptation': """Bases that drop nothing in training; a number behind a domain is the size of the unlabelled pool. Shares of landslide
pixels: source / statistics / true; last but one, F1 at the threshold of the largest expected F1, of the source and with the statistics.""",
    'Self-training': """Students of 200 further iterations, lr .005. *on whole*: teacher and student start with the statistics of the region; *after*:
F1 with the region's statistics in the finished student. The control learns from labels alone, for as long. Numbers: shares kept of
background and landslide, .9 and .7 unless named; ceiling: fine-tuned as long on labels of half of the region, scored on the other half. The
second round (labels made anew by the student after 200 of 400 iterations) and halves apart (batch statistics for each half of a batch) are not
in the library any more.""",
    'Fourteen real patches': 'Groups of the 14 real fourteen-band patches left out in turn, 300 iterations.',
    'Which uncertainty to trust': 'Of bases that drop nothing in training; the passes drop p = .3 all the same.'}


ABOUT = """# What adapting is worth

Made by `make regions`, that is `python bench/regions.py`. F1 in percent of the landslide class, pixels pooled, at threshold 0.5; in brackets at the
best threshold. Small models: ResNet-10t under DeepLabV3+, 128 pixels, batches of 8, 500 iterations, lr .02; means over the seeds. `Hokkaido`,
`Nepal` and `Taiwan` are real regions in three bands (the other eleven stand at the benchmark's mean), mapped by models of the other two; `home
block` is one of three blocks of 60 patches of Taiwan held out of a model of all three regions; `synthetic` is the library's own world in fourteen
bands; `real 14 bands` are fourteen real patches mapped by models of synthetic ones. The real patches carry no claim about the benchmark. The rows
of `synthetic` and `real 14 bands` are of the former synthetic world, whose terrain was fractal noise.
"""


WORLDS = {}


def worker(args, seed, name):
    "One job; its fault is shown, and another job goes on"
    torch.set_num_threads(args.threads)
    w = WORLDS.setdefault(seed, World(seed, args.out, args.data, args.device))
    todo = dict(jobs(w, Rows(args.rows)))
    if name is None: return [*todo]
    try: todo[name]()
    except Exception:
        print(f'{name}, seed {seed}:', flush=True)
        traceback.print_exc()
        return 1
    return 0


def measure(args):
    "All jobs, in this process or in several; how many failed"
    wanted = lambda n: not args.only or any(all(word in f'{n}$' for word in o.split('+')) for o in args.only)
    pool = get_context('spawn').Pool(args.jobs, maxtasksperchild=None) if args.jobs > 1 else None
    names = worker(args, args.seeds[0], None)
    todo = [(args, s, n) for n in names if wanted(n) for s in args.seeds]
    if args.list: return print(*(f'{n}, seed {s}' for _, s, n in todo), sep='\n') or 0
    return sum(pool.starmap(worker, todo, 1) if pool else (worker(*o) for o in todo))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=Path('regions'), help='folder for worlds and models')
    p.add_argument('--seeds', type=int, nargs='*', default=[0, 1])
    p.add_argument('--only', nargs='*', help='jobs whose names hold one of these; A+B needs both, $ is the end')
    p.add_argument('--jobs', type=int, default=1, help='processes')
    p.add_argument('--threads', type=int, default=os.cpu_count(), help='of each process')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--data', type=Path, default=DATA, help='folder of the real patches')
    p.add_argument('--rows', type=Path, default=ROWS, help='file of the rows, read and added to')
    p.add_argument('--list', action='store_true', help='show the jobs, measure nothing')
    p.add_argument('--table', action='store_true', help='make the tables of the rows that there are, measure nothing')
    args = p.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    failed = 0 if args.table else measure(args)
    if args.list: return
    text = '\n'.join([ABOUT, *tables(Rows(args.rows).rows)])
    with atomic_path(Path(__file__).with_name('REGIONS.md')) as tmp: tmp.write_text(text, encoding='utf-8')
    if failed: sys.exit(f'{failed} jobs failed')


if __name__ == '__main__': main()
