"""Scenes, elevation models and patches as people really have them: the right map, or one line."""
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from landslide_nb.app.commands import check, map_command, predict
from landslide_nb.data.bands import L4S, Scaling
from landslide_nb.data.files import read_patch, write_mask, write_patch
from landslide_nb.data.synth import write_world
from landslide_nb.model.files import save_model
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.scene.grid import SceneError
from landslide_nb.scene.map import SceneMap
from landslide_nb.scene.sentinel import Scene
from landslide_nb.scene.synthetic import L1C_BANDS, PLACE, write_raster, write_scene
from test_commands import run
from test_scene import ok, refused_here

rasterio = pytest.importorskip('rasterio')
gpd = pytest.importorskip('geopandas')
shapely = pytest.importorskip('shapely')
NO10 = [o for o in L1C_BANDS if o != 'B10']
NAME = 'S2B_MSIL2A_20230101T100031_N0509_R022_T33TVL_20230101T120000'


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    out = tmp_path_factory.mktemp('right')
    write_scene(out, 256, seed=1)
    torch.manual_seed(0)
    save_model(out/'model', create_segmenter(backbone='test_resnet', scaling=Scaling((0.,)*14, (1.1, *(1.,)*13))))
    return out


@pytest.fixture(scope='module')
def files(scene):
    "Digital numbers, heights, and the windows that every form of them must give"
    with rasterio.open(scene/'scene.tif') as s, rasterio.open(scene/'dem.tif') as d:
        return s.read(), d.read(), Scene(scene/'scene.tif', scene/'dem.tif').read(0, 0, 256, 256)[0]


def product(folder, dn, quantum=10_000, offset=-1000, old=False):
    "A folder with a file a band and the metadata of a product beside"
    add = '' if offset is None else f'<RADIO_ADD_OFFSET band_id="0">{offset}</RADIO_ADD_OFFSET>'
    numbers = np.rint((dn.astype(float) - (offset or 0))*quantum/1e4).astype(np.uint16)
    for name, a in zip(L1C_BANDS, numbers): write_raster(folder/f'IMG_DATA/T33_20230101_{name}.tif', a[None])
    name = 'S2A_OPER_MTD_SAFL1C_PDMC_20160101T000000.xml' if old else 'MTD_MSIL1C.xml'
    (folder/name).write_text(f'<a><PROCESSING_BASELINE>02.01</PROCESSING_BASELINE><QUANTIFICATION_VALUE>{quantum}</QUANTIFICATION_VALUE>{add}</a>')
    return folder


def scaled(path, dn, scale, shift):
    with rasterio.open(write_raster(path, np.rint((dn/1e4 - shift)/scale).astype(np.uint16), names=L1C_BANDS), 'r+') as d:
        d.scales, d.offsets = [scale]*13, [shift]*13
    return path


STAC = json.dumps(dict(properties={'s2:processing_baseline': '04.00'}))


def all_bands(path, dn, **kwargs): return write_raster(path, dn.astype(np.uint16), names=L1C_BANDS, **kwargs)
def no_cirrus(path, dn, **kwargs): return write_raster(path, np.delete(dn, 10, 0).astype(np.uint16), names=NO10, **kwargs)


