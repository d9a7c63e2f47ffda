"""The documentation's checker finds what leads nowhere, and finds nothing in the site as it is."""
import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import yaml
from fastcore.nbio import mk_cell, new_nb, write_nb

ROOT = Path(__file__).parents[1]
GOOD = '''Read [on](b.ipynb#its-own-heading), [here](#a-part-of-it), `landslide_nb.data.bands.IGNORE`, `21_model.losses` and `tools/docs.py`:
![a picture](images/a.png), [code](https://github.com/landslide-nb/landslide_nb/blob/main/tools/docs.py), [`PseudoBank`](b.ipynb), `[no](link.ipynb)`.

```python
[not](a_link.ipynb)
```
'''


@pytest.fixture(scope='module')
def docs():
    spec = importlib.util.spec_from_file_location('docs', ROOT/'tools/docs.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod


@pytest.fixture
def site(docs, tmp_path):
    "A site of three pages in a copy of the repository's outline; gives what writes its first page and lists the faults"
    nbs = tmp_path/'nbs'
    (nbs/'images').mkdir(parents=True)
    (nbs/'images/a.png').write_bytes(b'')
    for o in ('_quarto.yml', 'nbdev.yml', 'styles.css'): shutil.copy(ROOT/'nbs'/o, nbs/o)
    for o in ('landslide_nb', 'tools'): (tmp_path/o).symlink_to(ROOT/o)
    write = lambda name, *cells: write_nb(new_nb([mk_cell(f'# {name}\n\n> One page', 'markdown'), *cells]), nbs/f'{name}.ipynb')
    write('b', mk_cell('## Its *own* heading', 'markdown'))
    exports = '#| default_exp model.losses', '#| export\ndef cross_entropy(): pass', '#| exporti\ndef helper(): pass'
    write('21_model.losses', *map(mk_cell, exports))
    write('index')

    def faults(text=GOOD, bar=None, code=()):
        write('a', mk_cell('## A part of `it`', 'markdown'), mk_cell(text, 'markdown'), *map(mk_cell, code))
        contents = [o.as_posix() for o in docs.notebooks(nbs)] if bar is None else bar
        (nbs/'sidebar.yml').write_text(yaml.safe_dump(dict(website=dict(sidebar=dict(contents=contents)))))
        return list(docs.Check(tmp_path, docs.plain_pages(nbs)).faults())
    return faults


def test_a_good_page_has_no_fault(site): assert site() == []


@pytest.mark.parametrize('text, fault', [
    ('[x](c.ipynb)', 'link c.ipynb: does not exist'),
    ('[x](../tools/docs.py)', 'link ../tools/docs.py: leads out of the site'),
    ('![x](images/b.png)', 'image images/b.png: does not exist'),
    ('<img src="images/b.png">', 'image images/b.png: does not exist'),
    ('![x](attachment:b.png)', 'image attachment:b.png: there is no such attachment'),
    ('[![x](images/b.png)](b.ipynb)', 'image images/b.png: does not exist'),
    ('[x](b.ipynb#another)', 'link b.ipynb#another: there is no heading #another in nbs/b.ipynb'),
    ('[x](#another)', 'link #another: there is no heading #another in nbs/a.ipynb'),
    ('[x](https://landslide-nb.github.io/landslide_nb/c.html)', 'there is no such page'),
    ('[x](https://landslide-nb.github.io/landslide_nb/b.html#another)', 'there is no heading #another'),
    ('[x](https://github.com/landslide-nb/landslide_nb/blob/main/tools/none.py)', 'tools/none.py is not in the repository'),
    ('[x](https://colab.research.google.com/github/landslide-nb/landslide_nb/blob/main/nbs/c.ipynb)', 'nbs/c.ipynb is not in the repository'),
    ('![x](https://github.com/landslide-nb/landslide_nb/actions/workflows/c.yaml/badge.svg)', '.github/workflows/c.yaml is not in the repository'),
    ('`landslide_nb.data.bands.NOTHING`', '`landslide_nb.data.bands.NOTHING` does not exist'),
    ('`landslide_nb.data.nothing`', '`landslide_nb.data.nothing` does not exist'),
    ('`landslide_nb.selftrain.bank.PseudoBank.nothing()`', '`landslide_nb.selftrain.bank.PseudoBank.nothing` does not exist'),
    ('`22_model.losses`', '`22_model.losses` is no notebook'),
    ('`tools/none.py`', '`tools/none.py` does not exist')])
def test_what_leads_nowhere_is_named_with_its_page(site, text, fault):
    found, = site(text)
    assert found.startswith('nbs/a.ipynb: ') and fault in found


def test_the_sidebar_holds_every_page_once(site):
    assert site(bar=['index.ipynb', 'a.ipynb', 'b.ipynb']) == ['nbs/sidebar.yml: 21_model.losses.ipynb is not in it']
    names = ['index.ipynb', 'a.ipynb', '21_model.losses.ipynb', 'b.ipynb', 'b.ipynb']
    assert site(bar=names) == ['nbs/sidebar.yml: b.ipynb is in it 2 times']
    assert site(bar=[*names[:-1], 'gone.ipynb']) == ['nbs/sidebar.yml: gone.ipynb does not exist']


def test_only_public_names_have_an_entry(docs, site, tmp_path):
    assert site(code=['show_doc(cross_entropy)']) == []
    assert site(code=['show_doc(helper)']) == ['nbs/a.ipynb: an API entry for helper, which is not public']
    assert docs.plain_page(tmp_path/'nbs', Path('21_model.losses.ipynb')).entries == ['cross_entropy']


@pytest.mark.parametrize('head, name', [
    ('Heading identifiers in HTML', 'heading-identifiers-in-html'), ("Maître d'hôtel", 'maître-dhôtel'),
    ('*Dogs*?--in *my* house?', 'dogsin-my-house'),
    ('[HTML], [S5], or [RTF]?', 'html-s5-or-rtf'), ('3. Applications', 'applications'), ('33', 'section'), ('Überblick', 'überblick'),
    ('A _b_ of `c_d.__e__`', 'a-b-of-c_d.__e__'), ('Split.__add__', 'split.__add__'), ('A {#sec-b .c}', 'sec-b')])
def test_headings_have_the_names_that_pandoc_gives_them(docs, head, name): assert docs.anchor(head) == name


def test_imports_of_a_lesson_stand_alone(site):
    good = 'import os, sys', 'x = 1', '#| eval: false\nimport os\nx = 1', 'def f():\n    import os', '#| export\ndef cross_entropy(): import os'
    assert site(code=good) == []
    fault, = site(code=['#| hide\nimport os\nx.remove(os)'])
    assert fault == 'nbs/a.ipynb: `import os` stands in a cell with other code, which nbdev would run without the cells before it'


def test_what_stands_under_the_subtitle_is_on_the_page(docs, tmp_path):
    write_nb(new_nb([mk_cell('# Title\n\n> Subtitle\n\nSee [there](#nowhere).', 'markdown')]), tmp_path/'a.ipynb')
    assert docs.plain_page(tmp_path, Path('a.ipynb')).prose.strip().endswith('See [there](#nowhere).')


def test_links_that_nbdev_makes_lead_to_entries(docs):
    site = f'[`%s`]({docs.SITE}%s#%s)'
    page = lambda path, *cells: docs.Page(new_nb(list(cells)), Path(path))
    text = mk_cell(' '.join(site % (o, 'bank.html', o.lower()) for o in ('Bank', 'Bank.make', 'helper')), 'markdown')
    pages = docs.relink([page('00_bank.ipynb', mk_cell('show_doc(Bank)')), page('a.ipynb', text)])
    assert pages[1].prose == ' '.join([site % ('Bank', 'bank.html', 'bank'), site % ('Bank.make', 'bank.html', 'bank'), '`helper`'])


def test_the_site_as_it_is(docs):
    assert list(docs.Check(ROOT, docs.plain_pages(ROOT/'nbs')).faults()) == []
    assert (ROOT/'nbs/sidebar.yml').read_text(encoding='utf-8') == docs.sidebar(ROOT/'nbs')


# What is said of the project

def version(): return re.search(r'^version = (.+)$', (ROOT/'settings.ini').read_text(encoding='utf-8'), re.M)[1]


def test_the_citation_is_in_the_form_of_cff_and_of_this_version():
    cff = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8'))
    assert {'cff-version', 'message', 'title', 'authors'} <= cff.keys()
    assert cff['cff-version'] == '1.2.0' and str(cff['version']) == version()
    licence, = re.findall(r'^license = (.+)$', (ROOT/'settings.ini').read_text(encoding='utf-8'), re.M)
    assert cff['license'] == licence
    for o in cff['references']:
        assert {'type', 'title', 'authors'} <= o.keys()
        assert all({'family-names', 'name'} & a.keys() for a in o['authors'])
        assert re.fullmatch(r'10\.\d{4,}/\S+', o['doi']) if 'doi' in o else o['url'].startswith('https://')


def test_the_changelog_begins_with_what_is_unreleased():
    heads = re.findall(r'^## \[(.+?)\]', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)
    assert heads[0] == 'Unreleased' and len({*heads}) == len(heads)
    kinds = {'Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security'} # of Keep a Changelog
    assert {*re.findall(r'^### (.+)$', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)} <= kinds
