"""Two processes on the CPU: they stay in step, and learn as well as one."""
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


FOUR = TINY.replace('bs = 2', 'bs = 4')
SCRIPT = Path(__file__).parent/'fit_together.py'


@pytest.mark.parametrize('arch, backbone, iters', [('deeplabv3plus', 'test_resnet', 60), ('hrnet', 'hrnet_w18_small', 6)])
def test_two_processes_stay_in_step(tmp_path, arch, backbone, iters):
    run(*TWO, SCRIPT, tmp_path, arch, backbone, iters)
    a, b = (load_file(tmp_path/f'{i}.safetensors') for i in (0, 1))
    assert a.keys() == b.keys()
    assert [k for k in a if k not in ('loss', 'patches') and not torch.equal(a[k], b[k])] == []
    assert len(a['patches']) == iters
    for batch in torch.cat([a['patches'], b['patches']], 1): assert len(set(batch.tolist())) == 8, 'a patch was drawn by both'
    assert a['loss'] != b['loss'], 'both augmented, mixed and dropped alike'
    if iters < 60: return
    assert set(a['labels'].unique().tolist()) == {0, 1, 255}
    run(sys.executable, SCRIPT, tmp_path/'one', arch, backbone, iters)
    one = load_file(tmp_path/'one/0.safetensors')
    assert one.keys() == a.keys()
    assert one['f1'] > .75 and a['f1'] > .75, 'two do not learn as well as one'


def test_train_command_on_two_processes(tmp_path):
    write_world(tmp_path/'world', 4, 2, 2, progress=False)
    (tmp_path/'tiny.toml').write_text(FOUR)
    args = [tmp_path/'world', '--recipe', tmp_path/'tiny.toml', '--truth', tmp_path/'world/truth']
    res = run(*TWO, BIN/'landslide-train', *args, tmp_path/'run')
    assert res.stdout.count('seconds') == 1
    summary = json.loads((tmp_path/'run/summary.json').read_text())
    assert set(summary['stages']) == {'teacher', 'student'}
    assert len((tmp_path/'run/student/metrics.csv').read_text().splitlines()) == 3
    assert not list((tmp_path/'run').rglob('.tmp-*'))


LATE = '''
import os, sys, time
from landslide_nb.train import run
from landslide_nb.train.processes import leave_processes, many_processes
from landslide_nb.train.recipe import get_recipe
begin = run.begin_run
def late(*args):
    if os.environ['RANK'] == '1': time.sleep(3)
    return begin(*args)
run.begin_run = late
many_processes()
run.run_recipe(*sys.argv[1:3], get_recipe(sys.argv[3]), device='cpu', progress=False)
leave_processes()
'''


def test_a_process_that_is_late_takes_part_in_the_same_run(tmp_path):
    write_world(tmp_path/'world', 4, 2, 2, progress=False)
    (tmp_path/'tiny.toml').write_text(FOUR)
    (tmp_path/'late.py').write_text(LATE)
    run(*TWO, tmp_path/'late.py', tmp_path/'world', tmp_path/'run', tmp_path/'tiny.toml')
    assert (tmp_path/'run/summary.json').is_file()


@pytest.mark.parametrize('bs, fault', [(3, 'a batch of 3 patches cannot be split evenly between 2 processes'),
                                       (2, 'a batch of 2 gives 2 processes less than 2 patches each')])
def test_a_batch_that_cannot_be_split_is_one_line(tmp_path, bs, fault):
    write_world(tmp_path/'world', 4, 2, 2, progress=False)
    (tmp_path/'odd.toml').write_text(TINY.replace('bs = 2', f'bs = {bs}'))
    res = subprocess.run(list(map(str, [*TWO, BIN/'landslide-train', tmp_path/'world', tmp_path/'run', '--recipe', tmp_path/'odd.toml'])),
                         capture_output=True, text=True, env=ENV, timeout=300)
    assert res.returncode
    assert f"landslide-train: stage 'teacher': {fault}" in res.stderr and '[rank0]: Traceback' not in res.stderr


def test_two_processes_go_on_after_a_kill(tmp_path):
    write_world(tmp_path/'world', 4, 2, 2, progress=False)
    (tmp_path/'tiny.toml').write_text(FOUR)
    command = [*TWO, BIN/'landslide-train', tmp_path/'world', tmp_path/'run', '--recipe', tmp_path/'tiny.toml', '--checkpoint', '0']
    (tmp_path/'die.py').write_text(DIE)
    res = subprocess.run(list(map(str, [*TWO, tmp_path/'die.py', *command[5:]])), capture_output=True, text=True, env=ENV, timeout=300)
    assert res.returncode and (tmp_path/'run/student/checkpoint.pt').is_file()
    run(*command, '--resume')
    assert len((tmp_path/'run/student/metrics.csv').read_text().splitlines()) == 3
    assert not (tmp_path/'run/student/checkpoint.pt').exists()


DIE = '''
import os, signal, sys
from landslide_nb.app.commands import train
from landslide_nb.train import run
from fastai.callback.core import Callback
class Kill(run.Checkpoint):
    def after_batch(self):
        super().after_batch()
        if self.training and hasattr(self.learn, 'self_training') and self.train_iter == 1: os.kill(os.getpid(), signal.SIGKILL)
run.Checkpoint = Kill
train()
'''
