"""The documentation site: its sidebar, nbdev's pages made from every notebook, a check of all that they point at, and Quarto where it is installed.

`python tools/docs.py` does all of it; with `--sidebar` it only writes nbs/sidebar.yml."""
import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache, cached_property
from pathlib import Path
from urllib.parse import unquote

import yaml
from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev.config import nbpath2html
from nbdev.doclinks import NbdevLookup
from nbdev.processors import FilterDefaults
from nbdev.process import NBProcessor
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

ROOT = Path(__file__).resolve().parents[1]
SITE, REPO = 'https://landslide-nb.github.io/landslide_nb/', 'https://github.com/landslide-nb/landslide_nb'
MADE = '# Made by `make export`: tools/docs.py knows the order of tutorials and guide, the wings follow their numbers\n'
ORDER = dict(tutorials=['quickstart', 'explore_patches', 'self_training', 'map_a_scene', 'your_own_data', 'what_to_trust'],
             guide=['benchmark', 'scenes', 'results', 'runs', 'house'])
WINGS = 'core data model predict selftrain look train scene scene app'.split() # by decade
LINK = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\s*<?([^)\s>]+)>?(?:\s+"[^"]*")?\s*\)'
                  r'|<(img|a)\s[^>]*?(?:src|href)=["\']([^"\']+)')
HOSTS = r'github\.com|colab\.research\.google\.com/github|raw\.githubusercontent\.com'
FILE = re.compile(rf'https://(?:{HOSTS})/landslide-nb/landslide_nb(?:/(?:blob|tree|raw))?/main/(.*)')
AUTO = re.compile(r'\[(`[^`]+`)\]\(' + re.escape(SITE) + r'([\w.]+\.html)#([^)]+)\)')


# The sidebar

def notebooks(nbs):
    "The notebooks of the folder `nbs`, relative to it"
    return sorted(o.relative_to(nbs) for o in nbs.rglob('*.ipynb') if not any(p[0] in '._' for p in o.relative_to(nbs).parts))


def sidebar(nbs):
    "The text of sidebar.yml: tutorials, guide, then a section a wing"
    found = notebooks(nbs)
    sections = [(k.title(), [p for o in v if (p := Path(k, f'{o}.ipynb')) in found]) for k, v in ORDER.items()]
    numbered = [o for o in found if len(o.parts) == 1 and re.match(r'\d\d_', o.name)]
    sections += [(w, [o for o in numbered if WINGS[int(o.name[0])] == w]) for w in dict.fromkeys(WINGS)]
    contents = ['index.ipynb', *(dict(section=k, contents=[o.as_posix() for o in v]) for k, v in sections if v)]
    return MADE + yaml.safe_dump(dict(website=dict(sidebar=dict(contents=contents))), sort_keys=False)


def strings(tree):
    "Every string in what a YAML file holds"
    if isinstance(tree, dict): tree = tree.values()
    elif not isinstance(tree, list): return [tree] if isinstance(tree, str) else []
    return [s for o in tree for s in strings(o)]


# Pages

class Page:
    "A notebook as nbdev's processors leave it: what it says, what can be linked in it, and which names it documents"
    def __init__(self, nb, path): self.nb, self.path, self.out = nb, path, nbpath2html(path).as_posix()

    @cached_property
    def entries(self):
        "The names that have an entry on the API page"
        return re.findall(r'^show_doc\(([\w.]+)', '\n'.join(c.source for c in self.nb.cells if c.cell_type == 'code'), re.M)

    def texts(self):
        "Each piece of Markdown: where it is kept and under which key, as a list of (holder, key)"
        for c in self.nb.cells:
            if c.cell_type == 'markdown': yield c, 'source'
            for o in c.get('outputs', []):
                if 'text/markdown' in (data := o.get('data', {})): yield data, 'text/markdown'

    @cached_property
    def prose(self):
        "All Markdown without fenced blocks and comments"
        text = '\n\n'.join(''.join(o[k]) for o, k in self.texts())
        return re.sub(r'^(`{3,}|~{3,}).*?^\1\s*$|<!--.*?-->', '', text, flags=re.M | re.S)

    @cached_property
    def anchors(self):
        "What can stand after a #: the headings as Pandoc names them, the entries, and explicit ids"
        heads = re.findall(r'^#{1,6} +(.+?)\s*#*$', self.prose, re.M)
        found = Counter(map(anchor, heads)) # a heading that comes again gets a number
        numbered = {f'{k}-{i}' if i else k for k, n in found.items() for i in range(n)}
        return numbered | {o.lower() for o in self.entries} | set(re.findall(r'(?:\{#|\bid=["\'])([\w.-]+)', self.prose))

    @cached_property
    def attachments(self): return {k for c in self.nb.cells for k in c.get('attachments', {})}


