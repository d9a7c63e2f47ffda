"""Two processes on the CPU against one: the same thresholds and pseudo labels, and the same weights to rounding."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_commands import BIN, TINY

from landslide_nb.data.synth import write_world

pytest.importorskip('accelerate')
TWO = [BIN/'torchrun', '--standalone', '--nproc_per_node', '2']
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'passive'}


def run(*command):
    res = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=ENV, timeout=300)
    assert res.returncode == 0, res.stdout + res.stderr
    return res


@pytest.mark.parametrize('arch, backbone, classes', [('deeplabv3plus', 'test_resnet', [0, 1, 255]),
                                                     ('hrnet', 'hrnet_w18_small', [1, 255])]) # eight steps are few for an HRNet
def test_two_processes_agree_with_one(tmp_path, arch, backbone, classes):
    script = Path(__file__).parent/'fit_on_ranks.py'
    run(sys.executable, script, tmp_path/'one', arch, backbone)
    run(*TWO, script, tmp_path/'two', arch, backbone)
    one, two = (load_file(tmp_path/k) for k in ('one', 'two'))
    assert one.keys() == two.keys()
    assert torch.equal(one['labels'], two['labels']) and one['labels'].unique().tolist() == classes
    for k in one:
        torch.testing.assert_close(two[k], one[k], rtol=1e-5, atol=1e-7, equal_nan=True, msg=lambda m: f'{k}: {m}')


def test_train_command_on_two_processes(tmp_path):
    write_world(tmp_path/'world', 4, 2, 2, progress=False)
    (tmp_path/'tiny.toml').write_text(TINY)
    args = [tmp_path/'world', '--recipe', tmp_path/'tiny.toml', '--truth', tmp_path/'world/truth']
    res = run(*TWO, BIN/'landslide-train', *args, tmp_path/'run')
    assert res.stdout.count('seconds') == 1
    summary = json.loads((tmp_path/'run/summary.json').read_text())
    assert set(summary['stages']) == {'teacher', 'student'}
    assert len((tmp_path/'run/student/metrics.csv').read_text().splitlines()) == 3
    assert not list((tmp_path/'run').rglob('.tmp-*'))


LATE = '''
import os, sys, time
from landslide_nb import run
from landslide_nb.core.ranks import leave_ranks, many_ranks
from landslide_nb.train.recipe import get_recipe
begin = run.begin_run
def late(*args):
    if os.environ['RANK'] == '1': time.sleep(3)
    return begin(*args)
run.begin_run = late
many_ranks()
run.run_recipe(*sys.argv[1:3], get_recipe(sys.argv[3]), device='cpu', progress=False)
leave_ranks()
'''


def test_a_process_that_is_late_takes_part_in_the_same_run(tmp_path):
    write_world(tmp_path/'world', 4, 2, 2, progress=False)
    (tmp_path/'tiny.toml').write_text(TINY)
    (tmp_path/'late.py').write_text(LATE)
    run(*TWO, tmp_path/'late.py', tmp_path/'world', tmp_path/'run', tmp_path/'tiny.toml')
    assert (tmp_path/'run/summary.json').is_file()
