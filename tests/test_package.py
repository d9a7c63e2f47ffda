"""The package as it is built, installed and laid out: its metadata, commands, floors and notebooks."""
import ast
import importlib.util
import re
import statistics
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import distribution, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from fastcore.nbio import mk_cell, new_nb, read_nb, write_nb
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import landslide_nb

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT/'landslide_nb'
NOTEBOOKS = sorted(o for o in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
INSTALL = '#| hide\n#| eval: false\n!pip install -q '
REPO = 'git+https://github.com/landslide-nb/landslide_nb'


def settings():
    parser = ConfigParser(delimiters=['='])
    parser.read(ROOT/'settings.ini', encoding='utf-8')
    return parser['DEFAULT']


CFG = settings()
EXTRAS = ('dev', 'geo', 'explore', 'dask', 'accelerate', 'sentinel2', 'browser')
COMMANDS = dict(o.split('=') for o in CFG['console_scripts'].split())


def cells(path): return read_nb(path).cells


def default_exp(path):
    "The module a notebook is exported to, if any"
    found = re.findall(r'^#\| *default_exp +(\S+)', '\n'.join(o.source for o in cells(path)), re.M)
    assert len(found) <= 1, f'{path.name} names several modules'
    return found[0] if found else None


WINGS = ('core', 'data', 'model', 'predict', 'selftrain', 'look', 'train', 'scene', 'scene', 'app') # by decade, from the ground up
SOURCES = [o for o in sorted((ROOT/'nbs').glob('*.ipynb')) if o.name != 'index.ipynb']
FLOORS = [default_exp(o) for o in SOURCES]
MODULES = sorted('.'.join(o.relative_to(PACKAGE).with_suffix('').parts) for o in PACKAGE.glob('*/*.py') if not o.stem.startswith('_'))


def tree(module): return ast.parse((PACKAGE/f'{module.replace(".", "/")}.py').read_text(encoding='utf-8'))


def imports(module):
    "Dotted names that `module` imports anywhere in its body, those of this package starting with a dot"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import): names = [o.name for o in node.names]
        elif not isinstance(node, ast.ImportFrom): continue
        elif node.level: # from here, or from the wing or the package above
            base = ['', *module.split('.')[:-1]][:len(module.split('.')) + 1 - node.level]
            names = ['.'.join([*base, node.module])] if node.module else ['.'.join([*base, o.name]) for o in node.names]
        elif node.module == 'landslide_nb': names = [f'.{o.name}' for o in node.names]
        else: names = [node.module]
        for name in names: yield re.sub(r'^landslide_nb\.', '.', name)


def public(module):
    "The names that a star import of a module gives"
    return next(ast.literal_eval(o.value) for o in tree(module).body if isinstance(o, ast.Assign) and o.targets[0].id == '__all__')


def exported(path):
    "The lines of each exported cell of a notebook, without those that hold imports alone"
    for c in cells(path):
        if c.cell_type != 'code' or not re.match(r'#\| *exporti?\b', c.source): continue
        lines = [o for o in c.source.splitlines() if not o.startswith('#|')]
        if not all(isinstance(o, (ast.Import, ast.ImportFrom)) for o in ast.parse('\n'.join(lines)).body): yield lines


def python(code):
    "What a fresh interpreter prints for `code`"
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    return res.stdout.split()


@cache
def needs(*packages):
    "The modules that cannot do all their work without some packages, by themselves or through others"
    res = set()
    for module in FLOORS: # from the bottom up
        if {*packages, *(f'.{o}' for o in res)} & set(imports(module)): res.add(module)
    return res


NEEDS = dict(geo=('rasterio', 'pyogrio'), explore=('ipywidgets', 'ipyleaflet'))


# Metadata

def test_metadata_is_what_settings_say():
    dist = distribution('landslide_nb')
    meta = dist.metadata
    assert landslide_nb.__version__ == dist.version == CFG['version']
    assert meta['Summary'] == CFG['description']
    assert meta['License-Expression'] == CFG['license']
    assert meta['Requires-Python'] == f">={CFG['min_python']}"
    assert meta.get_all('Project-URL') == [f"Repository, {CFG['url']}", f"Documentation, {CFG['doc_url']}"]
    assert meta.get_all('Classifier') == CFG['classifiers'].splitlines()
    plain = {str(Requirement(o)) for o in CFG['requirements'].split()}
    extra = {str(Requirement(f'{o}; extra == "{k}"')) for k in EXTRAS for o in CFG[f'{k}_requirements'].split()}
    assert {str(Requirement(o)) for o in dist.requires} == plain | extra
    assert {f'{k}_requirements' for k in EXTRAS} == {o for o in CFG if o.endswith('_requirements')}
    entries = {(o.group, o.name, o.value) for o in dist.entry_points}
    scripts = {('console_scripts', name, target) for name, target in COMMANDS.items()}
    assert entries == scripts | {('nbdev', 'landslide_nb', 'landslide_nb._modidx:d')}


