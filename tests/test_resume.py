"""Trainings that are killed go on and end as if nothing had happened; what cannot be written leaves what was there."""
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_commands import BIN, TINY

from landslide_nb.data.synth import write_world

fork = multiprocessing.get_context('forkserver')
fork.set_forkserver_preload(['landslide_nb.train.run'])
ENV = {**os.environ, 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'passive'}


def train(world, out, toml, resume=False, die=None):
    "A training, in a process of its own; `die` kills it as it syncs its n-th file, before that file gets its name"
    os.setpgrp()
    import torch
    torch.set_num_threads(1)
    from landslide_nb.train.recipe import get_recipe
    from landslide_nb.train.run import run_recipe
    if die is not None:
        calls, sync = [0], os.fsync
        def fsync(fd):
            calls[0] += 1
            if calls[0] == die: os.kill(os.getpid(), signal.SIGKILL)
            sync(fd)
        os.fsync = fsync
    run_recipe(world, out, get_recipe(toml), 0, world/'truth', 'cpu', progress=False, resume=resume, checkpoint=0)


def start(*args, **kwargs):
    p = fork.Process(target=train, args=args, kwargs=kwargs)
    p.start()
    return p


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A world, a recipe, and the run that nobody disturbed"
    folder = tmp_path_factory.mktemp('resume')
    write_world(folder/'world', 5, 3, 2, progress=False)
    (folder/'tiny.toml').write_text(TINY)
    for name in ('warm', 'whole'): # the first start also imports the library: its time says nothing about a run's
        begin = time.perf_counter()
        p = start(folder/'world', folder/name, folder/'tiny.toml')
        p.join()
        seconds = time.perf_counter() - begin
        assert p.exitcode == 0
    assert results(folder/'warm') == results(folder/'whole')
    return folder, seconds


def results(run):
    "Weights and metrics of every stage, all but the seconds"
    found = {}
    for stage in ('teacher', 'student'):
        found[stage] = {k: v.numpy().tobytes() for k, v in load_file(run/stage/'model.safetensors').items()}
        rows = [o.split(',') for o in (run/stage/'metrics.csv').read_text().splitlines()]
        found[stage, 'metrics'] = [[c for k, c in zip(rows[0], o) if k != 'seconds'] for o in rows]
    summary = json.loads((run/'summary.json').read_text())
    found['scores'] = {k: v['scores'] for k, v in summary['stages'].items()}
    return found


def test_twenty_kills_at_random_moments(whole, tmp_path):
    folder, seconds = whole
    want, chance, kills, rounds = results(folder/'whole'), random.Random(0), 0, 0
    while kills < 20:
        out, rounds = tmp_path/f'run{rounds}', rounds + 1
        while True:
            p = start(folder/'world', out, folder/'tiny.toml', resume=(out/'run.json').exists())
            p.join(chance.uniform(.1, seconds) if kills < 20 else None)
            if p.exitcode is not None: break
            p.kill()
            p.join()
            kills += 1
        assert p.exitcode == 0
        assert results(out) == want
        assert not [o.name for o in out.rglob('*') if o.name.startswith('.tmp-') or o.name == 'checkpoint.pt']
        shutil.rmtree(out)


@pytest.mark.parametrize('die', [1, 3, 7, 12])
def test_killed_as_a_file_is_written(whole, tmp_path, die):
    folder, _ = whole
    p = start(folder/'world', tmp_path/'run', folder/'tiny.toml', die=die)
    p.join()
    assert p.exitcode == -signal.SIGKILL
    assert [o for o in (tmp_path/'run').rglob('.tmp-*')]
    p = start(folder/'world', tmp_path/'run', folder/'tiny.toml', resume=(tmp_path/'run/run.json').exists())
    p.join()
    assert p.exitcode == 0
    assert results(tmp_path/'run') == results(folder/'whole')
    assert not list((tmp_path/'run').rglob('.tmp-*'))