FORMS = {
    'QUANTIFICATION_VALUE in the tags': lambda p, dn: all_bands(p/'o.tif', np.rint(dn/2), tags={'QUANTIFICATION_VALUE': '5000'}),
    'BOA_QUANTIFICATION_VALUE, Level-2A': lambda p, dn: no_cirrus(p/'o.tif', np.rint(dn/2),
        tags={'BOA_QUANTIFICATION_VALUE': '5000', 'AOT_QUANTIFICATION_VALUE': '1000', 'PROCESSING_LEVEL': 'Level-2A'}),
    'baseline in the tags, without B10': lambda p, dn: no_cirrus(p/'o.tif', dn + 1000, tags={'PROCESSING_BASELINE': '05.09'}),
    'as a catalogue has it': lambda p, dn: no_cirrus(p/'o.tif', dn + 1000, tags={'s2:processing_baseline': '05.09'}),
    'another offset, without B10': lambda p, dn: no_cirrus(p/'o.tif', dn + 500, tags={'BOA_ADD_OFFSET': '-500'}),
    'a catalogue beside it': lambda p, dn: (p/'o.json').write_text(STAC) and all_bands(p/'o.tif', dn + 1000),
    'in the name of the file': lambda p, dn: no_cirrus(p/f'{NAME}.tif', dn + 1000),
    'in the name of the folder above': lambda p, dn: no_cirrus(p/NAME/'stack.tif', dn + 1000),
    'nowhere, with B10': lambda p, dn: all_bands(p/'o.tif', dn + 1000),
    'nowhere, without B10': lambda p, dn: no_cirrus(p/'o.tif', dn + 1000),
    'told of, but off already': lambda p, dn: all_bands(p/'o.tif', dn, tags={'PROCESSING_BASELINE': '05.09'}),
    'metadata above': lambda p, dn: product(p/'a', dn)/'IMG_DATA',
    'metadata of 2016': lambda p, dn: product(p/'a', dn, 5000, None, True),
    'scale and offset of the file': lambda p, dn: scaled(p/'o.tif', dn, 1e-4, -.1),
    'another scale, no offset': lambda p, dn: scaled(p/'o.tif', dn, 2e-4, 0),
}


@pytest.mark.parametrize('form', FORMS)
def test_the_units_are_found_wherever_they_stand(scene, files, tmp_path, form):
    dn, _, right = files
    s = Scene(FORMS[form](tmp_path, dn), scene/'dem.tif')
    x, whole = s.read(0, 0, 256, 256)
    keep = [i for i in range(14) if i != 9]
    assert whole.all() and np.abs(x - right)[keep].max() < 5e-3, (s.told, s.notes)


@pytest.mark.parametrize('dn, kwargs', [(lambda a: np.rint(a/10).astype(np.uint16), {}), (lambda a: (a*7).astype(np.uint16), {}),
                                        (lambda a: a, dict(quantification=100)), (lambda a: a, dict(offset=3000)),
                                        (lambda a: np.where(np.arange(13)[:, None, None] == 3, a/1000, a).astype(np.float32), {})])
def test_numbers_that_no_landscape_has_are_refused_unless_forced(scene, files, tmp_path, capsys, dn, kwargs):
    path = write_raster(tmp_path/'o.tif', dn(files[0]), names=L1C_BANDS)
    refused_here(capsys, map_command, scene/'model', path, tmp_path/'m', dem=scene/'dem.tif', device='cpu', words=('--force',), **kwargs)
    assert not (tmp_path/'m').exists()
    map_command(scene/'model', path, tmp_path/'m', dem=scene/'dem.tif', device='cpu', force=True, **kwargs)
    assert (tmp_path/'m/mask.tif').exists()


HOLE = np.zeros((256, 256), bool)
HOLE[60:100, 80:140] = True


@pytest.mark.parametrize('fill, dtype, declared', [
    (-9999, 'int16', True), (-9999, 'int16', False), (-9999, 'float32', False), (-32768, 'int16', False), (0, 'uint16', False),
    (65_535, 'uint16', True), (65_535, 'uint16', False), (np.nan, 'float32', False), (12_345, 'uint16', True)])
