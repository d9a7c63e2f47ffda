"""Data of one's own and checked maps as a user meets them: landslide-cut, landslide-score and landslide-adapt --labels, kills and wrong input."""
import json
import signal
import subprocess
import time

import numpy as np
import pytest
import torch

from landslide_nb.data.files import read_mask, read_patch
from landslide_nb.model.files import load_model, save_model
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.scene.checked import CheckedMap, read_checked, write_checked
from landslide_nb.scene.cut import cut_scene
from landslide_nb.scene.sentinel import Scene
from landslide_nb.scene.synthetic import write_scene
from landslide_nb.scene.adapt import scene_split
from landslide_nb.app.commands import adapt_command, cut, map_command, score
from test_commands import BIN, refused, run
from test_scene import ok, read, refused_here

rasterio = pytest.importorskip('rasterio')
gpd = pytest.importorskip('geopandas')
shapely = pytest.importorskip('shapely')


def outlines(raster):
    "The landslides of a truth as somebody would have drawn them"
    with rasterio.open(raster) as src:
        found = [shapely.geometry.shape(g) for g, v in rasterio.features.shapes(src.read(1), transform=src.transform) if v == 1]
        return gpd.GeoDataFrame(geometry=found, crs=src.crs)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A scene, its landslides as polygons in degrees, a small model, and a checked map: six right, two wrong, one that nobody looked at"
    out = tmp_path_factory.mktemp('own')/'a world'
    write_scene(out, 400, seed=1)
    slides = outlines(out/'truth.tif')
    slides.to_crs(4326).to_file(out/'slides.geojson')
    scene = Scene(out/'scene.tif', out/'dem.tif')
    torch.manual_seed(0)
    save_model(out/'model', create_segmenter(backbone='test_resnet', scaling=scene_split(scene, progress=False).measure_scaling()))
    box = lambda left, top: shapely.box(500_000 + 10*left, 5_100_000 - 10*top - 300, 500_300 + 10*left, 5_100_000 - 10*top)
    boxes = [box(*o) for o in ((300, 10), (20, 330), (200, 200))]
    frame = gpd.GeoDataFrame(dict(checked=['right']*6 + ['wrong', 'wrong', None]), geometry=[*slides.geometry[:6], *boxes], crs=slides.crs)
    write_checked(out/'checked.gpkg', frame)
    return out


def test_cut_writes_what_the_other_commands_take(world, tmp_path):
    res = ok(run('cut', world/'scene.tif', world/'dem.tif', world/'slides.geojson', tmp_path/'data', '--valid', .3, '--empty', 'inf'))
    assert res.stderr == '' and len(res.stdout.splitlines()) == 1, res.stderr
    assert '9 patches' in res.stdout and '16 rows and 16 columns at the edge' in res.stdout
    assert ok(run('check', tmp_path/'data')).stdout.startswith('no faults (train: ')
    truth, scene = read(world/'truth.tif'), Scene(world/'scene.tif', world/'dem.tif')
    places, seen = (tmp_path/'data/patches.csv').read_text().splitlines(), np.zeros((400, 400), int)
    for line in places[1:]:
        split, n, row, col = line.split(',')[:4]
        r, c, folder = int(row), int(col), tmp_path/'data'/f'{split.capitalize()}Data'
        assert np.array_equal(read_patch(folder/f'img/image_{n}.h5'), scene.read(r, c, 128, 128)[0])
        assert np.array_equal(read_mask(folder/f'mask/mask_{n}.h5'), truth[r:r + 128, c:c + 128])
        seen[r:r + 128, c:c + 128] += 1
    assert seen[:384, :384].min() == seen.max() == 1 and {o.split(',')[0] for o in places[1:]} == {'train', 'valid'}
    assert all('EPSG:32633,scene.tif' in o for o in places[1:])
    recipe = '[[stages]]\nname = "only"\nbackbone = "test_resnet"\niters = 2\nbs = 2\nsize = 128\n'
    (tmp_path/'tiny.toml').write_text(recipe)
    ok(run('train', tmp_path/'data', tmp_path/'run', '--recipe', tmp_path/'tiny.toml', '--device', 'cpu'))
    assert 'valid' in json.loads((tmp_path/'run/summary.json').read_text())['stages']['only']['scores']


