"""What adapting is worth, region by region: ingredients and their combinations against domains, row after row.

Every row is written to the file ROWS (bench/regions.jsonl) as it is measured and every model is kept under OUT, so a run that was killed goes
on, elsewhere too. `--seeds` names the worlds (0 1 2 to choose on, 100 to 104 to report on), `--only` takes the rows of some domains. At the
end bench/REGIONS.md is made of all rows that there are; `--table` does nothing else. The real patches are read where they stand, beside the
checkout; without them the rows about them are left out.
"""
import argparse
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from landslide_nb.core.files import atomic_path
from landslide_nb.data.landscape import LABELLED, UNSEEN
from landslide_nb.data.store import Split, read_split
from landslide_nb.data.synth import synth_patch
from landslide_nb.model.files import load_for_patches
from landslide_nb.model.members import Symmetric
from landslide_nb.predict.probabilities import evaluate
from landslide_nb.predict.region import adapt_to_region
from landslide_nb.predict.statistics import blended, region_statistics
from landslide_nb.train.recipe import Stage
from landslide_nb.train.stage import train_stage

REAL = Path(__file__).parents[2]/'shared/data/l4s_real'
SMALL = dict(backbone='resnet10t', size=128, bs=8, every=100, lr=.02)
BASES = dict(plain=dict(iters=300), longer=dict(iters=900), suns=dict(iters=900, radiometry=.5)) # Model 1, as long as the third, and that
ON = dict(init='base', iters=200, lr=.005, every=50, unlabelled=('test',))
TAUGHT = {'self-training, as in the paper': dict(), 'statistics, then self-training': dict(region=True),
          'the same, 50/50': dict(region=True, keep=(.5, .5)), 'the same, halves apart': dict(region=True, separate=True),
          'the same, by margin': dict(region=True, uncertainty='margin'), 'the same, by symmetries': dict(region=True, uncertainty='symmetries'),
          'the same, mean teacher': dict(region=True, refresh=2, from_student=True, average=.98),
          'as long on labels alone': dict(teacher=None, unlabelled=()),
          'as long on labels alone, then statistics': dict(teacher=None, region=True)}
FOLDS = [{1, 2, 3}, {27, 28}, {40, 41}] # neighbours on the ground; the others are dealt to four folds
ROWS = Path(__file__).with_name('regions.jsonl')


def patches(region, seeds):
    xs, ys = zip(*(synth_patch(region, s) for s in seeds))
    return Split(np.stack(xs), np.stack(ys), [*range(1, len(xs) + 1)])


def seeds(world, part, n): return [np.random.SeedSequence((world, part, i)) for i in range(1, n + 1)]


def bare(split): return Split(split.x, None, split.ns)


def greenness(split): return ((split.x[:, 7] - split.x[:, 3]) / (split.x[:, 7] + split.x[:, 3])).mean((1, 2))


def flooded(split):
    "A lake over the lower half of every patch: water is dark, and darker with wavelength; no landslide lies under it"
    x, y = (np.array(o) for o in split.gather([*range(len(split))]))
    lake = x[:, 13] < np.median(x[:, 13], (1, 2), keepdims=True)
    water = np.array([1.0, .85, .65, .45, .25, .08, .06, .06, .04, 1, .02, .02], np.float32)
    x[:, :12] = np.where(lake[:, None], water[:, None, None] * x[:, :12].min((2, 3), keepdims=True), x[:, :12])
    x[:, 12], y = np.where(lake, 0, x[:, 12]), np.where(lake, 0, y)
    return Split(x, y.astype(np.uint8), split.ns)


@dataclass
class World:
    seed: int
    out: Path

    @cached_property
    def train(self): return patches(LABELLED, seeds(self.seed, 0, 160))
    @cached_property
    def unseen(self): return patches(UNSEEN, seeds(self.seed, 1, 48) + seeds(self.seed, 2, 48))
    @cached_property
    def home(self): return patches(LABELLED, seeds(self.seed, 3, 240))
    @cached_property
    def scaling(self): return self.train.measure_scaling()

    def model(self, name, data, **fields):
        "A trained model, from its folder where that is there"
        folder = self.out/f'{self.seed}'/name.replace(' ', '_').replace(',', '').replace('/', '-')
        if not (folder/'model.json').exists():
            models = {'base': fields.pop('start')} if 'start' in fields else {}
            train_stage(Stage(**{'name': 'base', **SMALL, **fields}), data, self.scaling, models, folder, self.seed, progress=False,
                        resume=(folder/'checkpoint.pt').exists())
        fields.pop('start', None)
        return load_for_patches(folder)[0]

    def base(self, name): return self.model(name, dict(train=self.train), **BASES[name])