@pytest.mark.parametrize('version, asked', [('3.11', True), ('3.12', True), ('3.13', False), ('3.14', False)])
def test_plain_pip_is_asked_for_pydensecrf2_only_where_its_shipped_code_compiles(version, asked):
    req, = (o for o in map(Requirement, CFG['requirements'].split()) if o.name == 'pydensecrf2')
    assert req.marker.evaluate({'python_version': version}) == asked


def test_constraints_pin_a_release_of_every_requirement_that_satisfies_it():
    pins = [Requirement(o) for o in (ROOT/'constraints.txt').read_text().splitlines() if o and not o.startswith('#')]
    pinned = {canonicalize_name(o.name): str(o.specifier) for o in pins}
    assert len(pinned) == len(pins)
    assert all(re.fullmatch(r'==[\d.]+', o) for o in pinned.values())
    for req in map(Requirement, ' '.join([CFG['requirements'], *(CFG[f'{k}_requirements'] for k in EXTRAS)]).split()):
        if req.marker and not req.marker.evaluate(): continue
        assert req.specifier.contains(pinned[canonicalize_name(req.name)][2:]), req


def test_floors_are_what_is_declared():
    lines = [Requirement(o) for o in (ROOT/'floors.txt').read_text().splitlines() if o and not o.startswith('#')]
    floors = {canonicalize_name(o.name): Version(str(o.specifier).removeprefix('==')) for o in lines}
    declared = map(Requirement, ' '.join([CFG['requirements'], *(CFG[f'{k}_requirements'] for k in EXTRAS)]).split())
    assert floors == {canonicalize_name(o.name): Version(str(o.specifier).removeprefix('>=')) for o in declared}


def test_every_third_party_import_is_a_declared_requirement():
    kinds = '', 'geo_', 'explore_', 'dask_', 'accelerate_', 'sentinel2_'
    declared = {canonicalize_name(Requirement(o).name) for k in kinds for o in CFG[f'{k}requirements'].split()}
    owners = {'pydensecrf': ['pydensecrf2']} | packages_distributions() # also where it could not be built
    used = {o.split('.')[0] for o in chain.from_iterable(map(imports, MODULES)) if not o.startswith('.')}
    for name in used - sys.stdlib_module_names - {'landslide_nb'}:
        assert declared & set(map(canonicalize_name, owners.get(name, [name]))), f'{name} is imported but not declared'


