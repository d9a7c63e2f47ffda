"""Mutated HDF5 files, and a reader that outlives whatever they do to it; `test_fuzz.py` and the soak run use it."""
import io
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections import Counter, deque
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py
import numpy as np

SIDE = 16
ROOM = 2**30  # bytes of address space a read may take on top of the imports
WORDS = (b'\0', b'\xff', b'\x7f', b'\x80', b'\xff'*4, b'\xff'*8, b'\0'*8, b'\xff'*7 + b'\x7f', (2**31).to_bytes(8, 'little'), b'\1'*8)


CHUNK = dict(chunks=(SIDE // 2, SIDE // 2, 14))
KINDS = {'contiguous': {}, 'float32': dict(dtype='f4'), 'gzip': dict(CHUNK, compression='gzip', shuffle=True, fletcher32=True),
         'gzip-one': dict(chunks=(SIDE, SIDE, 14), compression='gzip'), 'lzf': dict(CHUNK, compression='lzf'),
         'lzf-one': dict(chunks=(SIDE, SIDE, 14), compression='lzf', shuffle=True, fletcher32=True),
         'grows': dict(CHUNK, maxshape=(None, None, 14)), 'one-chunk': dict(chunks=(SIDE, SIDE, 14))}


def seeds(folder):
    "Whole files of every kind that is read: contiguous, compact, chunked, compressed, old and new format, several keys"
    rng = np.random.default_rng(0)
    img, mask = rng.gamma(2, .5, (SIDE, SIDE, 14)), (rng.random((SIDE, SIDE)) < .2).astype(np.uint8)
    files = []
    for version in ('earliest', 'latest'):
        for name, kw in KINDS.items():
            files.append(folder/f'{name}-{version}.h5')
            with h5py.File(files[-1], 'w', libver=version) as f:
                f.create_dataset('img', data=img.round(1) if 'lzf' in name else img, **kw)  # lzf leaves what does not pack as it is
                f.create_dataset('mask', data=mask, compression=kw.get('compression'))
                f['img'].attrs['bands'] = 'B1 B2'
                for i in range(9): f[f'a/b{i}'] = i
    return [o.read_bytes() for o in files]


def structure(raw):
    "The positions of a file that hold no values of `img`: its structure, in steps of four bytes"
    with h5py.File(io.BytesIO(raw)) as f:
        if f['img'].chunks: f['img'].id.chunk_iter((blocks := []).append)
        else: blocks = [SimpleNamespace(byte_offset=f['img'].id.get_offset(), size=f['img'].nbytes)]
    inside = np.zeros(len(raw), bool)
    for o in blocks: inside[o.byte_offset:o.byte_offset + o.size] = True
    words = np.frombuffer(raw[:len(raw) // 4*4], '<u4')
    used = np.convolve(words != 0, [1]*9, 'same') > 0  # not the unused room after it
    return [int(i) for i in np.flatnonzero(used)*4 if not inside[i]]


def sweep(raws, which, values=(0, 1, 2**32 - 1)):
    "Every word of the structure of some seeds, replaced by every value: `(seed, position, value)`"
    return [(k, at, v) for k in which for at in structure(raws[k]) for v in values]


def mutate(raws, n):
    "The bytes of mutated file `n`, a number or one of a `sweep`"
    if isinstance(n, tuple):
        raw = bytearray(raws[n[0]])
        raw[n[1]:n[1] + 4] = n[2].to_bytes(4, 'little')
        return bytes(raw)
    rng = np.random.default_rng((n, 7))
    raw = bytearray(raws[rng.integers(len(raws))])
    head = lambda: int(min(rng.exponential(700), len(raw) - 1)) if rng.random() < .7 else int(rng.integers(len(raw)))
    for _ in range(int(rng.choice([1, 1, 1, 2, 4, 16]))):
        if len(raw) < 16: break
        at = head()
        match rng.integers(12):
            case 0: raw[at] ^= 1 << int(rng.integers(8))
            case 1: raw[at] = int(rng.integers(256))
            case 2:
                word = WORDS[rng.integers(len(WORDS))]
                raw[at:at + len(word)] = word
            case 3: del raw[int(rng.integers(len(raw))):]
            case 4: del raw[at:at + int(rng.integers(1, 64))]
            case 5: raw[at:at] = rng.bytes(int(rng.integers(1, 64)))
            case 6:
                other, size = raws[rng.integers(len(raws))], int(rng.integers(1, 512))
                raw[at:at + size] = other[at:at + size]
            case 7:
                to, size = head(), int(rng.integers(1, 64))
                raw[to:to + size] = raw[at:at + size]
            case _:  # a field of the structure: zero, one, its double, or another field
                at, to, size = at // 4*4, head() // 4*4, int(rng.choice([4, 8]))
                value = int.from_bytes(raw[at:at + size], 'little')
                choices = (0, 1, value * 2, value - 1, int.from_bytes(raw[to:to + size], 'little'))
                raw[at:at + size] = (choices[rng.integers(5)] % 2**(8*size)).to_bytes(size, 'little')
    return bytes(raw)


def outcome(path):
    "What came of the image and of the mask: 'read' or 'refused', or an error that a reader must not raise"
    from landslide_nb.core.base import PatchError
    from landslide_nb.data.files import read_mask, read_patch
    found = []
    for read, kinds, size in ((read_patch, np.float32, SIDE), (read_mask, np.uint8, SIDE), (read_patch, np.float32, None)):
        try: x = read(path, size)
        except PatchError as e:
            assert '\n' not in str(e), f'more than a line: {e}'
            found.append('refused')
            continue
        assert x.dtype == kinds and x.shape[-2:] == (SIDE, SIDE) or size is None, f'{x.dtype} {x.shape}'
        assert np.isfinite(x).all() if x.dtype == np.float32 else set(np.unique(x)) <= {0, 1}, 'a wrong value'
        assert x.dtype == np.uint8 or x.shape[0] == 14, f'{x.shape}'
        found.append('read')
    return ' '.join(found[:2])


def misbehave(n):
    "What the test of the watch asks for, in the environment: a way and the number of a file"
    way, at = os.environ.get('FUZZ_BREAK', 'none -1').split()
    if n != int(at): return
    if way == 'hangs': time.sleep(1000)
    if way == 'dies': os.kill(os.getpid(), signal.SIGSEGV)
    if way == 'ends': os._exit(3)
    if way == 'MemoryError': bytearray(2*ROOM)
    assert way != 'wrong'


def read_all(raws, numbers, pipe):
    "In a process of its own: what came of each file"
    import landslide_nb.data.files
    used = int(Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE') if Path('/proc/self/statm').exists() else 2**33
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM,)*2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'image_1.h5'
        for n in numbers:
            path.write_bytes(mutate(raws, n))
            try:
                misbehave(n)
                what = outcome(path)
            except BaseException as e: what = f'{type(e).__name__}: {str(e)[:200]}'
            pipe.send(what)


def fuzz(raws, numbers, limit=20.):
    "Read the mutated files `numbers`, each in a process that lives until one ends it: what came of each. `limit`: seconds a file may take"
    todo, res = deque(numbers), {}
    spawn = multiprocessing.get_context('spawn')
    while todo:
        ours, theirs = spawn.Pipe(duplex=False)
        p = spawn.Process(target=read_all, args=(raws, list(todo), theirs), daemon=True)
        with mock.patch.dict(os.environ, MALLOC_PERTURB_='1'): p.start()  # so that it reads the same from a short block each time
        theirs.close()
        room, first = limit + 60, todo[0]  # a new process imports first
        while todo:
            what = 'hangs'
            try:
                if ours.poll(room): what = ours.recv()
            except EOFError:
                p.join()
                what = 'dies' if p.exitcode < 0 else f'ends with {p.exitcode}'
            if what == 'dies' and todo[0] != first: break  # once more, in a process that has read nothing else
            n, room = todo.popleft(), limit
            res[n] = what
            if what not in GOOD: print(f'file {n}: {what}', flush=True)
            if what == 'hangs' or what.startswith(('dies', 'ends')): break
        p.kill()
        p.join()
    return res


GOOD = ('read read', 'read refused', 'refused read', 'refused refused', 'dies')


def unnamed(raws, res, limit=20.):
    "Which of the mutated files, of which `fuzz` says what came of them, `landslide-check` would not name although they cannot be read"
    from landslide_nb.data.check import Reader
    missed = {}
    with tempfile.TemporaryDirectory() as folder, Reader(limit, size=SIDE) as read:
        path = Path(folder)/'image_1.h5'
        for n, what in res.items():
            path.write_bytes(mutate(raws, n))
            images, masks = ([str(e) for e in read(path, o)[0]] for o in (True, False))
            assert not any('\n' in o or 'exit status' in o or 'seconds' in o for o in images + masks), (n, images, masks)
            if what == 'dies': good = any('ends the process' in o for o in images + masks)
            else: good = all(faults or o == 'read' for faults, o in zip((images, masks), what.split()))
            if not good: missed[n] = what, images, masks
    return missed
