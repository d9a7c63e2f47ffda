"""Map a generated scene of the size of a Sentinel-2 tile and write bench/SCENE.md: memory, and where the time goes.

    python bench/scene.py            2745 and 10 980 pixels a side
    python bench/scene.py --sides 2745

The scene is a synthetic one laid out over and over, mirrored, with noise of its own everywhere: thirteen bands of uint16 in a tiled, compressed
GeoTIFF, and an elevation model of 30 m in degrees, which has to be reprojected. The model is the paper's first (DeepLabV3+ on ResNet-50) with random
weights: what it says does not matter here, what it costs does. The threshold is set so that about one pixel in a hundred becomes landslide.
"""
import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.warp import Resampling, calculate_default_transform, reproject
from rasterio.windows import Window

from landslide_nb.core.base import amp_dtype
from landslide_nb.data.bands import L4S
from landslide_nb.data.synth import UNSEEN, synth_patch
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.model.files import save_model
from landslide_nb.scene.synthetic import L1C_BANDS, PLACE, UTM, to_dn

RUN = '''
import sys
from pathlib import Path
from landslide_nb.scene.map import map_scene
map_scene(sys.argv[1], sys.argv[2], sys.argv[3], dem=sys.argv[4], threshold=float(sys.argv[5]),
          polygons='gpkg', min_area=1000, crf=sys.argv[6] == 'crf', device='cpu', progress=False)
print(next(o for o in Path('/proc/self/status').read_text().splitlines() if o.startswith('VmHWM')).split()[1])
'''


def make_scene(folder, side, block=1024):
    "A scene of any size, never more than a strip of it in memory"
    x, _ = synth_patch(UNSEEN, 0, block)
    dn, dem = to_dn(x), (x[13] * L4S.means[13]).astype(np.float32)
    mirror = lambda n: np.abs((np.arange(n) + block) % (2*block) - block).clip(0, block - 1)
    cols, rng = mirror(side), np.random.default_rng(0)
    with rasterio.open(folder/'scene.tif', 'w', driver='GTiff', count=13, height=side, width=side, dtype='uint16', crs=UTM,
                       transform=rasterio.Affine(*PLACE), tiled=True, blockxsize=256, blockysize=256, compress='deflate', predictor=2, zlevel=1,
                       num_threads='all_cpus', bigtiff='yes') as d:
        for i, o in enumerate(L1C_BANDS, 1): d.set_band_description(i, o)
        for r in range(0, side, 256):
            strip = dn[:, mirror(side)[r:r + 256]][..., cols]
            strip = (strip + rng.integers(0, 20, strip.shape[1:], dtype=np.uint16)).astype(np.uint16)
            d.write(strip, window=Window(0, r, side, strip.shape[1]))
    # three pixels to one, with a margin, then in degrees
    n = side//3 + 40
    at = np.abs((np.arange(n)*3 - 58 + block) % (2*block) - block).clip(0, block - 1)
    utm = rasterio.Affine(30, 0, PLACE[2] - 600, 0, -30, PLACE[5] + 600)
    to, w, h = calculate_default_transform(UTM, 'EPSG:4326', n, n, left=utm.c, top=utm.f, right=utm.c + 30*n, bottom=utm.f - 30*n)
    out = np.full((h, w), np.nan, np.float32)
    reproject(dem[at][:, at], out, src_transform=utm, src_crs=UTM, dst_transform=to, dst_crs='EPSG:4326',
              resampling=Resampling.bilinear, dst_nodata=np.nan)
    with rasterio.open(folder/'dem.tif', 'w', driver='GTiff', count=1, height=h, width=w, dtype='float32', crs='EPSG:4326',
                       transform=to, nodata=np.nan) as d:
        d.write(out, 1)


def measure(folder, model, threshold, kind):
    "Map it in a process of its own"
    out = folder/f'map-{kind}'
    res = subprocess.run([sys.executable, '-c', RUN, str(model), str(folder/'scene.tif'), str(out), str(folder/'dem.tif'), str(threshold), kind],
                         capture_output=True, text=True)
    if res.returncode: sys.exit(res.stderr)
    info = json.loads((out/'map.json').read_text())
    return {**info['seconds'], **info['result'], 'memory': int(res.stdout.split()[-1])/1024,
            'files': sum(o.stat().st_size for o in out.iterdir())/2**20}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sides', nargs='+', type=int, default=(2745, 10_980))
    parser.add_argument('--backbone', default='resnet50')
    parser.add_argument('--out', default=Path(__file__).parent/'SCENE.md', type=Path)
    parser.add_argument('--crf', action='store_true', help='with the CRF too, for the smallest side')
    args = parser.parse_args()
    start, lines = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        torch.manual_seed(0)
        save_model(tmp/'model', create_segmenter(backbone=args.backbone))
        (tmp/'small').mkdir()
        make_scene(tmp/'small', 512)
        measure(tmp/'small', tmp/'model', .5, 'plain')
        with rasterio.open(tmp/'small/map-plain/probability.tif') as src: threshold = float(np.nanpercentile(src.read(1), 99))
        for side in args.sides:
            folder = tmp/str(side)
            folder.mkdir()
            t = time.perf_counter()
            make_scene(folder, side)
            print(f'{side}: made in {time.perf_counter() - t:.0f} s', flush=True)
            for kind in ('plain', 'crf') if args.crf and side == min(args.sides) else ('plain',):
                m = measure(folder, tmp/'model', threshold, kind)
                lines.append(f'| {side:,} x {side:,}{" with CRF" if kind == "crf" else ""} | {m["memory"]:.0f} MB | {m["all"]:.0f} s | '
                             f'{m["inside_model"]:.0f} s | '
                             f'{m["inside_model"]/m["all"]:.1%} | {m["inside_model"]/m["windows"]:.1%} | {m["landslides"]:,} | {m["files"]:.0f} MB |')
                print(lines[-1], flush=True)
            shutil.rmtree(folder)
    cpu = next((o.split(':')[1].strip() for o in Path('/proc/cpuinfo').read_text().splitlines() if o.startswith('model name')), platform.processor())
    precision = {None: 'float32', torch.bfloat16: 'bfloat16', torch.float16: 'float16'}[amp_dtype('cpu')]
    text = '\n'.join(['# A whole scene', '', 'Made by `python bench/scene.py`: a generated Sentinel-2 scene (13 bands, uint16, compressed) '
                      f'with an elevation model of 30 m in degrees, mapped with DeepLabV3+ / {args.backbone} (random weights) in windows '
                      'of 128 px that overlap by 32, with polygons, in a process of its own. '
                      'Memory is the largest resident set of that process, imports included (`VmHWM`). '
                      'The first share is of the whole command from opening the scene to the last file, '
                      'the second of the part before the files are written.', '',
                      f'{cpu}, {torch.get_num_threads()} thread(s) of {len(os.sched_getaffinity(0))} cores, '
                      f'torch {torch.__version__.split("+")[0]}, {precision}, GDAL {rasterio.__gdal_version__}; '
                      f'{time.strftime("%Y-%m-%d")}, {time.perf_counter() - start:.0f} s in all.', '',
                      '| scene | memory | time | inside the model | of all | of the windows | polygons | files |',
                      '|---|---|---|---|---|---|---|---|', *lines, ''])
    print(text)
    args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__': main()