def anchor(head):
    "The name that Pandoc gives a heading"
    if explicit := re.search(r'\{#([\w.-]+)', head): return explicit[1]
    head = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', re.sub(r'\s*\{[^}]*\}\s*$', '', head))
    head = re.sub(r'(?<!\w)_([^_]+)_(?!\w)', r'\1', head.replace('--', ''))
    head = re.sub(r'\s+', '-', re.sub(r'[^\w\s.-]', '', head).strip().lower())
    return re.sub(r'^[\W\d_]+', '', head) or 'section'


def slug(head):
    "The name that GitHub gives a heading"
    head = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', head.strip())
    return re.sub(r'[^\w\s-]', '', head.lower()).replace(' ', '-')


def opened(nb, source):
    "`nb` with the prose that stands under the subtitle in its first cell, all of which nbdev takes for the page's title alone"
    head = next((c.source for c in read_nb(source).cells if c.cell_type == 'markdown'), '')
    if (intro := re.sub(r'\A#.*\n+(>.*\n*)?', '', head).strip()) and not any(c.get('id') == 'intro' for c in nb.cells):
        nb.cells.insert(1, cell := mk_cell(NbdevLookup().linkify(intro), 'markdown'))
        cell.id = 'intro'
    return nb


def plain_page(nbs, path):
    "A page without the signatures that nbdev gets by running a notebook's exported cells"
    procs = [o for o in FilterDefaults().procs() if o.__name__ != 'exec_show_docs']
    nb = read_nb(nbs/path)
    NBProcessor(nb=nb, procs=procs, rm_directives='quarto').process()
    return Page(opened(nb, nbs/path), path)


def plain_pages(nbs): return relink([plain_page(nbs, o) for o in notebooks(nbs)])


def full_pages(root):
    "The pages that Quarto renders, in the folder _proc, made anew, since a page's links depend on other notebooks and on the modules"
    refresh_quarto_yml()
    shutil.rmtree(root/'_proc', ignore_errors=True)
    cache = proc_nbs(n_workers=1)
    pages = relink([Page(opened(read_nb(cache/o), root/'nbs'/o), o) for o in notebooks(root/'nbs')])
    for o in pages: write_nb(o.nb, cache/o.path)
    return pages


def relink(pages):
    """`pages` with nbdev's links to names that have no entry undone: private ones, and commands, which share their names with everyday words;
    a method that is documented with its class leads there"""
    entries = {o.out: {e.lower() for e in o.entries} for o in pages}
    def link(m):
        name, out, to = m.groups()
        found = entries.get(out, set())
        if out == 'app.commands.html': return name
        to = next((o for o in (to, to.split('.')[0]) if o in found), None)
        return f'[{name}]({SITE}{out}#{to})' if to else name
    for page in pages:
        for o, k in page.texts(): o[k] = AUTO.sub(link, ''.join(o[k]))
    return pages


# The check

@cache
def house(root): return House(root)


