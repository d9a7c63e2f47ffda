"""The package, as settings.ini describes it; its name, summary and addresses stand in pyproject.toml as well, where nbdev reads them."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here / 'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

setup(
    version=cfg['version'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'],
    author=cfg['author'],
    license_expression=cfg['license'],
    license_files=['LICENSE'],
    classifiers=cfg['classifiers'].splitlines(),
    packages=find_packages(include=['landslide_nb', 'landslide_nb.*']),
    package_data={'landslide_nb': ['starter/*']},
    include_package_data=False,
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={k: cfg[f'{k}_requirements'].split() for k in ('dev', 'geo', 'explore', 'dask', 'accelerate', 'sentinel2', 'browser')},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': ['landslide_nb = landslide_nb._modidx:d']},
)
