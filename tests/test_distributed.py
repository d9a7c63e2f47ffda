"""Two processes on the CPU, started by Accelerate, against one."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from landslide_nb.synth import write_world
from test_commands import BIN, TINY

pytest.importorskip('accelerate')
LAUNCH = [BIN/'accelerate', 'launch', '--cpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no',
          '--dynamo_backend', 'no', '--main_process_port', '0']
ENV = {**os.environ, 'OMP_NUM_THREADS': '1'}


def run(*command):
    res = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=ENV, timeout=300)
    assert res.returncode == 0, res.stdout + res.stderr
    return res


def test_two_processes_agree_with_one(tmp_path):
    script = Path(__file__).parent/'fit_on_ranks.py'
    run(sys.executable, script, tmp_path/'one.safetensors')
    run(*LAUNCH, script, tmp_path/'two.safetensors')
    one, two = (load_file(tmp_path/f'{k}.safetensors') for k in ('one', 'two'))
    assert torch.equal(one['thresholds'], two['thresholds']) and torch.equal(one['labels'], two['labels'])
    assert one.keys() == two.keys()
    for k in one:
        torch.testing.assert_close(two[k], one[k], rtol=1e-4, atol=1e-6)


def test_train_command_on_two_processes(tmp_path):
    write_world(tmp_path/'world', 4, 2, 2, progress=False)
    (tmp_path/'tiny.toml').write_text(TINY)
    run(*LAUNCH, BIN/'landslide-train', tmp_path/'world', tmp_path/'run', '--recipe', tmp_path/'tiny.toml', '--truth', tmp_path/'world/truth')
    summary = json.loads((tmp_path/'run/summary.json').read_text())
    assert set(summary['stages']) == {'teacher', 'student'}
    assert len((tmp_path/'run/student/metrics.csv').read_text().splitlines()) == 3
    assert not list((tmp_path/'run').rglob('.tmp-*'))
