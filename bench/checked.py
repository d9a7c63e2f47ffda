"""What twenty corrections are worth: a map, somebody who checks some of its polygons, the model taught by them, and the map again.

    python bench/checked.py --out FOLDER       scenes 21 22 23, with 10, 20 and 40 corrections; a row at a time, so a run that was killed goes on
    python bench/checked.py --table            only the table, of the rows that there are

Processes for several `--seeds` or `--corrections` may run side by side.

The person is made up and works in the western half of the scene: three tenths of the corrections are landslides of the truth that the
map missed (less than a fifth of them is mapped), the others polygons of the map, drawn by chance, which are right where most of their
pixels are. What is
smaller than four pixels nobody looks at. Rows go to bench/checked.jsonl, the table to bench/CHECKED.md.
"""
import argparse
import json
import os
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.features
import shapely
import torch

from landslide_nb.predict.maps import score_masks
from landslide_nb.scene.adapt import adapt
from landslide_nb.scene.checked import adapt_checked, write_checked
from landslide_nb.scene.map import map_scene
from landslide_nb.scene.reader import Scene
from landslide_nb.scene.synthetic import write_scene

HERE = Path(__file__).parent
ROWS = HERE/'checked.jsonl'


def read(path):
    with rasterio.open(path) as src: return src.read(1)


def outlines(mask, transform, crs):
    "The connected landslides of a mask, of four pixels or more"
    found = [shapely.geometry.shape(g) for g, v in rasterio.features.shapes(mask, transform=transform) if v == 1]
    frame = gpd.GeoDataFrame(geometry=found, crs=crs)
    return frame[frame.area >= 400].reset_index(drop=True)


def share(shape, mask, transform):
    "Which share of a polygon is landslide in a mask"
    inside = rasterio.features.geometry_mask([shape], mask.shape, transform, invert=True)
    return float((mask[inside] == 1).mean())


def check(folder, n, seed):
    "What a person makes of n polygons of the western half: a checked map, and how many were right, wrong and drawn"
    with rasterio.open(folder/'truth.tif') as src: truth, transform, crs, middle = src.read(1), src.transform, src.crs, src.bounds.left + src.width*5
    west = lambda o: o[o.bounds.maxx <= middle]
    mask, polygons, rng = read(folder/'MAP/mask.tif'), gpd.read_file(folder/'MAP/landslides.gpkg'), np.random.default_rng(seed)
    seen = west(polygons[polygons.area_m2 >= 400])
    missed = west(outlines(truth, transform, crs))
    missed = missed[[share(o, mask, transform) < .2 for o in missed.geometry]]
    drawn = missed.iloc[rng.permutation(len(missed))[:round(.3*n)]]
    looked = seen.iloc[rng.permutation(len(seen))[:n - len(drawn)]].index
    said = ['right' if share(o, truth, transform) > .5 else 'wrong' for o in polygons.geometry[looked]]
    frame = polygons.assign(checked=pd.Series(said, looked, dtype=object).reindex(polygons.index).where(lambda o: o.notna(), None))
    file = folder/f'checked_{n}.gpkg' # a run that goes on asks for the very file
    if not file.exists(): write_checked(file, pd.concat([frame, drawn.assign(checked='right')]) if len(drawn) else frame)
    return dict(right=said.count('right'), wrong=said.count('wrong'), drawn=len(drawn))


def scored(mask, truth):
    "Scores of the whole scene, and of its eastern half, in which nobody corrected anything"
    half = truth.shape[1] // 2
    parts = dict(all=(mask, truth), east=(mask[:, half:], truth[:, half:]))
    return {k: {m: round(100*v, 2) for m, v in score_masks([p], [t]).items()} for k, (p, t) in parts.items()}


def remap(folder, name, **kwargs):
    "The map of a model that was taught, scored"
    scene = Scene(folder/'scene.tif', folder/'dem.tif')
    if not (folder/f'map_{name}/map.json').exists(): map_scene(folder/name, scene, folder/f'map_{name}', progress=False, **kwargs)
    return scored(read(folder/f'map_{name}/mask.tif'), read(folder/'truth.tif'))