def command(*args, **kwargs):
    return subprocess.Popen([str(o) for o in (BIN/'landslide-train', *args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=ENV, **kwargs)


def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(whole, tmp_path):
    folder, _ = whole
    (tmp_path/'long.toml').write_text(TINY.replace('iters = 4', 'iters = 4000').replace('every = 2', 'every = 2000'))
    args = [folder/'world', tmp_path/'run', '--recipe', tmp_path/'long.toml', '--device', 'cpu', '--checkpoint', '1']
    p = command(*args)
    checkpoint = tmp_path/'run/teacher/checkpoint.pt'
    for _ in range(600):
        if checkpoint.exists() or p.poll() is not None: break
        time.sleep(.1)
    before = checkpoint.stat().st_mtime_ns
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130, err
    assert checkpoint.stat().st_mtime_ns > before
    last = err.strip().splitlines()[-1]
    assert last.startswith('landslide-train: interrupted; to go on: landslide-train ') and last.endswith('--resume')
    assert 'Traceback' not in err

    p = command(*args)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 1 and err.strip().splitlines()[-1].endswith('resume it, or choose another folder')
    p = command(*args, '--resume', '--seed', '1')
    _, err = p.communicate(timeout=60)
    assert p.returncode == 1 and 'seed is 1 now and was 0' in err and len(err.strip().splitlines()) == 1, err


def test_a_checkpoint_that_is_damaged_is_named(whole, tmp_path):
    folder, _ = whole
    shutil.copytree(folder/'whole', tmp_path/'run')
    (tmp_path/'run/summary.json').unlink()
    run = json.loads((tmp_path/'run/run.json').read_text())
    del run['stages']['student']
    (tmp_path/'run/run.json').write_text(json.dumps(run))
    (tmp_path/'run/student/checkpoint.pt').write_bytes(b'not a checkpoint')
    p = command(folder/'world', tmp_path/'run', '--recipe', folder/'tiny.toml', '--truth', folder/'world/truth', '--device', 'cpu', '--resume')
    _, err = p.communicate(timeout=120)
    assert p.returncode == 1 and len(err.strip().splitlines()) == 1 and 'checkpoint.pt: not a checkpoint' in err, err


def small_files(size):
    return lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))


def test_a_write_that_fails_leaves_what_was_there(whole, tmp_path):
    folder, _ = whole
    args = [folder/'world', tmp_path/'run', '--recipe', folder/'tiny.toml', '--truth', folder/'world/truth', '--device', 'cpu', '--checkpoint', '0']
    p = command(*args, preexec_fn=small_files(2**20))
    _, err = p.communicate(timeout=120)
    assert p.returncode == 1 and len(err.strip().splitlines()) == 1, err
    assert 'checkpoint.pt' in err and 'a checkpoint needs 8 MB' in err
    assert sorted(o.name for o in (tmp_path/'run').rglob('*.*')) == ['run.json']
    p = command(*args, '--resume')
    _, err = p.communicate(timeout=120)
    assert p.returncode == 0, err
    assert results(tmp_path/'run')['scores'].keys() == results(folder/'whole')['scores'].keys()


def test_predictions_that_find_no_room(whole, tmp_path):
    folder, _ = whole
    args = [BIN/'landslide-predict', folder/'whole/student', folder/'world', tmp_path/'pred', '--uncertainty', '--passes', '2', '--device', 'cpu']
    res = subprocess.run(list(map(str, args)), capture_output=True, text=True, env=ENV, timeout=120, preexec_fn=small_files(2**15))
    lines = res.stderr.strip().splitlines()
    assert res.returncode == 1 and len(lines) == 1, res.stderr
    assert 'uncertainty_' in lines[0] and 'are free' in lines[0]
    assert not list((tmp_path/'pred').glob('.tmp-*')) and not list((tmp_path/'pred').glob('uncertainty_*'))


ORPHANS = '''
import numpy as np, os, signal
from landslide_nb.predict.crf import crf_pool, crf_split
with crf_pool(2) as pool:
    crf_split(np.full((8, 16, 16), .5), np.random.rand(8, 14, 16, 16), progress=False, pool=pool)
    print(*pool._processes, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
'''


def test_a_kill_leaves_no_processes_behind():
    res = subprocess.run([sys.executable, '-c', ORPHANS], stdout=subprocess.PIPE, text=True, env=ENV, timeout=120)
    workers = [int(o) for o in res.stdout.split()]
    assert res.returncode == -signal.SIGKILL and len(workers) == 2
    alive = lambda n: Path(f'/proc/{n}/stat').exists() and Path(f'/proc/{n}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    for _ in range(100):
        if not any(alive(o) for o in workers): return
        time.sleep(.1)
    raise AssertionError('the workers of a killed process are still there')


def test_a_run_that_goes_on_shows_its_bars_on_a_terminal(whole, tmp_path):
    "In a later epoch the first thing that fastai's bar sees is not 0; without a terminal there are no bars"
    folder, _ = whole
    p = start(folder/'world', tmp_path/'run', folder/'tiny.toml', die=len(list((folder/'whole').rglob('*.*'))))
    p.join()
    assert p.exitcode == -signal.SIGKILL and not (tmp_path/'run/summary.json').exists()
    args = [BIN/'landslide-train', folder/'world', tmp_path/'run', '--recipe', folder/'tiny.toml', '--truth', folder/'world/truth', '--resume',
            '--device', 'cpu']
    in_terminal = [sys.executable, '-c', 'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))', *map(str, args)]
    res = subprocess.run(in_terminal, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=ENV)
    assert res.returncode == 0, res.stdout
    assert 'Epoch' in res.stdout and results(tmp_path/'run') == results(folder/'whole')