def test_cut_refuses_in_one_line_and_leaves_nothing(world, tmp_path, capsys):
    args = world/'scene.tif', world/'dem.tif'
    (tmp_path/'text.gpkg').write_text('a text')
    far = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326)
    far.to_file(tmp_path/'far.gpkg')
    gpd.GeoDataFrame(geometry=[shapely.Point(15, 46)], crs=4326).to_file(tmp_path/'points.gpkg')
    outlines(world/'truth.tif').set_crs(None, allow_override=True).to_file(tmp_path/'bare.shp')
    full = tmp_path/'full'
    full.mkdir()
    (full/'a').write_text('a')
    there = sorted(o.name for o in tmp_path.iterdir())
    for polygons, words in (('none.gpkg', ['no such file']), ('text.gpkg', ['neither a file of polygons']),
                            ('far.gpkg', ['does not touch the scene']),
                            ('points.gpkg', ['holds no polygons']), ('bare.shp', ['no coordinate reference system'])):
        refused_here(capsys, cut, *args, tmp_path/polygons, tmp_path/'out', words=[polygons, *words])
    slides = world/'slides.geojson'
    refused_here(capsys, cut, *args, slides, full, words=['full', 'not empty'])
    refused_here(capsys, cut, *args, slides, tmp_path/'out', valid=1.5, words=['--valid'])
    refused_here(capsys, cut, *args, slides, tmp_path/'out', stride=0, words=['--stride'])
    refused_here(capsys, cut, *args, slides, tmp_path/'out', valid=.2, split='test', words=['--valid'])
    refused_here(capsys, cut, world/'scene.tif', tmp_path/'none.tif', slides, tmp_path/'out', words=['none.tif', 'no such file'])
    refused_here(capsys, cut, tmp_path/'none.tif', world/'dem.tif', slides, tmp_path/'out', words=['none.tif'])
    refused(run('cut', *args, tmp_path/'none.gpkg', tmp_path/'out'), 'cut', 'no such file')
    assert sorted(o.name for o in tmp_path.iterdir()) == there


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_cut_leaves_nothing_under_the_final_name(world, tmp_path, how):
    args = [BIN/'landslide-cut', world/'scene.tif', world/'dem.tif', world/'slides.geojson', tmp_path/'data', '--stride', '16', '--empty', 'inf']
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell makes what it runs in the background deaf to it
    p = subprocess.Popen([str(o) for o in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard)
    while p.poll() is None and not [*tmp_path.glob('.tmp-data/TrainData/mask/mask_*.h5')]: time.sleep(.01)
    p.send_signal(how)
    out, err = p.communicate()
    assert p.returncode == (130 if how == signal.SIGINT else -how), err
    assert not (tmp_path/'data').exists()
    if how == signal.SIGINT: assert [*tmp_path.iterdir()] == [] and err.decode().strip().splitlines()[-1] == 'landslide-cut: interrupted'
    ok(run('cut', *args[1:5]))
    assert [o.name for o in tmp_path.iterdir()] == ['data']


def test_an_outline_that_crosses_itself_or_lies_elsewhere_is_said(world, tmp_path):
    slides = gpd.read_file(world/'slides.geojson').to_crs(32633)
    bow = shapely.Polygon([(500_100, 5_099_900), (500_300, 5_099_700), (500_300, 5_099_900), (500_100, 5_099_700)])
    odd = [bow, shapely.box(600_000, 5_000_000, 600_100, 5_000_100)]
    gpd.GeoDataFrame(geometry=[*slides.geometry, *odd], crs=32633).to_file(tmp_path/'odd.gpkg')
    said = str(cut_scene(world/'scene.tif', tmp_path/'odd.gpkg', tmp_path/'out', world/'dem.tif', progress=False))
    assert f'1 of {len(slides) + 2} polygons outside the scene' in said and 'repaired: 1' in said
    mask = read_mask(tmp_path/'out/TrainData/mask/mask_1.h5')
    assert mask[10:30, 10:30].sum() >= 200 and mask[20, 12:28].any()


def test_a_checked_map_scores_a_map(world, tmp_path, capsys):
    ok(run('map', world/'model', world/'scene.tif', tmp_path/'MAP', '--dem', world/'dem.tif', '--threshold', .47, '--device', 'cpu'))
    mask, truth = read(tmp_path/'MAP/mask.tif'), read(world/'truth.tif')
    known = CheckedMap(world/'checked.gpkg', Scene(world/'scene.tif', world/'dem.tif').grid)(0, 0, 400, 400)
    assert ((known == 1) <= (truth == 1)).all() and (known == 0).sum() > 1500
    counted = known != 255
    hit = int(((mask == 1) & (known == 1)).sum())
    s = json.loads(ok(run('score', tmp_path/'MAP', world/'checked.gpkg', '--json')).stdout)
    assert s['precision'] == pytest.approx(hit / (mask[counted] == 1).sum()) and s['recall'] == pytest.approx(hit / (known == 1).sum())
    lines = ok(run('score', tmp_path/'MAP/mask.tif', world/'checked.gpkg')).stdout.splitlines()
    assert lines[2] == f'checked: 8 of 9 polygons (6 right, 2 wrong), {counted.sum()} pixels' and 'drawn' in lines[3]
    frame = read_checked(world/'checked.gpkg')
    frame.drop(columns='checked').to_file(tmp_path/'plain.gpkg', layer='landslides')
    frame.assign(checked='maybe').to_file(tmp_path/'odd.gpkg', layer='landslides')
    frame.assign(checked=None).to_file(tmp_path/'fresh.gpkg', layer='landslides')
    frame.set_geometry(frame.geometry.translate(1e6)).to_file(tmp_path/'far.gpkg', layer='landslides')
    for name, word in (('none', 'no such file'), ('plain', "no column 'checked'"),
                       ('odd', "'maybe'"), ('fresh', 'nobody has checked'), ('far', 'touches')):
        refused_here(capsys, score, tmp_path/'MAP', tmp_path/f'{name}.gpkg', words=[name, word])
    refused_here(capsys, score, tmp_path/'nowhere', world/'checked.gpkg', words=['nowhere'])
    refused_here(capsys, score, world/'dem.tif', world/'checked.gpkg', words=['dem.tif', 'not the mask of a map'])


ARGS = dict(iters=3, bs=2, device='cpu')


def test_a_model_learns_from_what_a_person_said(world, tmp_path, capsys):
    "What it maps falls where a person said that it is wrong, and by more than where it is right"
    kw = dict(dem=world/'dem.tif', device='cpu')
    map_command('starter', world/'scene.tif', tmp_path/'a', **kw, polygons='gpkg')
    with rasterio.open(world/'truth.tif') as src: truth, transform = src.read(1), src.transform
    frame = gpd.read_file(tmp_path/'a/landslides.gpkg')
    share = [truth[rasterio.features.geometry_mask([o], truth.shape, transform, invert=True)].mean() for o in frame.geometry]
    said = write_checked(tmp_path/'checked.gpkg', frame.assign(checked=['right' if o > .5 else 'wrong' for o in share]))
    adapt_command('starter', world/'scene.tif', tmp_path/'new', labels=said, iters=30, bs=4, lr=.002, **kw)
    map_command(tmp_path/'new', world/'scene.tif', tmp_path/'b', **kw)
    known = CheckedMap(said, Scene(world/'scene.tif', world/'dem.tif').grid)(0, 0, 400, 400)
    before, after = ([float(read(tmp_path/o/'probability.tif')[known == k].mean()) for k in (0, 1)] for o in 'ab')
    assert after[0] < before[0] and after[0] - before[0] < after[1] - before[1], (before, after)
    told, (net, info) = json.loads((tmp_path/'new/adapt.json').read_text()), load_model(tmp_path/'new')
    assert (told['right'] + told['wrong'], told['checked_pixels']) == (len(frame), (known != 255).sum()) and told['wrong']
    assert net.scaling == load_model('starter')[0].scaling
    refused_here(capsys, adapt_command, 'starter', world/'scene.tif', tmp_path/'new', labels=said, **kw, words=['already holds a model'])


def test_labels_that_cannot_be_are_one_line_and_leave_nothing(world, tmp_path, capsys):
    frame = read_checked(world/'checked.gpkg')
    frame.drop(columns='checked').to_file(tmp_path/'plain.gpkg', layer='landslides')
    frame.assign(checked=None).to_file(tmp_path/'fresh.gpkg', layer='landslides')
    frame.set_geometry(frame.geometry.translate(1e6)).to_file(tmp_path/'far.gpkg', layer='landslides')
    args = world/'model', world/'scene.tif', tmp_path/'out'
    for name, word in (('none', 'no such file'), ('plain', "no column 'checked'"),
                       ('fresh', 'nobody has checked'), ('far', 'touches')):
        refused_here(capsys, adapt_command, *args, labels=tmp_path/f'{name}.gpkg', dem=world/'dem.tif', **ARGS, words=[name, word])
    kw = dict(labels=world/'checked.gpkg', dem=world/'dem.tif')
    refused_here(capsys, adapt_command, *args, **kw, **ARGS, teacher='starter', words=['--teacher', '--labels'])
    refused_here(capsys, adapt_command, *args, **kw, **{**ARGS, 'iters': 0}, words=['--iters'])
    refused_here(capsys, adapt_command, *args, **kw, **ARGS, data=tmp_path, words=['holds no image_N.h5'])
    assert not (tmp_path/'out').exists()


def test_learning_from_labels_that_was_killed_goes_on(world, tmp_path):
    args = ['adapt', world/'model', world/'scene.tif', '--dem', world/'dem.tif', '--labels', world/'checked.gpkg', '--device', 'cpu']
    args += ['--iters', 40, '--bs', 2]
    ok(run(*args[:3], tmp_path/'straight', *args[3:]))
    cmd = [BIN/'landslide-adapt', *args[1:3], tmp_path/'killed', *args[3:], '--checkpoint', 0]
    p = subprocess.Popen([str(o) for o in cmd], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while p.poll() is None and not (tmp_path/'killed/checkpoint.pt').exists(): time.sleep(.01)
    p.kill()
    p.wait()
    assert not (tmp_path/'killed/model.json').exists()
    refused(run(*args[:3], tmp_path/'killed', *args[3:]), 'adapt', 'not finished', 'resume')
    ok(run(*args[:3], tmp_path/'killed', *args[3:], '--resume'))
    a, b = (load_model(tmp_path/o)[0].state_dict() for o in ('straight', 'killed'))
    assert all(torch.equal(a[k], b[k]) for k in a)