class House:
    "The package as its files say: its modules, and the names at the top of each"
    def __init__(self, root):
        self.trees = {}
        for o in root.rglob('*.py'):
            parts = o.relative_to(root.parent).with_suffix('').parts
            self.trees['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = ast.parse(o.read_text(encoding='utf-8'))
        self.public = {n for t in self.trees.values() for n in self._all(t)}

    def _all(self, tree):
        found = [o.value for o in tree.body if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__']
        return ast.literal_eval(found[0]) if found else []

    def top(self, module):
        "The names of a module: what is defined, assigned and imported at its top, and the methods of its classes"
        for o in self.trees[module].body:
            if isinstance(o, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield o.name
                if any(ast.unparse(d).startswith('patch') for d in o.decorator_list) and o.args.args and o.args.args[0].annotation:
                    yield f'{ast.unparse(o.args.args[0].annotation)}.{o.name}'
            elif isinstance(o, ast.ClassDef):
                yield o.name
                for p in o.body:
                    targets = getattr(p, 'targets', [getattr(p, 'target', None)])
                    if name := getattr(p, 'name', None) or getattr(targets[0], 'id', None): yield f'{o.name}.{name}'
            elif isinstance(o, (ast.Import, ast.ImportFrom)): yield from (a.asname or a.name for a in o.names)
            else: yield from (n.id for n in ast.walk(o) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))

    def __contains__(self, name):
        "Is there such a module, or such a name in one"
        parts = name.split('.')
        for i in range(len(parts), 0, -1):
            module, rest = '.'.join(parts[:i]), '.'.join(parts[i:])
            if module in self.trees: return not rest or rest in set(self.top(module))
            if any(o.startswith(module + '.') for o in self.trees): return not rest # a folder without __init__.py
        return False


class Check:
    "Every fault of the pages of the site in `root`, each a line"
    def __init__(self, root, pages):
        self.root, self.nbs, self.pages = root, root/'nbs', {o.path.as_posix(): o for o in pages}
        self.outs, self.house = {o.out: o for o in pages}, house((root/'landslide_nb').resolve())

    def faults(self):
        yield from self.settings()
        for name, page in self.pages.items():
            faults = [*self.links(page), *self.names(page), *self.entries(page), *self.mixed(page)]
            yield from (f'nbs/{name}: {o}' for o in dict.fromkeys(faults))

    def settings(self):
        "Sidebar and settings lead to files, and the sidebar to every notebook once"
        for o in ('_quarto.yml', 'nbdev.yml', 'sidebar.yml'):
            if not (self.nbs/o).exists(): yield f'nbs/{o}: is missing'
        there = [o for o in ('_quarto.yml', 'sidebar.yml') if (self.nbs/o).exists()]
        listed = {o: strings(yaml.safe_load((self.nbs/o).read_text(encoding='utf-8'))) for o in there}
        for file, found in listed.items():
            for o in found:
                known = re.search(r'\.(ipynb|qmd|md|css|yml|png|jpg|svg)$', o)
                if known and not (self.nbs/o).exists(): yield f'nbs/{file}: {o} does not exist'
        if 'sidebar.yml' not in listed: return
        entries = [o for o in listed['sidebar.yml'] if o.endswith('.ipynb')]
        yield from (f'nbs/sidebar.yml: {o} is not in it' for o in self.pages if o not in entries)
        yield from (f'nbs/sidebar.yml: {o} is in it {entries.count(o)} times' for o in dict.fromkeys(entries) if entries.count(o) > 1)

    def links(self, page):
        text = re.sub(r'(`+)(?!`)(.+?)(?<!`)\1(?!`)', lambda m: re.sub(r'[][()<>!]', '', m[2]), page.prose) # in code nothing is a link
        todo = [text]
        while todo:
            for img, label, to, tag, to2 in LINK.findall(todo.pop()):
                if '](' in label: todo.append(label) # a badge: an image within a link
                if fault := self.target(page, to or to2): yield f"{'image' if img or tag == 'img' else 'link'} {to or to2}: {fault}"

    def target(self, page, to):
        "What is wrong with a link's target, if anything"
        url, _, frag = unquote(to).partition('#')
        if (url + '/').startswith(SITE): return self.on_page(self.outs.get(re.sub(r'\.md$', '', url[len(SITE):]) or 'index.html'), frag)
        if m := FILE.match(url): return self.in_repository(m[1], frag)
        if m := re.match(re.escape(REPO) + r'/actions/workflows/([^/]+)', url): return self.in_repository(f'.github/workflows/{m[1]}', '')
        if url.startswith('attachment:'): return None if url[11:] in page.attachments else 'there is no such attachment'
        if re.match(r'[a-z][a-z0-9+.-]*:', url): return
        if not url: return self.on_page(page, frag)
        path = (self.nbs/page.path.parent/url).resolve()
        if not path.is_relative_to(self.nbs.resolve()): return f'leads out of the site: write {REPO}/blob/main/...'
        if not path.exists(): return 'does not exist'
        if path.suffix == '.ipynb': return self.on_page(self.pages.get(path.relative_to(self.nbs.resolve()).as_posix()), frag)

    def on_page(self, page, frag):
        if page is None: return 'there is no such page'
        if frag and frag not in page.anchors: return f'there is no heading #{frag} in nbs/{page.path.as_posix()}'

    def in_repository(self, path, frag):
        file = self.root/path
        if not file.exists(): return f'{path} is not in the repository'
        if frag == 'LNone': return f'its line in {path} is not known'
        if not frag or file.suffix != '.md': return
        heads = re.findall(r'^#{1,6} +(.+)$', file.read_text(encoding='utf-8'), re.M)
        if frag not in map(slug, heads): return f'there is no heading #{frag} in {path}'

    def names(self, page):
        "Names in backticks that do not exist: of the package, of a notebook, of a file of the repository"
        for name in re.findall(r'`([^`\n]+?)(?:\(\))?`', page.prose):
            if re.fullmatch(r'landslide_nb(\.\w+)+', name) and name not in self.house: yield f'`{name}` does not exist'
            elif re.fullmatch(r'\d\d_[a-z]+\.\w+', name) and f'{name}.ipynb' not in self.pages: yield f'`{name}` is no notebook'
            elif re.fullmatch(r'(landslide_nb|nbs|tests|tools|bench)/[\w./]+', name) and not (self.root/name).exists():
                yield f'`{name}` does not exist'

    def entries(self, page):
        "Functions and classes with an entry are public, and so are methods, also those of a class that only a function makes"
        for name in page.entries:
            private = re.search(r'(^|\.)_(?!_)', name) if '.' in name else name not in self.house.public
            if private: yield f'an API entry for {name}, which is not public'

    def mixed(self, page):
        "Cells of a lesson that hold imports and code that needs other cells: nbdev runs them for the imports, by themselves"
        kinds = ast.Import, ast.ImportFrom
        for c in read_nb(self.nbs/page.path).cells:
            if c.cell_type != 'code' or {'export', 'exports', 'exporti'} & c.directives.keys() or c.directive('eval') == 'false': continue
            body = c.parsed_() or []
            imports = any(isinstance(o, kinds) for t in body for o in ast.walk(t))
            if imports and not all(isinstance(t, (*kinds, ast.FunctionDef, ast.ClassDef)) for t in body):
                line = next(o for o in c.source.splitlines() if 'import' in o).strip()
                yield f'`{line}` stands in a cell with other code, which nbdev would run without the cells before it'


def main(args):
    nbs = ROOT/'nbs'
    if args == ['--sidebar']: return (nbs/'sidebar.yml').write_text(sidebar(nbs), encoding='utf-8') and None
    faults = list(Check(ROOT, plain_pages(nbs)).faults()) # before nbdev runs cells, and stops at the first that it cannot
    faults = faults or list(Check(ROOT, pages := full_pages(ROOT)).faults())
    for o in faults: print(o)
    if faults: return 1
    print(f'{len(pages)} pages, no fault')
    if not shutil.which('quarto'): print('Quarto is not installed: the pages stand in _proc and are not rendered'); return
    subprocess.run([Path(sys.executable).parent/'nbdev-docs'], cwd=ROOT, check=True)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