def test_nodata_of_each_file_is_a_hole_and_mixes_into_nothing(scene, files, tmp_path, fill, dtype, declared):
    "A file a band, of 10 and 20 m pixels: bilinear interpolation must leave the hole out"
    dn, _, right = files
    for name, a in zip(L1C_BANDS, dn):
        k = 1 if name in ('B2', 'B3', 'B4', 'B8') else 2
        a = a.reshape(256//k, k, 256//k, k).mean((1, 3)).round()
        a = np.where(HOLE[::k, ::k], fill, a).astype(dtype)
        write_raster(tmp_path/f's/T33_{name}.tif', a[None], transform=(10*k, 0, PLACE[2], 0, -10*k, PLACE[5]), nodata=fill if declared else None)
    x, whole = Scene(tmp_path/'s', scene/'dem.tif').read(0, 0, 256, 256)
    assert (~whole)[HOLE].all() and (~whole).sum() <= HOLE.sum() + 2*(40 + 60) + 4
    ring = ~HOLE & whole
    ring[:56], ring[104:], ring[:, :76], ring[:, 144:] = False, False, False, False
    assert np.abs(x - right)[[1, 2, 3, 7]][:, ring].max() < 5e-3
    assert np.abs(np.median((x/right)[[4, 5, 6, 8, 10, 11]][:, ring], 1) - 1).max() < .1 and x[:9, ring].max() < 2*right[:9, 50:110, 70:150].max()


def dem(path, z, unit=None, scale=1, shift=0, **kwargs):
    with rasterio.open(write_raster(path, z, **kwargs), 'r+') as d:
        if unit: d.units = [unit]
        d.scales, d.offsets = [scale]*len(z), [shift]*len(z)
    return path


SURVEY = 1200/3937
DEMS = {'feet': lambda p, z: dem(p, z/.3048, 'ft'), 'survey feet': lambda p, z: dem(p, z/SURVEY, 'US survey foot'),
        'centimetres': lambda p, z: dem(p, z*100, 'cm'), 'feet in the tags': lambda p, z: dem(p, z/.3048, tags={'ZUNITS': 'FEET'}),
        'feet in the CRS': lambda p, z: dem(p, z/SURVEY, crs='EPSG:32633+6360'),
        'scaled': lambda p, z: dem(p, ((z - 500)*10).astype(np.int16), scale=.1, shift=500)}


@pytest.mark.parametrize('form', DEMS)
def test_heights_are_metres_whatever_the_file_says_them_in(scene, files, tmp_path, form):
    _, z, right = files
    x, whole = Scene(scene/'scene.tif', DEMS[form](tmp_path/'o.tif', z.astype(np.float32))).read(0, 0, 256, 256)
    assert whole.all() and np.abs(x - right)[12:].max() < (.05 if form == 'scaled' else 2e-3)


@pytest.mark.parametrize('fill, dtype', [(-32768, 'int16'), (-9999, 'float32'), (32767, 'int16'), (-3.4e38, 'float32')])
def test_voids_that_nothing_declares_are_holes_and_said(scene, files, tmp_path, capsys, fill, dtype):
    _, z, right = files
    path = dem(tmp_path/'o.tif', np.where(HOLE, fill, z).astype(dtype))
    s = Scene(scene/'scene.tif', path)
    x, whole = s.read(0, 0, 256, 256)
    assert (~whole)[HOLE].all() and (~whole).sum() <= 42*62 and np.abs(x - right)[13, whole].max() < 2e-3 and len(s.notes) == 1
    map_command(scene/'model', scene/'scene.tif', tmp_path/'m', dem=path, device='cpu')
    assert 'are voids' in capsys.readouterr().err and 'are voids' in ' '.join(SceneMap(tmp_path/'m')['scene']['notes'])


@pytest.mark.parametrize('declared', [None, -9999])
def test_voids_of_two_kinds_in_one_file(scene, files, tmp_path, declared):
    "Interpolated from 20 m: what is mixed of heights and voids is no height"
    other = np.roll(HOLE, 100, 0)
    z = np.where(HOLE, -32768, np.where(other, -9999, files[1]))[:, ::2, ::2].astype(np.float32)
    path = dem(tmp_path/'o.tif', z, transform=(20, 0, PLACE[2], 0, -20, PLACE[5]), nodata=declared)
    x, whole = Scene(scene/'scene.tif', path).read(0, 0, 256, 256)
    heights = x[13, whole]*L4S.means[13]
    assert (~whole)[HOLE | other].all() and whole.mean() > .85 and files[1].min() - 50 < heights.min() and heights.max() < files[1].max() + 50


@pytest.mark.parametrize('change, words', [(lambda z: np.tile(z, (3, 1, 1)), 'has 3 bands'), (lambda z: (z/10).astype(np.uint8), 'uint8'),
                                           (lambda z: 0*z - 9999, 'no heights'), (lambda z: z*8, 'steeper')], ids=['bands', '8 bit', 'void', 'steep'])
def test_what_is_no_elevation_model_is_one_line(scene, files, tmp_path, capsys, change, words):
    path = dem(tmp_path/'o.tif', change(files[1]))
    refused_here(capsys, map_command, scene/'model', scene/'scene.tif', tmp_path/'m', dem=path, device='cpu', words=(words,))


def at_180(folder, crs, transform, scene):
    with rasterio.open(scene/'scene.tif') as src: a = src.read()
    write_raster(folder/'s.tif', a, names=L1C_BANDS, crs=crs, transform=transform)
    return folder/'s.tif'


def test_a_scene_across_the_180th_meridian(scene, tmp_path):
    "Elevation, polygons, area and region of interest on both sides of it"
    (x0,), (y0,) = rasterio.warp.transform('EPSG:4326', 'EPSG:32701', [180.], [-16.65])
    path = at_180(tmp_path, 'EPSG:32701', (10, 0, x0 - 1280, 0, -10, y0 + 1280), scene)
    z = (300 + 50*np.sin(np.arange(720)/9)[None] + 40*np.cos(np.arange(360)/7)[:, None]).astype(np.float32)[None]
    for name, first in (('on', 179.9), ('back', -180.1)):
        write_raster(tmp_path/f'{name}.tif', z, crs='EPSG:4326', transform=(1/3600, 0, first, 0, -1/3600, -16.6))
    one, two = (Scene(path, tmp_path/f'{o}.tif').read(0, 0, 256, 256) for o in ('on', 'back'))
    assert one[1].all() and np.allclose(one[0], two[0], atol=1e-3)
    halves = [shapely.box(179.995, -16.655, 180, -16.645), shapely.box(-180, -16.655, -179.995, -16.645)]
    gpd.GeoDataFrame(geometry=halves, crs='EPSG:4326').to_file(tmp_path/'aoi.geojson')
    kwargs = dict(dem=tmp_path/'on.tif', device='cpu', threshold=0., polygons='geojson')
    map_command(scene/'model', path, tmp_path/'all', **kwargs)
    shapes = json.loads((tmp_path/'all/landslides.geojson').read_text())['features']
    parts = lambda g: g['coordinates'] if g['type'] == 'MultiPolygon' else [g['coordinates']]
    lons = [np.array(p[0])[:, 0] for f in shapes for p in parts(f['geometry'])]
    assert max(np.ptp(o) for o in lons) < .02 and {np.sign(o[0]) for o in lons} == {-1, 1} and max(abs(o).max() for o in lons) <= 180
    assert abs(SceneMap(tmp_path/'all')['result']['area_m2'] / 2560**2 - 1) < .01
    map_command(scene/'model', path, tmp_path/'part', aoi=tmp_path/'aoi.geojson', **kwargs)
    assert .15 < SceneMap(tmp_path/'part')['result']['pixels'] / 256**2 < .25


@pytest.mark.parametrize('crs', ['LOCAL_CS["quarry",UNIT["metre",1]]', 'EPSG:4978', 'EPSG:5703', 'EPSG:32633'])
def test_coordinates_that_cannot_be_placed_are_one_line(scene, tmp_path, capsys, crs):
    path = at_180(tmp_path, crs if '[' not in crs else rasterio.crs.CRS.from_wkt(crs), (10, 0, 5e9, 0, -10, 5e9), scene)
    refused_here(capsys, map_command, scene/'model', path, tmp_path/'m', device='cpu', words=('s.tif',))


def test_several_scenes_in_one_call(scene, tmp_path, capsys):
    "The options before MODEL or after OUT, one layer, one summary"
    write_scene(tmp_path/'east', 256, seed=2, transform=(10, 0, PLACE[2] + 2560, 0, -10, PLACE[5]))
    import rasterio.merge
    rasterio.merge.merge([scene/'dem.tif', tmp_path/'east/dem.tif'], dst_path=tmp_path/'dem.tif')
    scenes = [scene/'scene.tif', tmp_path/'east/scene.tif']
    options = ['--dem', tmp_path/'dem.tif', '--polygons', '--device', 'cpu', '--threshold', .47]
    res = ok(run('map', scene/'model', *scenes, tmp_path/'m', *options))
    assert len(res.stdout.splitlines()) == 3 and res.stderr == ''
    info, layer = json.loads((tmp_path/'m/summary.json').read_text()), gpd.read_file(tmp_path/'m/landslides.gpkg')
    n = sum(o['landslides'] for o in info['scenes'].values())
    assert set(layer['scene']) == set(info['scenes']) and len(layer) == info['result']['landslides'] == n > 0
    assert len(SceneMap(tmp_path/'m'/next(iter(info['scenes']))).polygons) == next(iter(info['scenes'].values()))['landslides']
    scenes[1] = tmp_path/'none.tif'
    refused_here(capsys, map_command, scene/'model', scenes, tmp_path/'n', dem=tmp_path/'dem.tif', words=('none.tif', 'no such file'))


def test_a_region_and_a_mask(scene, tmp_path, capsys):
    box = shapely.box(PLACE[2] + 400, PLACE[5] - 900, PLACE[2] + 900, PLACE[5] - 300)
    gpd.GeoDataFrame(geometry=[box], crs='EPSG:32633').to_crs('EPSG:4326').to_file(tmp_path/'o.gpkg')
    kwargs = dict(dem=scene/'dem.tif', device='cpu', bs=4)
    for name, more in dict(all={}, aoi=dict(aoi=tmp_path/'o.gpkg'), mask=dict(mask=tmp_path/'o.gpkg')).items():
        map_command(scene/'model', scene/'scene.tif', tmp_path/name, **kwargs, **more)
    whole, aoi, mask = (rasterio.open(tmp_path/o/'probability.tif').read(1) for o in ('all', 'aoi', 'mask'))
    inside = np.isfinite(aoi)
    assert inside[31:89, 41:89].all() and abs(inside.sum() - 60*50) < 300
    assert np.array_equal(aoi[inside], whole[inside]) and np.array_equal(np.isnan(mask), inside)
    for name in ('aoi', 'mask'):
        more = {name: scene/'model/model.json'}
        refused_here(capsys, map_command, scene/'model', scene/'scene.tif', tmp_path/'n', **kwargs, **more, words=('model.json',))


def test_patches_on_another_scale(scene, tmp_path, capsys):
    "Raw numbers, min-max scaled ones and -9999 are faults; a split under another name is one"
    write_world(tmp_path/'d', 3, 3, 3, progress=False)
    fine = [read_patch(tmp_path/f'd/ValidData/img/image_{n}.h5') for n in (1, 2, 3)]
    (tmp_path/'d/TrainData').rename(tmp_path/'d/train')
    lo, hi = np.min(fine, (0, 2, 3))[:, None, None], np.max(fine, (0, 2, 3))[:, None, None]
    for name, change, words in (('raw', lambda x: x*L4S.means[:, None, None], 'times brighter'),
                                ('scaled', lambda x: (x - lo)/(hi - lo), 'min-max scaled'),
                                ('hole', lambda x: np.where(HOLE[:128, :128], -9999/L4S.means[:, None, None], x), 'no band can have')):
        for n, x in enumerate(fine, 1): write_patch(tmp_path/f'{name}/image_{n}.h5', change(x))
        with pytest.raises(SystemExit): check(tmp_path/name)
        assert words in capsys.readouterr().out
        refused_here(capsys, predict, scene/'model', tmp_path/name, tmp_path/f'p_{name}', device='cpu', words=(words,))
        if name != 'hole': predict(scene/'model', tmp_path/name, tmp_path/f'p_{name}', device='cpu', force=True)
    capsys.readouterr()
    with pytest.raises(SystemExit): check(tmp_path/'d')
    assert 'call it TrainData' in capsys.readouterr().out
    predict(scene/'model', tmp_path/'d', tmp_path/'p', device='cpu')


def test_files_that_another_process_holds_open(scene, tmp_path, capsys):
    write_world(tmp_path/'d', 2, 2, 1, progress=False)
    code = 'import h5py, sys; f = [h5py.File(o, "a") for o in sys.argv[1:]]; print("open", flush=True); input()'
    images, pipes = map(str, (tmp_path/'d/ValidData/img').glob('*.h5')), dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen([sys.executable, '-c', code, *images], **pipes) as p:
        p.stdout.readline()
        check(tmp_path/'d')
        predict(scene/'model', tmp_path/'d', tmp_path/'p', device='cpu')
        p.kill()
    assert 'no faults' in capsys.readouterr().out and len(list((tmp_path/'p').glob('mask_*.h5'))) == 2