def rows_of(seed, ns, out, size, control=True):
    "Rows of a scene, as they are measured"
    folder = out/f'scene_{seed}'
    if not (folder/'scene.tif').exists(): write_scene(folder, size, seed)
    scene = Scene(folder/'scene.tif', folder/'dem.tif')
    if not (folder/'MAP/map.json').exists(): map_scene('starter', scene, folder/'MAP', polygons='gpkg', progress=False)
    yield dict(seed=seed, size=size, what='before', **scored(read(folder/'MAP/mask.tif'), read(folder/'truth.tif')))
    for n in ns:
        made, start = check(folder, n, seed), time.perf_counter()
        if not (folder/f'new_{n}/adapt.json').exists():
            resume = (folder/f'new_{n}/run.json').exists()
            adapt_checked('starter', scene, folder/f'new_{n}', folder/f'checked_{n}.gpkg', progress=False, resume=resume)
        yield dict(seed=seed, size=size, what='checked', n=n, **made, seconds=round(time.perf_counter() - start), **remap(folder, f'new_{n}'))
    if not control: return
    if not (folder/'alone/adapt.json').exists():
        adapt('starter', scene, folder/'alone', iters=60, lr=.001, bs=8, progress=False, resume=(folder/'alone/run.json').exists())
    yield dict(seed=seed, size=size, what='alone', **remap(folder, 'alone'))


def table(rows):
    "Markdown"
    f = lambda s: f'{s["precision"]:.1f} / {s["recall"]:.1f} / **{s["f1"]:.1f}**'
    lines = ['| scene | corrections | right, wrong, drawn | whole scene | half without corrections |', '|---|---|---|---|---|']
    for r in sorted(rows, key=lambda r: (r['seed'], ['before', 'alone', 'checked'].index(r['what']), r.get('n', 0))):
        name = dict(before='none: the starter, by its statistics', alone='none: as long on its own labels').get(r['what'], str(r.get('n')))
        made = f'{r["right"]}, {r["wrong"]}, {r["drawn"]}' if r['what'] == 'checked' else ''
        lines.append(f'| {r["seed"]} | {name} | {made} | {f(r["all"])} | {f(r["east"])} |')
    return '\n'.join(lines)


def means(rows):
    "Mean F1 over the scenes that have every row"
    kinds = sorted({(r['what'], r.get('n', 0)) for r in rows}, key=lambda o: (['before', 'alone', 'checked'].index(o[0]), o[1]))
    by = {k: {r['seed']: r for r in rows if (r['what'], r.get('n', 0)) == k} for k in kinds}
    whole = set.intersection(*(set(o) for o in by.values()))
    lines = ['| mean F1 of ' + str(len(whole)) + ' scenes | whole scene | half without corrections |', '|---|---|---|']
    for (what, n), o in by.items():
        if whole: lines.append(f'| {dict(before="before", alone="as long on its own labels").get(what, f"{n} corrections")} | '
                               + ' | '.join(f'{np.mean([o[s][k]["f1"] for s in whole]):.1f}' for k in ('all', 'east')) + ' |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', nargs='+', type=int, default=(21, 22, 23))
    parser.add_argument('--corrections', nargs='+', type=int, default=(10, 20, 40))
    parser.add_argument('--size', type=int, default=1024)
    parser.add_argument('--out', type=Path, default=Path('checked_bench'))
    parser.add_argument('--no-control', action='store_true', help='without the model that teaches itself as long')
    parser.add_argument('--table', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', torch.get_num_threads())))
    known = [json.loads(o) for o in ROWS.read_text().splitlines()] if ROWS.exists() else []
    have = {(r['seed'], r['what'], r.get('n')) for r in known}
    for seed in () if args.table else args.seeds:
        for r in rows_of(seed, args.corrections, args.out, args.size, not args.no_control):
            print(json.dumps(r), flush=True)
            if (r['seed'], r['what'], r.get('n')) in have: continue
            with open(ROWS, 'a') as f: f.write(json.dumps(r) + '\n')
    rows = [json.loads(o) for o in ROWS.read_text().splitlines()]
    page = HERE/'CHECKED.md'
    text = page.read_text(encoding='utf-8') if page.exists() else '# A checked map\n\n<!-- table -->\n<!-- end -->\n'
    head, rest = text.split('<!-- table -->')
    page.write_text(f'{head}<!-- table -->\n{means(rows)}\n\n{table(rows)}\n<!-- end -->{rest.split("<!-- end -->")[1]}', encoding='utf-8')


if __name__ == '__main__': main()
