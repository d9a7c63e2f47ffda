"""Builds the sdist, a wheel from it, and uses that wheel from an environment that has the library from nowhere else.

The third-party packages are borrowed from the environment that runs this script, so nothing large is installed twice;
with --own, pip installs those that the wheel asks for."""
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USE = '''
import importlib, pkgutil, sys
import landslide_nb as lib
assert lib.__file__.startswith(sys.prefix), lib.__file__
names = sorted(o.name for o in pkgutil.walk_packages(lib.__path__, 'landslide_nb.'))
for o in names: importlib.import_module(o)
from landslide_nb.model.files import load_model
load_model('starter')
print(lib.__name__, lib.__version__, *(o.removeprefix('landslide_nb.') for o in names))
'''


def run(*args, **kwargs):
    return subprocess.run([str(o) for o in args], check=True, **kwargs)


def copy_source(to):
    "The files git holds or would hold, so that nothing ignored leaks into the build"
    names = subprocess.check_output(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, text=True)
    for name in filter(None, names.split('\0')):
        if not (ROOT/name).is_file(): continue
        (to/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/name, to/name)


def main(own):
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp).resolve()
        copy_source(tmp/'source')
        run(sys.executable, '-m', 'build', '--outdir', tmp/'dist', tmp/'source', stdout=subprocess.DEVNULL)
        wheel, = (tmp/'dist').glob('*.whl')
        built = {o for o in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in o}
        source = {o.relative_to(tmp/'source').as_posix() for k in ('*.py', 'starter/*') for o in (tmp/'source/landslide_nb').rglob(k)}
        if built != source: sys.exit(f'wheel and package differ: {sorted(built ^ source)}')

        venv.create(tmp/'venv', with_pip=False, symlinks=True)
        python = tmp/'venv/bin/python'
        run(sys.executable, '-m', 'pip', '--python', python, 'install', '-qq', *([] if own else ['--no-deps']), wheel)
        if not own:
            site = sysconfig.get_path('purelib', vars={'base': tmp/'venv'})
            # .pth files in a folder that a .pth file names are not read: the editable install stays out
            Path(site, 'borrowed.pth').write_text(sysconfig.get_path('purelib') + '\n')
        (tmp/'elsewhere').mkdir()
        run(python, '-I', '-c', USE, cwd=tmp/'elsewhere')
        run(tmp/'venv/bin/landslide-score', '--help', cwd=tmp/'elsewhere', stdout=subprocess.DEVNULL)
        print(*sorted(o.name for o in (tmp/'dist').iterdir()))


if __name__ == '__main__':
    main('--own' in sys.argv[1:])
