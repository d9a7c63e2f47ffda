"""The README's first lines of Python run as they stand."""
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from landslide_nb.data.synth import write_world

ROOT = Path(__file__).parents[1]


def test_from_a_folder_to_a_map(tmp_path):
    pytest.importorskip('rasterio')
    from landslide_nb.scene.synthetic import write_scene
    code = re.search(r'```python\n(.*?)```', (ROOT/'README.md').read_text(encoding='utf-8'), re.S)[1]
    assert len(code.strip().splitlines()) == 8
    write_world(tmp_path/'DATA', 16, 4, 1, progress=False)
    write_scene(tmp_path/'SCENE', 160)
    res = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=600,
                         env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert res.returncode == 0, res.stderr
    assert {'mask.tif', 'probability.tif', 'map.json'} <= {o.name for o in (tmp_path/'MAP').iterdir()}
    assert {o.name for o in (tmp_path/'MODEL').iterdir()} == {'model.json', 'model.safetensors'}