@pytest.mark.parametrize('command', COMMANDS)
def test_command_explains_itself(command):
    res = subprocess.run([Path(sys.executable).parent/command, '--help'], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    assert command in res.stdout


# The house

def test_every_module_has_one_notebook():
    assert sorted(FLOORS) == MODULES
    assert [o.stem.split('_', 1)[1] for o in SOURCES] == FLOORS


def test_a_decade_a_wing_and_every_number_once():
    numbers = [o.name.split('_')[0] for o in SOURCES]
    assert len(set(numbers)) == len(numbers)
    assert {o.name: WINGS[int(o.name[0])] for o in SOURCES} == {o.name: default_exp(o).split('.')[0] for o in SOURCES}
    assert sorted(o.name for o in PACKAGE.iterdir() if o.is_dir() and o.name not in ('__pycache__', 'starter')) == sorted({*WINGS})


@pytest.mark.parametrize('module', MODULES)
def test_imports_only_from_below(module):
    "From the wings below its own, and in its own wing from the modules below it"
    above, known = FLOORS[FLOORS.index(module):], {'', '__version__', *FLOORS}
    for name in imports(module):
        if not name.startswith('.'): continue
        assert name[1:] in known, f'{module} imports {name}'
        assert name[1:] not in above, f'{module} imports {name}'


def test_the_ground_floor_stands_alone():
    loaded = python('import sys, landslide_nb.data.check; print(*sys.modules)')
    ours = {o.removeprefix('landslide_nb.') for o in loaded if o.startswith('landslide_nb.')}
    assert ours <= {'core', 'data', *(o for o in FLOORS if o.split('.')[0] in ('core', 'data'))}
    assert not {'torch', 'pydensecrf', 'timm', 'segmentation_models_pytorch', 'fastai'} & set(loaded)


def test_the_front_door_gives_what_a_person_types():
    given = set(python('from landslide_nb.all import *; print(*dir())'))
    assert {o for m in MODULES if m != 'app.commands' for o in public(m)} <= given


def test_names_are_few_and_none_is_for_tests_alone():
    names = {o: m for m in MODULES for o in public(m)}
    assert len(names) == sum(len(public(m)) for m in MODULES) <= 150
    assert not {'found', 'told', 'by', 'GoOn', 'GoOnWithin'} & names.keys()
    texts = {m: ast.dump(tree(m)) for m in MODULES} | {o.name: o.read_text(encoding='utf-8') for o in (ROOT/'bench').glob('*.py')}
    lessons = '\n'.join(c.source for o in NOTEBOOKS for c in cells(o) if not c.source.startswith('#| export'))
    commands = {o.split(':')[1] for o in COMMANDS.values()}
    used = {n for n, home in names.items() if any(re.search(rf'\b{n}\b', t) for t in (lessons, *(t for m, t in texts.items() if m != home)))}
    assert sorted(names.keys() - used - commands) == []


def test_exported_cells_are_small():
    sizes = {o.name: [len(c) for c in exported(o)] for o in SOURCES}
    assert {k: max(v) for k, v in sizes.items() if max(v, default=0) > 60} == {}
    assert statistics.median(chain.from_iterable(sizes.values())) <= 15


def test_every_notebook_shows_something():
    few = {o.name: n for o in NOTEBOOKS if o.name[0].isdigit() and (n := sum(bool(c.get('outputs')) for c in read_nb(o).cells)) < 3}
    assert not few
    assert len([o for o in NOTEBOOKS if o.name[0].isdigit()]) <= 48


def test_lines_are_short():
    long = [f'{o.name}:{i}' for d in ('tests', 'bench', 'tools') for o in (ROOT/d).glob('*.py')
            for i, line in enumerate(o.read_text(encoding='utf-8').splitlines(), 1) if len(line) > 150]
    assert long == []


def test_what_is_not_a_scene_needs_no_rasterio():
    "Every module can be imported without the extras, and no module imports them before they are used"
    lines = '\n'.join(f'import landslide_nb.{o}' for o in [*MODULES, 'all'])
    block = 'import sys\nfor o in ("rasterio", "pyogrio", "dask", "distributed", "accelerate", "ipywidgets", "ipyleaflet"): sys.modules[o] = None\n'
    assert python(f'{block}{lines}\nprint(len(sys.modules) > 9)') == ['True']


def test_importing_draws_nothing_and_leaves_nothing_running():
    lines = '\n'.join(f'import landslide_nb.{o}' for o in MODULES)
    state = 'import threading, matplotlib.pyplot as plt, torch\nprint(threading.active_count(), len(plt.get_fignums()), torch.is_grad_enabled())'
    assert python(f'{lines}\n{state}') == ['1', '0', 'True']


@pytest.mark.parametrize('module', MODULES)
def test_nothing_read_from_disk_can_run_code(module):
    assert not {'pickle', 'joblib', 'dill', 'cloudpickle', 'shelve', 'marshal'} & {o.split('.')[0] for o in imports(module)}
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call): continue
        call = ast.unparse(node.func)
        given = {o.arg: ast.unparse(o.value) for o in node.keywords}
        assert call not in ('eval', 'exec', 'load_learner', 'yaml.load'), f'{call} in {module}'
        assert given.get('allow_pickle', 'False') == 'False', f'{call} in {module}'
        if call == 'torch.load': assert given.get('weights_only') == 'True', f'torch.load in {module}'


# Notebooks

