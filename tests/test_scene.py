"""Whole scenes as a user meets them: commands, kills, a cluster, wrong input and real pixels."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from landslide_nb.data.bands import RGB
from landslide_nb.data.synth import UNSEEN, synth_patch, write_world
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.model.files import save_model
from landslide_nb.scene.grid import SceneError
from landslide_nb.scene.synthetic import L1C_BANDS, PLACE, to_dn, write_raster
from landslide_nb.scene.reader import WANTED, Scene
from landslide_nb.scene.map import map_scene
from landslide_nb.app.commands import adapt_command, map_command, synth
from test_commands import BIN, refused, run

rasterio = pytest.importorskip('rasterio')
pyogrio = pytest.importorskip('pyogrio')
REAL = Path(__file__).parents[2]/'shared/data/sentinel2_l1c_slovenia'
FILES = ('mask.tif', 'probability.tif', 'uncertainty.tif', 'landslides.gpkg', 'quicklook.png', 'composite.jpg')


def ok(res):
    assert res.returncode == 0, res.stderr
    return res


def refused_here(capsys, command, *args, words=(), **kwargs):
    "The same in this process, where nothing has to be imported again"
    capsys.readouterr()
    with pytest.raises(SystemExit) as e: command(*args, **kwargs)
    lines = capsys.readouterr().err.strip().splitlines()
    assert e.value.code == 1 and len(lines) == 1 and all(w in lines[0] for w in words), lines


def read(path):
    with rasterio.open(path) as src: return src.read(1)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A scene with a hole, and a model that marks some of it"
    out = tmp_path_factory.mktemp('scene')
    ok(run('synth', out, '--scene', 400, '--seed', 1))
    with rasterio.open(out/'scene.tif', 'r+') as src:
        a = src.read()
        a[:, 200:240, 300:330] = 0
        src.write(a)
    torch.manual_seed(0)
    save_model(out/'model', create_segmenter(backbone='test_resnet'))
    return out


KWARGS = dict(threshold=.47, bs=4, passes=2, device='cpu')


def map_args(world, out, *more):
    settings = ['--threshold', .47, '--bs', 4, '--passes', 2, '--device', 'cpu']
    return ['map', world/'model', world/'scene.tif', out, '--dem', world/'dem.tif', *settings, *more]


@pytest.fixture(scope='module')
def mapped(world, tmp_path_factory):
    out = tmp_path_factory.mktemp('map')/'a map'
    res = ok(run(*map_args(world, out, '--uncertainty', '--polygons', '--crf')))
    assert res.stderr == '' and len(res.stdout.splitlines()) == 1, res.stderr
    return out


def test_synth_scene_is_what_it_says(world, capsys):
    with rasterio.open(world/'scene.tif') as src:
        assert (src.shape, src.count, src.dtypes[0], src.descriptions) == ((400, 400), 13, 'uint16', L1C_BANDS)
        assert src.crs.to_epsg() == 32633 and src.res == (10, 10)
    assert 0 < read(world/'truth.tif').mean() < .2
    refused_here(capsys, synth, world, scene=400, words=('scene.tif', 'there already'))


def test_the_files_of_a_map(world, mapped):
    assert {o.name for o in mapped.iterdir()} == {*FILES, 'map.json'}
    with rasterio.open(world/'scene.tif') as scene:
        for name in FILES[:3]:
            with rasterio.open(mapped/name) as src:
                assert (src.shape, src.crs, src.transform) == (scene.shape, scene.crs, scene.transform)
                assert src.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
    with rasterio.open(mapped/'mask.tif') as src:
        assert (src.dtypes[0], src.nodata, src.colorinterp[0].name) == ('uint8', 255, 'palette')
        assert src.colormap(1)[1][:3] != src.colormap(1)[0][:3]
    mask, prob, unc = (read(mapped/o) for o in FILES[:3])
    hole = np.zeros(mask.shape, bool)
    hole[200:240, 300:330] = True
    assert ((mask == 255) == hole).all() and (np.isnan(prob) == hole).all() and (np.isnan(unc) == hole).all()
    assert 0 < mask[~hole].mean() < 1
    info = json.loads((mapped/'map.json').read_text())
    assert info['settings']['crf']['backend'] in ('pydensecrf', 'torch') and info['settings']['crf']['iters'] == 10
    assert info['result']['landslide_pixels'] == (mask == 1).sum() and info['versions']['torch'] == torch.__version__.split('+')[0]


def test_the_mask_is_the_crfs_and_the_probability_the_networks(world, mapped, tmp_path):
    kwargs, scene = dict(uncertainty=True, progress=False, **KWARGS), Scene(world/'scene.tif', world/'dem.tif')
    map_scene(world/'model', scene, tmp_path/'m', crf=True, crf_prob=True, **kwargs)
    map_scene(world/'model', scene, tmp_path/'plain', **kwargs)
    assert {o.name for o in (tmp_path/'m').iterdir()} == {*FILES[:3], 'crf.tif', 'quicklook.png', 'composite.jpg', 'map.json'}
    for o in ('mask.tif', 'probability.tif', 'uncertainty.tif'): assert (tmp_path/'m'/o).read_bytes() == (mapped/o).read_bytes(), o
    for o in ('probability.tif', 'uncertainty.tif'): assert (tmp_path/'m'/o).read_bytes() == (tmp_path/'plain'/o).read_bytes(), o
    with rasterio.open(tmp_path/'m/crf.tif') as src: assert src.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
    mask, crf, prob, plain = (read(tmp_path/o) for o in ('m/mask.tif', 'm/crf.tif', 'm/probability.tif', 'plain/mask.tif'))
    ok = mask != 255
    assert (np.isnan(crf) == ~ok).all() and (mask[ok] == (crf[ok] > .47)).all() and (plain[ok] == (prob[ok] > .47)).all() and (mask != plain).any()
    assert json.loads((tmp_path/'plain/map.json').read_text())['settings']['crf'] is None


def test_polygons_are_the_mask(mapped):
    meta, _, geometry, (area, prob, unc) = pyogrio.raw.read(mapped/'landslides.gpkg')
    info, mask = json.loads((mapped/'map.json').read_text()), read(mapped/'mask.tif')
    assert list(meta['fields']) == ['area_m2', 'mean_probability', 'mean_uncertainty'] and meta['crs'] == 'EPSG:32633'
    assert len(area) == info['result']['landslides']
    assert abs(area.sum() - (mask == 1).sum()*100/.9996**2) < 1e-3*area.sum()
    p, u = read(mapped/'probability.tif'), read(mapped/'uncertainty.tif')
    assert np.isclose((prob*area).sum()/area.sum(), p[mask == 1].mean(), rtol=1e-3)
    assert np.isclose((unc*area).sum()/area.sum(), u[mask == 1].mean(), rtol=1e-3)


def test_geojson_is_in_degrees(world, tmp_path):
    map_command(world/'model', world/'scene.tif', tmp_path/'m', dem=world/'dem.tif', polygons='geojson', min_area=5000, **KWARGS)
    found = json.loads((tmp_path/'m/landslides.geojson').read_text())['features']
    assert found and min(o['properties']['area_m2'] for o in found) >= 5000
    lon, lat = np.array(found[0]['geometry']['coordinates'][0]).T
    assert (abs(lon - 15.02) < .1).all() and (abs(lat - 46.03) < .1).all()


def test_a_killed_run_goes_on_and_ends_the_same(world, mapped, tmp_path, capsys):
    args, kills, work = map_args(world, tmp_path/'m', '--uncertainty', '--polygons', '--crf'), 0, tmp_path/'m/.partial'
    for name in ('net_00000.npy', 'net_00002.npy', 'crf_00001.npy'):
        p = subprocess.Popen([BIN/f'landslide-{args[0]}', *map(str, args[1:])], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             start_new_session=True)
        while p.poll() is None and not (work/name).exists(): time.sleep(.001)
        if p.poll() is None: kills += 1
        os.killpg(p.pid, signal.SIGKILL) # with the processes of its CRF
        p.wait()
        assert not [o for o in FILES if (tmp_path/'m'/o).exists()]
    assert kills == 3
    times = {o.name: o.stat().st_mtime_ns for o in work.glob('net_*.npy')}
    refused_here(capsys, map_command, *args[1:4], dem=world/'dem.tif', uncertainty=True, crf=True, overlap=16,
                 words=('other settings', 'job'), **KWARGS)
    assert {o.name: o.stat().st_mtime_ns for o in work.glob('net_*.npy')} == times
    ok(run(*args))
    assert not work.exists()
    for o in FILES[:3] + FILES[4:]: assert (tmp_path/'m'/o).read_bytes() == (mapped/o).read_bytes(), o
    refused_here(capsys, map_command, *args[1:4], words=('finished map',))


def test_two_dask_workers_give_the_same_map(world, mapped, tmp_path, capsys):
    pytest.importorskip('distributed')
    lines = ok(run(*map_args(world, tmp_path/'m', '--uncertainty', '--polygons', '--crf', '--workers', 2, '--dask'))).stderr.splitlines()
    assert not [o for o in lines if ' - distributed.' not in o], 'nothing but what Dask itself logs, such as a slow worker on a busy machine'
    for o in FILES[:3] + FILES[4:]: assert (tmp_path/'m'/o).read_bytes() == (mapped/o).read_bytes(), o
    refused_here(capsys, map_command, world/'model', world/'scene.tif', tmp_path/'n', dem=world/'dem.tif', dask='tcp://127.0.0.1:9',
                 words=('--dask', 'no scheduler'))
    assert not (tmp_path/'n').exists()


@pytest.mark.parametrize('change, words', {
    'missing band':  (dict(drop='B3'), ('scene.tif', 'band B3 missing')),
    'unnamed':       (dict(names=(), drop='B8A'), ('--bands',)),
    'no CRS':        (dict(crs=None), ('scene.tif', 'coordinate reference system')),
    'degrees':       (dict(crs='EPSG:4326', transform=(1e-4, 0, 15, 0, -1e-4, 46), dem=False), ('--dem',)),
    'far away':      (dict(transform=(10, 0, 600_000, 0, -10, 5_100_000)), ('dem.tif', 'covers 0 %')),
    'no overlap':    (dict(args=dict(overlap=0)), ('--overlap',)),
    'a corrupt DEM': (dict(dem='text'), ('not a raster',)),
    'wrong names':   (dict(args=dict(bands='B1,B2')), ('--bands', '2 names')),
    'not a model':   (dict(model=False), ('model.json',)),
    'empty':         (dict(zero=True), ('nothing but nodata',)),
}.items(), ids=lambda o: o if isinstance(o, str) else '')
def test_wrong_input_is_one_line(world, tmp_path, capsys, change, words):
    change, words = words
    with rasterio.open(world/'scene.tif') as src: a = src.read()
    names = list(change.get('names', L1C_BANDS))
    if 'drop' in change:
        i = L1C_BANDS.index(change['drop'])
        a, names = np.delete(a, i, 0), names[:i] + names[i + 1:]
    if change.get('zero'): a[:] = 0
    write_raster(tmp_path/'scene.tif', a, names=names, crs=change.get('crs', 'EPSG:32633'), transform=change.get('transform', PLACE))
    dem = world/'dem.tif'
    if change.get('dem') == 'text': (dem := tmp_path/'text.tif').write_text('no raster')
    refused_here(capsys, map_command, world/'model' if change.get('model', True) else tmp_path, tmp_path/'scene.tif', tmp_path/'out',
                 dem=None if change.get('dem') is False else dem, device='cpu', words=words, **change.get('args', {}))
    assert not (tmp_path/'out').exists()


def test_a_corrupt_block_is_named_and_leaves_no_map(world, tmp_path):
    data = bytearray((world/'scene.tif').read_bytes())
    with rasterio.open(world/'scene.tif') as src:
        offset = int(src.tags(1, ns='TIFF').get('BLOCK_OFFSET_1_1') or src.get_tag_item('BLOCK_OFFSET_2_2', 'TIFF', bidx=1))
    data[offset:offset + 5000] = os.urandom(5000)
    (tmp_path/'scene.tif').write_bytes(data)
    res = run('map', world/'model', tmp_path/'scene.tif', tmp_path/'out', '--dem', world/'dem.tif', '--device', 'cpu')
    refused(res, 'map', 'scene.tif', 'cannot be read')
    assert not [o for o in (*FILES, 'map.json') if (tmp_path/'out'/o).exists()]


def test_level_2a_and_no_dem_are_warned_of(world, tmp_path, capsys):
    with rasterio.open(world/'scene.tif') as src: a = src.read()
    i = L1C_BANDS.index('B10')
    write_raster(tmp_path/'S2A_MSIL2A.tif', np.delete(a, i, 0), names=[o for o in L1C_BANDS if o != 'B10'])
    map_command(world/'model', tmp_path/'S2A_MSIL2A.tif', tmp_path/'out', device='cpu')
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(o.startswith('landslide-map: warning: ') for o in lines), lines
    assert [w in o for w, o in zip(('Level-2A', 'B10', 'elevation'), lines)] == [True]*3
    assert json.loads((tmp_path/'out/map.json').read_text())['scene']['notes']


def test_a_vrt_is_the_same_scene(world, tmp_path):
    from rasterio.shutil import copy
    copy(world/'scene.tif', tmp_path/'scene.vrt', driver='VRT')
    for o, name in ((world/'scene.tif', 'n'), (tmp_path/'scene.vrt', 'm')):
        map_command(world/'model', o, tmp_path/name, dem=world/'dem.tif', **KWARGS)
    assert (tmp_path/'m/probability.tif').read_bytes() == (tmp_path/'n/probability.tif').read_bytes()


def test_a_level_2a_folder_is_read_at_its_finest(tmp_path):
    x, _ = synth_patch(UNSEEN, 0, 240)
    image = tmp_path/'S2A_MSIL2A_2022.SAFE/GRANULE/L2A_X/IMG_DATA'
    for res, k in ((10, 1), (20, 2), (60, 6)):
        for name, a in zip(L1C_BANDS, to_dn(x)):
            native = 1 if name in ('B2', 'B3', 'B4', 'B8') else 6 if name in ('B1', 'B9') else 2
            if name == 'B10' or k < native: continue
            small = a.reshape(240//k, k, 240//k, k).mean((1, 3)).round() + 1000
            write_raster(image/f'R{res}m/T33_2022_{name if name == "B8A" else f"B{int(name[1:]):02d}"}_{res}m.jp2', small[None].astype('uint16'),
                         driver='JP2OpenJPEG', quality=100, reversible='YES', transform=(10*k, 0, 5e5, 0, -10*k, 51e5), compress=None)
    (image.parents[2]/'MTD_MSIL2A.xml').write_text('<a><PROCESSING_BASELINE>04.00</PROCESSING_BASELINE><BOA_ADD_OFFSET>-1000</BOA_ADD_OFFSET></a>')
    for path in (image.parents[2], image.parent):
        s = Scene(path)
        assert s.grid.shape == (240, 240) and s.offset == 1000 and ['Level-2A' in o for o in s.notes] == [True, True, False]
        assert [Path(w[0]).stem[-3:] for w in s.where if w] == ['60m', *['10m']*3, *['20m']*3, '10m', '60m', *['20m']*2]
        y, whole = s.read(0, 0, 240, 240)
        assert whole.all() and np.allclose(y[1:4], x[1:4], atol=2e-3) and (y[9] == 1).all()
    shutil.copytree(image.parent, image.parents[1]/'L2A_Y')
    with pytest.raises(SceneError, match='several granules'): Scene(image.parents[2])


STAC = dict(zip(L1C_BANDS, 'coastal blue green red rededge071 rededge074 rededge078 nir nir08 nir09 cirrus swir16 swir22'.split()))
ALPHABET = sorted(range(13), key=lambda i: STAC[L1C_BANDS[i]])
WORDS = ('Coastal aerosol', 'Blue', 'Green', 'Red', 'Vegetation red edge', 'Red Edge 2', 'RedEdge 3', 'NIR', 'Narrow NIR', 'Water vapour',
         'SWIR - Cirrus', 'SWIR 1', 'SWIR 2')
SAME = {'ENVI': (range(13), [f'Band {i}' for i in range(1, 14)], 'only numbered'),
        'from zero': (range(13), [f'band_{i}' for i in range(13)], 'only numbered'),
        'B13': (range(13), [f'B{i}' for i in range(1, 14)], 'only numbered'), 'nameless': (range(13), (), 'without descriptions'),
        'STAC': (ALPHABET, [STAC[L1C_BANDS[i]] for i in ALPHABET], ''),
        'in words': (range(13), [f'{o} - {t}' for o, t in zip(L1C_BANDS, WORDS)], '')}


@pytest.mark.parametrize('case', SAME)
def test_bands_by_whatever_they_are_called(world, tmp_path, case):
    "The same windows, with a line where an order had to be assumed"
    order, names, said = SAME[case]
    with rasterio.open(world/'scene.tif') as src: a, at = src.read(), tuple(src.transform)[:6]
    write_raster(tmp_path/'o.tif', a[[*order]], transform=at, names=names)
    there = Scene(tmp_path/'o.tif', world/'dem.tif')
    assert [o.split(':')[0] for o in there.notes] == ([f'bands {"that are " * (said[0] == "o")}{said}'] if said else [])
    for one, two in zip(there.read(100, 100, 128, 128), Scene(world/'scene.tif', world/'dem.tif').read(100, 100, 128, 128)):
        assert np.array_equal(one, two)


@pytest.mark.parametrize('names, words', [
    ([f'Band {i}' for i in range(1, 13)], ('12 bands that are only numbered', '--bands')), (['NDVI', *[None]*12], ("'NDVI'", '--bands')),
    (['B1', 'B2', 'B3', 'B4', 'Band 5 (NIR)', *L1C_BANDS[5:]], ('Band 5 (NIR)', 'another sensor')),
    ([*L1C_BANDS[:12], 'B2'], ('band B2 is there twice',))])
def test_bands_that_cannot_be_told_are_one_line(world, tmp_path, capsys, names, words):
    with rasterio.open(world/'scene.tif') as src: a, at = src.read(), tuple(src.transform)[:6]
    write_raster(tmp_path/'o.tif', a[:len(names)], transform=at, names=names)
    refused_here(capsys, map_command, world/'model', tmp_path/'o.tif', tmp_path/'m', dem=world/'dem.tif', words=words, **KWARGS)
    assert not (tmp_path/'m').exists()


def test_a_folder_is_one_scene_or_one_line(world, tmp_path, capsys):
    "A file a band is the same scene; another date or product and mere numbers are refused, and what was made of a band is passed over"
    with rasterio.open(world/'scene.tif') as src: a, at = src.read(), tuple(src.transform)[:6]
    one = tmp_path/'one'
    for name, band in zip(L1C_BANDS, a): write_raster(one/f'T33_20200607_{name}.tif', band[None], transform=at)
    for name in ('T33_20200607_B2_clipped', 'ndvi_B8_B4'): shutil.copy(one/'T33_20200607_B1.tif', one/f'{name}.tif')
    was = Scene(world/'scene.tif', world/'dem.tif').read(0, 0, 400, 400)
    assert all(np.array_equal(*o) for o in zip(Scene(one, world/'dem.tif').read(0, 0, 400, 400), was))
    for start, to, words in (('T33_20200607_B4', 'T33_20200702_B4', ('B4 is in two files', '20200607_B4.tif', '20200702_B4.tif')),
                             ('T33_20200607_B4', 'B_13', ('only numbered',))):
        shutil.copytree(one, two := tmp_path/f'two{len(words)}')
        shutil.copy(one/f'{start}.tif', two/f'{to}.tif')
        refused_here(capsys, map_command, world/'model', two, tmp_path/'m', dem=world/'dem.tif', words=words, **KWARGS)
    (one/'T33_20200607_B4.tif').rename(one/'T33_20200702_B4.tif')
    refused_here(capsys, map_command, world/'model', one, tmp_path/'m', dem=world/'dem.tif', words=('several dates',), **KWARGS)
    for o in ('a.SAFE', 'b.SAFE'): shutil.copytree(two, tmp_path/'both'/o)
    refused_here(capsys, map_command, world/'model', tmp_path/'both', tmp_path/'m', dem=world/'dem.tif', words=('2 products', 'a.SAFE'), **KWARGS)


@pytest.mark.parametrize('crs', ['EPSG:4326', 'EPSG:3857', 'EPSG:32632'])
def test_in_another_crs_it_is_the_same_ground(world, tmp_path, crs):
    "Slopes and elevations of the scene in degrees, in web Mercator or in the next zone, with the elevation model as it was"
    from rasterio.warp import Resampling, calculate_default_transform, reproject
    was = Scene(world/'scene.tif', world/'dem.tif')
    with rasterio.open(world/'scene.tif') as src:
        inner = src.window(*np.array(src.bounds) + (400, 400, -400, -400))
        a, at = src.read(window=inner), src.window_transform(inner)
        to, w, h = calculate_default_transform(src.crs, crs, a.shape[2], a.shape[1], *src.window_bounds(inner), resolution=None)
        out = np.zeros((13, h, w), np.uint16)
        reproject(a, out, src_transform=at, src_crs=src.crs, dst_transform=to, dst_crs=crs, resampling=Resampling.bilinear, src_nodata=0)
    write_raster(tmp_path/'o.tif', out, crs=crs, transform=tuple(to)[:6], names=L1C_BANDS)
    s = Scene(tmp_path/'o.tif', world/'dem.tif')
    (x, ok), (y, whole) = s.read(0, 0, *s.grid.shape), was.read(40, 40, 320, 320)
    assert .7 < ok.mean() <= 1
    mine, theirs = (o[:, k].mean(1) for o, k in ((x, ok), (y, whole)))
    assert np.allclose(mine, theirs, rtol=.03), mine/theirs
    info = map_scene(world/'model', s, tmp_path/'m', device='cpu', polygons='gpkg', threshold=0., progress=False)
    assert abs(info['result']['area_m2'] / (3200/.9996)**2 - 1) < .03, info['result']


def test_half_a_scene_of_nothing(world, tmp_path):
    with rasterio.open(world/'scene.tif') as src: a = src.read()
    a[:, :, 180:] = 0
    write_raster(tmp_path/'o.tif', a, names=L1C_BANDS)
    map_scene(world/'model', Scene(tmp_path/'o.tif', world/'dem.tif'), tmp_path/'m', device='cpu', progress=False)
    mask = read(tmp_path/'m/mask.tif')
    assert (mask[:, 180:] == 255).all() and (mask[:200, :180] != 255).all()


def test_adapted_model_maps(world, tmp_path, capsys):
    write_world(tmp_path/'world', 4, 1, 1, progress=False)
    args = ['adapt', world/'model', world/'scene.tif', tmp_path/'new', '--dem', world/'dem.tif', '--iters', 2, '--bs', 2, '--device', 'cpu']
    ok(run(*args, '--data', tmp_path/'world'))
    assert json.loads((tmp_path/'new/adapt.json').read_text())['windows'] == 8
    map_command(tmp_path/'new', world/'scene.tif', tmp_path/'m', dem=world/'dem.tif', device='cpu')
    refused_here(capsys, adapt_command, *args[1:4], data=tmp_path/'world', words=('already holds',))


def test_without_rasterio_the_commands_say_what_to_install(world, tmp_path):
    code = ('import sys; sys.modules["rasterio"] = None; sys.argv[0] = "landslide-map"\n'
            'from landslide_nb.app.commands import map_command\nmap_command(*sys.argv[1:])')
    res = subprocess.run([sys.executable, '-c', code, world/'model', world/'scene.tif', tmp_path/'o'], capture_output=True, text=True)
    refused(res, 'map', 'rasterio', "pip install 'landslide_nb[geo]'")


@pytest.mark.skipif(not REAL.is_dir(), reason='the folder with a real Sentinel-2 scene is not beside this checkout')
def test_real_pixels(world, tmp_path, capsys):
    for o in ('clear_a', 'cloudy'):
        map_command(world/'model', REAL/f's2_l1c_{o}.tif', tmp_path/o, dem=REAL/'dem.tif', uncertainty=True, polygons='gpkg', device='cpu')
        assert capsys.readouterr().err == ''
        with rasterio.open(tmp_path/o/'probability.tif') as src, rasterio.open(REAL/'dem.tif') as dem:
            assert (src.shape, src.transform, src.crs) == (dem.shape, dem.transform, dem.crs)
            assert np.isfinite(src.read(1)).all()


@pytest.mark.skipif(not REAL.is_dir(), reason='the folder with a real Sentinel-2 scene is not beside this checkout')
def test_real_band_means_are_near_the_benchmarks_own():
    for o in 'abc':
        s = Scene(REAL/f's2_l1c_clear_{o}.tif', REAL/'dem.tif')
        means = s.read(0, 0, *s.grid.shape)[0].mean((1, 2))
        assert ((.8 < means[:12]) & (means[:12] < 1.5)).all(), dict(zip(WANTED, means))
        assert .8 < means[13] < 1.2 and s.notes == []


def test_a_model_of_red_green_and_blue_maps_an_image_without_an_elevation_model(world, tmp_path, capsys):
    "By the names of its bands, whatever else the file holds; other numbers and other bands are one line"
    torch.manual_seed(0)
    save_model(tmp_path/'rgb', create_segmenter(backbone='test_resnet', bands=RGB))
    with rasterio.open(world/'scene.tif') as src: a, at = src.read()[[7, 1, 2, 3]], tuple(src.transform)[:6]
    image = np.clip(a/10, 0, 255).astype(np.uint8)
    write_raster(tmp_path/'image.tif', image, names=('NIR', 'Blue', 'Green', 'Red'), transform=at)
    args = ['--device', 'cpu', '--crf', '--uncertainty', '--polygons', '--threshold', .47]
    res = ok(run('map', tmp_path/'rgb', tmp_path/'image.tif', tmp_path/'m', *args))
    assert [('count' in o, 'warning' in o) for o in res.stderr.splitlines()] == [(True, True)], res.stderr
    prob = read(tmp_path/'m/probability.tif')
    hole = (image[1:] == 0).all(0)
    assert 1200 <= hole.sum() < 2000 and (np.isnan(prob) == hole).all()
    x, valid = Scene(tmp_path/'image.tif', reads=RGB).read(0, 0, *image.shape[1:])
    assert (valid == ~hole).all() and np.allclose(x[:, valid], image[3:0:-1][:, valid]/255)
    info = json.loads((tmp_path/'m/map.json').read_text())
    assert info['scene']['bands'] == [['image.tif', 4], ['image.tif', 3], ['image.tif', 2]] and info['scene']['dem'] is None
    map_command(tmp_path/'rgb', write_raster(tmp_path/'plain.tif', image[::-1], transform=at), tmp_path/'n', bands='red,green,blue,-', device='cpu')
    assert np.allclose(read(tmp_path/'n/probability.tif'), prob, atol=1e-6, equal_nan=True)
    refused_here(capsys, map_command, tmp_path/'rgb', write_raster(tmp_path/'dn.tif', a, names=('B8', 'blue', 'green', 'red')), tmp_path/'o',
                 device='cpu', words=('dn.tif', 'full scale', '--force'))
    refused_here(capsys, map_command, tmp_path/'rgb', world/'scene.tif', tmp_path/'o', device='cpu', words=('scene.tif', '--bands'))
