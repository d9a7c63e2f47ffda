"""What a GPU makes of the paper's sizes: rates, memory, shares of the card's matrix rate -> bench/GPU.md, with the card's name.

Every line is printed as it is measured, and the file is written anew after each part. Rates are of whole training steps of the library
(augmentation, both halves, mix-up, backward, optimiser, logs), from the first report of a run to its last.
"""
import argparse
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from landslide_nb.core.base import atomic_path
from landslide_nb.data.store import Split, on_device
from landslide_nb.model.segmenter import create_segmenter
from landslide_nb.predict.maps import predict_split, query_teacher, unlabelled_dl
from landslide_nb.predict.adapt import region_statistics
from landslide_nb.train.loop import read_metrics
from landslide_nb.train.recipe import PAPER
from landslide_nb.train.run import batch_that_fits, train_stage, trial_step

OUT = Path(__file__).with_name('GPU.md')


def patches(n):
    x = np.random.default_rng(0).random((n, 14, 128, 128), dtype=np.float32)
    return Split(x, (x[:, 0] > .9).astype(np.uint8), [*range(1, n + 1)])


def seconds(f, n=1):
    "Of one call, after a warm-up"
    f()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n): f()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / n


def matrix_rate(dtype, n=8192):
    "Operations a second of a product of two square matrices"
    a, b = (torch.randn(n, n, device='cuda', dtype=dtype) for _ in range(2))
    return 2*n**3 / seconds(lambda: a @ b, 20)


def step_flops(stage):
    "Operations of a forward and a backward pass as large as the stage's"
    model = create_segmenter(stage.arch, stage.backbone, zoom=stage.zoom, drop=stage.train_drop).cuda().train()
    with FlopCounterMode(display=False) as counter: trial_step(model, stage, stage.bs, 'cuda', True)
    return counter.get_total_flops()


def rate(stage, data, models, n, amp=True):
    "Iterations a second between the first report and the last of a run, memory in GiB, and the model"
    torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as out:
        stage = replace(stage, iters=n, every=max(n // 4, 1), pretrained=False)
        model = train_stage(stage, data, models, out, device='cuda', amp=amp, progress=False)
        rows = read_metrics(Path(out)/'metrics.csv')
    its = (rows[-1]['iteration'] - rows[0]['iteration']) / (rows[-1]['seconds'] - rows[0]['seconds'])
    return its, torch.cuda.max_memory_allocated()/2**30, model


def training(say, matrix, n):
    "The paper's four models"
    split = patches(64)
    data, models, hours = on_device(dict(train=split, valid=split, test=split), 'cuda'), {}, 0
    say('## Training at the paper\'s sizes', '', '| stage | iterations a second | hours | operations a step | share of the matrix rate | memory |',
        '|---'*6 + '|')
    for s in PAPER.stages:
        flops = step_flops(s)
        its, gib, models[s.name] = rate(s, data, models, n)
        hours += s.iters / its / 3600
        say(f'| {s.name} | {its:.1f} | {s.iters/its/3600:.2f} | {flops/1e12:.2f} T | {100*flops*its/matrix:.0f} % | {gib:.1f} GiB |')
    say(f'| all | | {hours:.2f} | | | |', '')
    return split, models['model1']


def variants(say, split, n):
    "Model 1 in other precisions, and with its patches in the computer's memory"
    stage, here = PAPER.stages[0], on_device(dict(train=split), 'cuda')
    say('## Model 1, other ways', '', '| what | iterations a second | memory |', '|---'*3 + '|')
    for name, amp, data in (('bfloat16', torch.bfloat16, here), ('float16 with a gradient scaler', torch.float16, here), ('float32', False, here),
                              ('bfloat16, patches not on the device', torch.bfloat16, dict(train=split))):
        its, gib, _ = rate(stage, data, {}, n, amp)
        say(f'| {name} | {its:.1f} | {gib:.1f} GiB |')
    say('')


def where_time_goes(say):
    "A forward and a backward pass alone: the time of the card against the time of the clock"
    say('## Where a step\'s time goes', '', '| stage | clock | kernels | kernels a step |', '|---'*4 + '|')
    for s in PAPER.stages[:3]:
        model = create_segmenter(s.arch, s.backbone, zoom=s.zoom, drop=s.train_drop).to('cuda', memory_format=torch.channels_last).train()
        f = lambda: trial_step(model, s, s.bs, 'cuda', True)
        t = seconds(f, 5)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as prof:
            f()
            torch.cuda.synchronize()
        events = prof.key_averages()
        busy = sum(e.self_device_time_total for e in events) / 1e6
        say(f'| {s.name} | {1000*t:.1f} ms | {1000*busy:.1f} ms | {sum(e.count for e in events)} |')
    say('')


def asking(say, model, n):
    "Prediction, ten passes, and a region's statistics"
    split = patches(n)
    dl = lambda: unlabelled_dl(split, 16, 'cuda')
    say(f'## Asking Model 1 about {n} patches of 128 px (256 px inside), 16 at a time', '', '| what | ms a patch |', '|---'*2 + '|')
    for name, f in (('prediction', lambda: predict_split(model, split)),
                    ('ten stochastic passes', lambda: query_teacher(model, dl(), 10, progress=False)),
                    ('statistics of a region, float32', lambda: region_statistics(model, split, progress=False))):
        say(f'| {name} | {1000*seconds(f)/n:.2f} |')
    say('')


def batches(say):
    "The largest batch of each of the paper's models, up to 512"
    say('## The batch that fits', '', '| stage | labelled patches a batch |', '|---'*2 + '|')
    for s in PAPER.stages[:3]:
        model = create_segmenter(s.arch, s.backbone, zoom=s.zoom, drop=s.train_drop).to('cuda', memory_format=torch.channels_last).train()
        say(f'| {s.name} | {batch_that_fits(lambda bs: trial_step(model, s, bs, "cuda", True), 1024)} |')
        del model
        torch.cuda.empty_cache()
    say('')


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--out', type=Path, default=OUT)
    p.add_argument('--iters', type=int, default=120, help='iterations of a rate')
    p.add_argument('--patches', type=int, default=1000, help='patches that a model is asked about')
    args = p.parse_args()
    if not torch.cuda.is_available(): raise SystemExit('no GPU is at hand')
    lines = []
    def say(*new):
        lines.extend(new)
        print(*new, sep='\n', flush=True)
        with atomic_path(args.out) as tmp: tmp.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    matrix, half = matrix_rate(torch.bfloat16), matrix_rate(torch.float16)
    say('# On a GPU', '', 'Made by `make gpu`, that is `python bench/gpu.py`: ' + ' '.join(__doc__.split('\n\n')[1].split()), '',
        f'{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.strftime("%Y-%m-%d")}. Product of two 8192 x 8192 matrices: '
        f'{matrix/1e12:.0f} Tflop/s in bfloat16, {half/1e12:.0f} in float16.', '')
    split, model = training(say, matrix, args.iters)
    for f in (lambda: variants(say, split, args.iters), lambda: asking(say, model, args.patches), lambda: where_time_goes(say), lambda: batches(say)):
        try: f()
        except Exception: traceback.print_exc()


if __name__ == '__main__': main()