def check_guide(found): assert {o.cell_type for o in found} == {'markdown'}, 'a page of the guide is prose'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda o: o.relative_to(ROOT/'nbs').as_posix())
def test_notebook_form(path):
    assert path.stat().st_size < 300_000
    found = cells(path)
    assert found[0].cell_type == 'markdown' and re.match(r'# .+\n\n> .+', found[0].source), 'title and subtitle come first'
    assert not [o for c in found for o in c.get('outputs', []) if o.output_type == 'error'], 'a stored error'
    text = path.read_text(encoding='utf-8')
    assert not [o for o in (str(ROOT), str(Path.home()), 'site-packages') if o in text], 'a path of this machine'
    assert not re.search(r'\.\./shared|shared/data', text), 'data that a reader does not have'
    if path.name == 'index.ipynb': return
    if path.parent.name == 'guide': return check_guide(found)
    code = '\n'.join(o.source for o in found if o.cell_type == 'code')
    used = {default_exp(path), *re.findall(r'^ *(?:from|import) +landslide_nb\b\.?([\w.]*)', code, re.M)}
    if default_exp(path) is None:
        assert used == {None, 'all'}, 'a tutorial uses the front door, and nothing else of the package'
        used |= {m for o in NEEDS.values() for m in needs(*o) - {'app.commands'} for o in public(m) if re.search(rf'\b{o}\b', code)}
    extras = [k for k, o in NEEDS.items() if used & needs(*o)]
    what = f"'landslide_nb[{','.join(extras)}] @ {REPO}'" if extras else REPO
    assert INSTALL + what in [o.source.strip() for o in found], f'the hidden install cell is missing, or not for {what}'
    assert (default_exp(path) is None) == ('tutorials' in path.parts)


# The README

@pytest.fixture(scope='module')
def readme():
    spec = importlib.util.spec_from_file_location('readme', ROOT/'tools/readme.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod


def test_readme_is_what_the_index_gives(readme):
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme.readme(ROOT/'nbs/index.ipynb')


def test_readme_shows_what_a_reader_sees(readme, tmp_path):
    result = dict(output_type='execute_result', data={'text/plain': '3'}, metadata={}, execution_count=1)
    figure = dict(output_type='display_data', data={'image/png': 'aaaa', 'text/plain': '<Figure>'}, metadata={})
    table = dict(output_type='display_data', data={'text/plain': 'x', 'text/markdown': '| a |\n|---|\n| 1 |'}, metadata={})
    warning = dict(output_type='stream', name='stderr', text='beware')
    cells = [mk_cell('# Title\n\n> Sub', 'markdown'), mk_cell('#| hide\nsecret()'), mk_cell('#| eval: false\nrun()'),
             mk_cell('1 + 2', outputs=[result]), mk_cell('plot()', outputs=[figure, warning, table])]
    write_nb(new_nb(cells), tmp_path/'index.ipynb')
    parts = [readme.HEAD, '# Title\n\n> Sub', '```python\nrun()\n```', '```python\n1 + 2\n```', '    3',
             '```python\nplot()\n```', '| a |\n|---|\n| 1 |']
    assert readme.readme(tmp_path/'index.ipynb') == '\n\n'.join(parts) + '\n'


def test_readme_links_lead_somewhere_from_the_root(readme):
    nbs = ROOT/'nbs'
    assert readme.from_root('[a](10_data.bands.ipynb#units)', nbs) == '[a](nbs/10_data.bands.ipynb#units)'
    for text in ('[a](https://example.org/10_data.bands.ipynb)', '[a](#bands)', '[a](nowhere.ipynb)'): assert readme.from_root(text, nbs) == text
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    assert [o for o in relative_links(text) if not (ROOT/o).exists()] == []


def relative_links(text): return re.findall(r'\]\((?![a-z]+:|#)([^)#\s]+)', text)


def test_every_notebook_is_named():
    "Those of the wings by the house page, tutorials and guide by the README"
    house = '\n'.join(c.source for c in cells(ROOT/'nbs/guide/house.ipynb'))
    named = {(ROOT/'nbs/guide'/o).resolve() for o in relative_links(house)}
    named |= {ROOT/o for o in relative_links((ROOT/'README.md').read_text(encoding='utf-8'))}
    assert [o.name for o in NOTEBOOKS if o.name != 'index.ipynb' and o not in named] == []
    assert [o.name for o in SOURCES if f'../{o.name}' not in house] == []


def test_the_readme_is_short_and_begins_with_a_picture():
    lines = (ROOT/'README.md').read_text(encoding='utf-8').splitlines()
    assert len(lines) <= 120
    text = [o for o in lines if o and not o.startswith(('<!--', '#', '>'))]
    image, = re.findall(r'^!\[.+\]\((nbs/images/.+\.jpg)\)$', text[0])
    assert (ROOT/image).stat().st_size < 200_000
