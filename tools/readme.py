"""README.md from nbs/index.ipynb: prose as it is, code as fenced blocks, text outputs indented, images left out."""
import re
from pathlib import Path
from textwrap import indent

from fastcore.nbio import read_nb

ROOT = Path(__file__).resolve().parents[1]
HEAD = '<!-- Made from nbs/index.ipynb by `make export`; edit the notebook. -->'
HIDDEN = {'hide', 'default_exp'}


def from_root(text, folder):
    "`text` with the links that are relative to `folder` made relative to the root"
    def link(m):
        return f']({folder.relative_to(ROOT).as_posix()}/{m[1]}' if (folder/m[1].split('#')[0]).exists() else m[0]
    return re.sub(r'\]\((?![a-z]+:|[#/])([^)\s]+)', link, text)


def outputs(cell):
    "The text of a cell's outputs: markdown as it is, everything else indented"
    for out in cell.get('outputs', []):
        data = out.get('data', {})
        if out.output_type == 'stream': md, txt = None, out.text if out.name == 'stdout' else ''
        elif any(o.startswith('image/') for o in data): continue
        else: md, txt = data.get('text/markdown'), data.get('text/plain', '')
        if md: yield md.strip()
        elif txt.strip(): yield indent(txt.rstrip(), '    ')


def readme(path):
    "The README text of the notebook at `path`"
    parts = [HEAD]
    for cell in read_nb(path).cells:
        if cell.cell_type == 'raw' or HIDDEN & set(cell.directives): continue
        src = '\n'.join(o for o in cell.source.splitlines() if not o.startswith('#|')).strip()
        if cell.cell_type == 'markdown': parts.append(from_root(src, Path(path).parent))
        else: parts += [f'```python\n{src}\n```', *outputs(cell)]
    return '\n\n'.join(filter(None, parts)) + '\n'


if __name__ == '__main__': (ROOT/'README.md').write_text(readme(ROOT/'nbs/index.ipynb'), encoding='utf-8')