def domains(w):
    "name -> (unlabelled pool, patches to score)"
    order, region = np.argsort(greenness(w.home)), w.unseen
    dry = patches(replace(UNSEEN, forest=.05, greenness=.1), seeds(w.seed, 4, 40))
    hazy = patches(replace(UNSEEN, haze=1.2), seeds(w.seed, 5, 40))
    few = w.home.subset(range(60))
    res = {'a unseen': (region, region), **{f'a unseen, {n} patches': (region.subset(range(n)), region) for n in (3, 8)},
           'd home, the barest': (w.home.subset(np.sort(order[:60])),)*2, 'd home, the greenest': (w.home.subset(np.sort(order[-60:])),)*2,
           'd unseen, bare': (dry, dry), 'd unseen, murky': (hazy, hazy), 'd unseen, lakes': (flooded(region.subset(range(40))),)*2,
           **{f'e home, {n} patches': (few.subset(range(n)), few) for n in (7, 20, 60)}}
    if REAL.is_dir():
        real, other = (read_split(REAL, s, progress=False) for s in ('train', 'test'))
        res |= {'b real, 14': (real, real), 'b real, other 18': (other, real), 'b real, all 32': (bare(real) + bare(other), real)}
    return res


def statistics(model, pool, w):
    "name -> model"
    pool = bare(pool)
    guarded, how = adapt_to_region(model, pool, w.scaling, progress=False)
    stats = region_statistics(model, pool, w.scaling, progress=False)
    yield 'source', model, {}
    yield 'statistics, whole', blended(model, stats, 1), {}
    yield 'statistics, half', blended(model, stats, .5), {}
    yield 'statistics', guarded, dict(weight=how.weight, outcome=how.outcome, share=how.share)
    yield 'statistics, eight symmetries', Symmetric(guarded), {}


def score(model, split, w):
    s = evaluate(model, split, w.scaling)
    return {k: round(100*s[k], 2) for k in ('precision', 'recall', 'f1')}


class Rows:
    def __init__(self, path):
        self.path = path
        self.rows = [json.loads(o) for o in self.path.read_text().splitlines()] if self.path.exists() else []
        self.known = {self.key(r) for r in self.rows}

    @staticmethod
    def key(r): return r['domain'], r['base'], r['method'], r['seed']

    def add(self, **row):
        self.rows.append(row)
        self.known.add(self.key(row))
        with open(self.path, 'a') as f: f.write(json.dumps(row) + '\n')
        print({k: v for k, v in row.items() if v is not None}, flush=True)


def world_rows(w, rows, only):
    for domain, (pool, truth) in domains(w).items():
        if only and domain[0] not in only: continue
        for b in BASES:
            if (domain, b, 'statistics, eight symmetries', w.seed) in rows.known: continue
            for method, model, more in statistics(w.base(b), pool, w):
                if (domain, b, method, w.seed) in rows.known: continue
                rows.add(domain=domain, base=b, method=method, seed=w.seed, **score(model, truth, w), **more)


def taught_rows(w, rows, only):
    "Students of the domains' pseudo labels, or of labels alone for as long"
    for domain, (pool, truth) in domains(w).items():
        if domain not in ('a unseen', 'b real, 14', 'e home, 60 patches') or only and domain[0] not in only: continue
        for b in ('suns', 'plain'):
            for method, fields in TAUGHT.items():
                if (domain, b, method, w.seed) in rows.known: continue
                fields, start = {'teacher': 'base', **ON, **fields, 'radiometry': BASES[b].get('radiometry', 0.)}, w.base(b)
                began = time.perf_counter()
                model = w.model(f'{domain} {b} {method}', dict(train=w.train, test=bare(pool)), start=start, **fields)
                rows.add(domain=domain, base=b, method=method, seed=w.seed, **score(model, truth, w), seconds=round(time.perf_counter() - began))


def folds(ns):
    "Four groups of patch numbers, neighbours together"
    alone, res = [n for n in ns if not any(n in o for o in FOLDS)], [set(o) for o in FOLDS] + [set()]
    for n in alone: min(res, key=len).add(n)
    return res


