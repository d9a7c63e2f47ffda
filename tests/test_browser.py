"""The explorers in a real browser: JupyterLab and Chromium on this machine, and nothing asked of another one."""
import os
import re
from pathlib import Path

import pytest
from fastcore.nbio import read_nb

from browser import Lab, missing, wait_for

PICTURES = '''
import base64, io, os
import numpy as np, ipywidgets as W
from PIL import Image
from ipyleaflet import GeoJSON, GeomanDrawControl, ImageOverlay, Map, projections
def png(row):
    a = np.zeros((128, 128, 3), np.uint8); a[row] = 255
    b = io.BytesIO(); Image.fromarray(a).resize((512, 512), 0).save(b, 'PNG')
    return b.getvalue()
said = W.HTML(f'process {os.getpid()}')
'''
PICTURE = '''
size = W.Layout(width='512px', height='512px')
picture, row, level = W.Image(value=png(0), layout=size), W.IntSlider(description='row', max=127), W.FloatSlider(description='level', max=1, step=.01)
row.observe(lambda c: setattr(picture, 'value', png(c['new'])), 'value')
level.observe(lambda c: setattr(said, 'value', f"level is {c['new']:.2f}"), 'value')
W.VBox([said, picture, row, level])
'''
MAP = '''
told, drawn, data = W.HTML(), W.HTML(), 'data:image/png;base64,'
m = Map(crs=projections.Simple, layers=(), center=(64, 64), zoom=2, attribution_control=False, layout=size)
overlay = ImageOverlay(url=data + base64.b64encode(png(10)).decode(), bounds=((0, 0), (128, 128)))
ring = [[20, 20], [60, 20], [60, 60], [20, 60], [20, 20]]
shapes = GeoJSON(data=dict(type='Feature', properties=dict(name='scar'), geometry=dict(type='Polygon', coordinates=[ring])), style=dict(color='red'))
pen = GeomanDrawControl(polyline={}, circlemarker={}, circle={}, marker={}, cut=False, rotate=False, drag=False)
for o in (overlay, shapes, pen): m.add(o)
def clicked(**k):
    if k['type'] == 'click': told.value = 'row {:d} column {:d}'.format(int(128 - k['coordinates'][0]), int(k['coordinates'][1]))
m.on_interaction(clicked)
shapes.on_click(lambda **k: setattr(said, 'value', 'this is the ' + k['properties']['name']))
def draw(target, action, geo_json):
    ring, = geo_json[0]['geometry']['coordinates']
    drawn.value = f'{action} {np.round(ring).astype(int).tolist()}'
pen.on_draw(draw)
black = W.Button(description='black')
black.on_click(lambda _: setattr(overlay, 'url', data + base64.b64encode(png(slice(0, 0))).decode()))
W.VBox([m, told, drawn, black])
'''


def running(pid):
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    return True


def pid_of_kernel(nb): return int(nb.outputs.get_by_text(re.compile(r'process \d+')).first.inner_text().split()[-1])


def fails(f):
    "What an assertion in `f()` says, or nothing where all hold"
    try: f()
    except AssertionError as e: return str(e)
    return ''


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    if lacks := missing(): pytest.skip(f'to drive notebooks in a browser there lacks {lacks}')
    with Lab(tmp_path_factory.mktemp('lab')) as lab: yield lab


@pytest.fixture(scope='module')
def nb(lab):
    nb = lab.open(lab.write('pictures and maps.ipynb', PICTURES, PICTURE, MAP))
    nb.run_all()
    yield nb
    nb.close()


def test_a_slider_changes_the_picture(nb):
    before = nb.shot(nb.pictures.first)
    assert nb.slider('row').move(+3) == '3'
    assert nb.changed(nb.pictures.first, before) == pytest.approx(2 / 128, rel=.02)  # the old row and the new one
    nb.slider('row').move(-3)
    wait_for('the first picture', lambda: (nb.shot(nb.pictures.first) == before).all())
    assert nb.slider('level').type(.25) == '0.25'
    nb.wait_text('level is 0.25')


@pytest.mark.parametrize('row, column', [(5, 100), (127, 127), (127, 0), (64, 90)])
def test_a_click_on_a_map_knows_its_pixel(nb, row, column):
    nb.click_at(nb.maps.first, (column + .5) / 128, (row + .5) / 128)
    nb.wait_text(f'row {row} column {column}')


def test_a_button_changes_the_picture_on_the_map(nb):
    before = nb.shot(nb.maps.first)
    nb.press('black')
    assert 0 < nb.changed(nb.maps.first, before) < 3 / 128


def test_a_click_on_a_polygon_knows_which(nb):
    nb.click_at(nb.polygons.first, .3, .3)
    nb.wait_text('this is the scar')
    nb.wait_text('row 79 column 31')


def test_a_polygon_drawn_on_the_map(nb):
    nb.draw(nb.maps.first, [(.5, .25), (.75, .25), (.75, .5)])
    nb.wait_text('create [[64, 96], [96, 96], [96, 64], [64, 96]]')


def test_nothing_went_wrong(nb): nb.check()


FAULTS = '''
from IPython.display import HTML, Javascript, display
import ipywidgets as W
display(HTML('<img src="http://elsewhere.example/tile.png">'), Javascript('console.error("in the page")'))
bad = W.IntSlider(description='bad')
bad.observe(lambda c: {}[c['new']], 'value')
bad
'''


def test_what_goes_wrong_is_told(lab):
    nb = lab.open(lab.write('faults.ipynb', FAULTS, '1 / 0'))
    assert 'faults.ipynb: ZeroDivisionError: division by zero' in fails(nb.run_all)
    nb.slider('bad').move(1)
    for part in 'asked of another host: http://elsewhere.example/tile.png', 'in the console: in the page', 'ZeroDivisionError', 'KeyError: 1':
        wait_for(part, lambda: nb.page.wait_for_timeout(10) or part in fails(nb.check))
    nb.close()


def test_server_kernel_and_browser_end_with_the_context(lab, tmp_path):
    with pytest.raises(KeyboardInterrupt), Lab(tmp_path, lab.play) as own:
        nb = own.open(own.write('kernel.ipynb', "import os\nprint('process', os.getpid())"))
        nb.run_all()
        kernel = pid_of_kernel(nb)
        assert running(own.server.pid) and running(kernel) and own.browser.is_connected()
        raise KeyboardInterrupt
    assert own.server.poll() is not None and not own.browser.is_connected()
    wait_for('the end of the kernel', lambda: not running(kernel))


# The tutorials' explorers

def tutorial(lab, name):
    "A tutorial as somebody finds it, but that nothing is installed"
    path = Path(__file__).parents[1]/'nbs/tutorials'/f'{name}.ipynb'
    nb = lab.open(lab.write(path.name, *[o.source for o in read_nb(path).cells if o.cell_type == 'code' and '#| eval: false' not in o.source]))
    nb.run_all(300)
    return nb


def test_walking_through_patches(lab):
    nb = tutorial(lab, 'explore_patches')
    plain, asked = nb.outputs.locator('.landslide-explorer').all()
    assert (plain.locator('.leaflet-container').count(), asked.locator('.leaflet-container').count()) == (1, 3)
    picture, chart = plain.locator('.leaflet-container'), plain.locator('.widget-image')
    patch, spectrum = nb.shot(picture), nb.shot(chart)
    nb.slider('opacity').move(+5)
    assert .01 < nb.changed(picture, patch) < .5, 'the mask of one landslide'
    assert (nb.shot(chart) == spectrum).all(), 'the same pixel'
    nb.click_at(picture, 100.5 / 128, 20.5 / 128)
    plain.get_by_text('row 20, column 100: ').wait_for()
    assert nb.changed(chart, spectrum) > .001
    patch = nb.shot(picture)
    assert nb.slider('patch').move(+2) == '2'
    assert nb.changed(picture, patch) > .5, 'another patch'
    nb.check()
    nb.close()


def test_checking_a_map(lab):
    nb = tutorial(lab, 'quickstart')
    whole = nb.outputs.locator('.landslide-map').first
    leaflet, polygons = whole.locator('.leaflet-container'), whole.locator('.leaflet-overlay-pane path')
    n = polygons.count()
    assert n > 3
    before = nb.shot(leaflet)
    nb.slider('opacity').move(+6)
    assert nb.changed(leaflet, before) > .001, 'the landslides stand out'
    largest = max(polygons.all(), key=lambda o: (lambda b: b['width'] * b['height'])(o.bounding_box()))
    largest.click()
    told = whole.get_by_text(re.compile(r'^polygon \d+: [\d\s]+ m², probability 0\.\d+.*; not checked'))
    told.wait_for()
    before = nb.shot(leaflet)
    nb.press('wrong')
    whole.get_by_text(re.compile(r'^polygon \d+: .*; wrong$')).wait_for()
    assert nb.changed(leaflet, before) > 0, 'drawn otherwise'
    nb.draw(leaflet, [(.45, .45), (.55, .45), (.55, .55)])
    whole.get_by_text(f'polygon {n}: ').wait_for()
    nb.press('save')
    whole.get_by_text(f'checked.gpkg: 1 right, 1 wrong, {n - 1} not checked').wait_for()
    nb.check()
    nb.close()