def few_labels(w, rows):
    "Groups of the real patches left out in turn: learned from scratch, and from weights of the synthetic world"
    if not REAL.is_dir(): return
    real, other = (read_split(REAL, s, progress=False) for s in ('train', 'test'))
    for method, start in (('from scratch', None), ('from plain', 'plain'), ('from suns', 'suns')):
        for after in ('', ', statistics of 7', ', statistics of the other 18'):
            if ('c real, few labels', method, 'source' + after, w.seed) in rows.known: continue
            counts = np.zeros(3)
            for i, out in enumerate(folds(real.ns)):
                held = [k for k, n in enumerate(real.ns) if n in out]
                kept = real.subset([k for k in range(len(real)) if k not in held])
                fields = dict(start=w.base(start), init='base', lr=.01) if start else {}
                model = w.model(f'c {method} fold {i}', dict(train=kept), iters=300, radiometry=.5 if start == 'suns' else 0., **fields)
                seven = bare(real).subset((held + [k for k in range(len(real)) if k not in held])[:7])
                pool = {'': None, ', statistics of 7': seven, ', statistics of the other 18': other}[after]
                if pool is not None: model = adapt_to_region(model, pool, w.scaling, progress=False)[0]
                s, slides = evaluate(model, real.subset(held), w.scaling), (np.asarray(real.gather(held)[1]) == 1).sum()
                hit = s['recall'] * slides
                counts += (hit, hit / s['precision'] if s['precision'] else 0., slides)
            p, r = counts[0] / max(counts[1], 1), counts[0] / counts[2]
            s = dict(precision=p, recall=r, f1=2*p*r / max(p + r, 1e-9))
            rows.add(domain='c real, few labels', base=method, method='source' + after, seed=w.seed,
                     **{k: round(100*v, 2) for k, v in s.items()})


def table(rows, chosen, title):
    "Mean, spread and worst F1 of each domain, base and method"
    groups = {}
    for r in rows:
        if r['seed'] in chosen: groups.setdefault((r['domain'], r['base'], r['method']), []).append(r)
    if not groups: return []
    head = 'domain | base | method | P | R | F1, mean ± sd | worst | of seeds | weight'
    lines = [f'## {title}', '', f'| {head} |', '|---'*9 + '|']
    for (d, b, m), rs in groups.items():
        f = [r['f1'] for r in rs]
        sd = f' ± {np.std(f, ddof=1):.1f}' if len(f) > 1 else ''
        weight = f'{np.mean([r["weight"] for r in rs]):.2f}' if 'weight' in rs[0] else ''
        lines.append(f'| {d} | {b} | {m} | {np.mean([r["precision"] for r in rs]):.0f} | {np.mean([r["recall"] for r in rs]):.0f} | '
                     f'{np.mean(f):.1f}{sd} | {min(f):.1f} | {" ".join(str(r["seed"]) for r in rs)} | {weight} |')
    return lines + ['']


ABOUT = """# What adapting is worth

Made by `make regions`, that is `python bench/regions.py`. F1 in percent of the landslide class, pixels pooled, threshold 0.5. Small models
(ResNet-10t under DeepLabV3+, 128 pixels, 160 synthetic labelled patches), one set a seed: `plain` is trained for 300 iterations, `longer` for
900, `suns` for 900 with `Radiometry(p=.5)`. Domains: (a) the synthetic unseen region; (b) models of synthetic patches alone on 14 real
patches, with several pools of unlabelled ones; (c) few real labels, groups left out in turn; (d) other compositions; (e) no shift at all.
`statistics` goes as far as `adapt_to_region` decides, which is the weight in the last column; `whole` and `half` always go. Fourteen real
patches carry no claim about the benchmark.
"""


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=Path('regions'), help='folder for models and rows')
    p.add_argument('--seeds', type=int, nargs='*', default=[0, 1, 2])
    p.add_argument('--only', default='', help='letters of the domains to measure, such as ae')
    p.add_argument('--threads', type=int, default=os.cpu_count())
    p.add_argument('--rows', type=Path, default=ROWS, help='file of the rows, read and added to')
    p.add_argument('--table', action='store_true', help='make the tables of the rows that there are, measure nothing')
    p.add_argument('--fresh', action='store_true', help='forget what was measured')
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
        args.rows.unlink(missing_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = Rows(args.rows)
    worlds = [] if args.table else [World(s, args.out) for s in args.seeds]
    for w in worlds:
        world_rows(w, rows, args.only)
        if not args.only or 'c' in args.only: few_labels(w, rows)
        taught_rows(w, rows, args.only)
    lines = table(rows.rows, range(100), 'Seeds that choices were made on') + table(rows.rows, range(100, 200), 'Seeds that nothing was chosen on')
    with atomic_path(Path(__file__).with_name('REGIONS.md')) as tmp: tmp.write_text(ABOUT + '\n' + '\n'.join(lines), encoding='utf-8')


if __name__ == '__main__': main()
