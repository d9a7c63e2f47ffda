"Files whose bytes were changed at random: a fault in one line or a correct read, never a hang, a dead process or gigabytes of memory."
import os
import struct
from collections import Counter
from math import prod

import h5py
import numpy as np
import pytest

import fuzz
from landslide_nb.core.base import PatchError
from landslide_nb.data.hdf5 import read_mask, read_patch, unlzf

FILES = 4000
SOAK = int(os.environ.get('FUZZ_FILES', 200_000))


def test_mutated_files(tmp_path):
    counts, wrong = fuzz.fuzz(tmp_path, range(FILES))
    assert wrong == {} and sum(counts.values()) == FILES
    assert counts['read'] > FILES // 10 and counts['refused'] > FILES // 3, f'the mutations are too weak or too strong: {counts}'


@pytest.mark.parametrize('kind', ['gzip-earliest', 'gzip-latest', 'lzf-earliest', 'contiguous-earliest'])
def test_every_word_of_the_structure(kind, tmp_path):
    raws = fuzz.seeds(tmp_path)
    names = [f'{k}-{v}' for v in ('earliest', 'latest') for k in fuzz.KINDS]
    files = fuzz.sweep(raws, [names.index(kind)])
    counts, wrong = fuzz.fuzz(tmp_path, files)
    assert wrong == {} and sum(counts.values()) == len(files) > 500


def stored(f):
    "Where the blocks of `img` lie in an open file"
    f['img'].id.chunk_iter((res := []).append)
    return res


def blocks(path):
    "Where a file in HDF5's first format says what its blocks are: position of the record, size, offset"
    raw = path.read_bytes()
    with h5py.File(path) as f: res = stored(f)
    record = lambda o: struct.pack('<II4Q', o.size, 0, *o.chunk_offset, 0)
    assert len(res) == 4 and all(raw.count(record(o)) == 1 for o in res)
    return [(raw.index(record(o)), o) for o in res]


BLOCK = {'no bytes': (0, 'I', 0), 'too few bytes': (0, 'I', 9), 'more bytes than the file has': (0, 'I', 2**31), 'no filter': (4, 'I', 7),
         'in the place of another': (16, 'Q', 8), 'between two': (16, 'Q', 3), 'outside': (16, 'Q', 800), 'far outside': (16, 'Q', 2**62),
         'beyond the end of the file': (40, 'Q', 10**7), 'at the start of the file': (40, 'Q', 0)}


@pytest.mark.parametrize('name', BLOCK)
def test_a_block_that_is_not_where_or_what_it_should_be(name, tmp_path):
    "The first of these ends a process that reads it with HDF5 2.0"
    fuzz.seeds(tmp_path)
    path = tmp_path/'gzip-earliest.h5'
    raw, (at, o) = bytearray(path.read_bytes()), blocks(path)[0]
    assert o.chunk_offset == (0, 0, 0) and read_patch(path, fuzz.SIDE).any()
    start, kind, value = BLOCK[name]
    struct.pack_into(f'<{kind}', raw, at + start, value)
    path.write_bytes(raw)
    with pytest.raises(PatchError, match='gzip-earliest.h5'): read_patch(path, fuzz.SIDE)


def test_mutated_blocks_of_lzf(tmp_path):
    "A chain of runs and copies whose links were changed gives bytes or a `ValueError`, and never many more bytes than there is room for"
    fuzz.seeds(tmp_path)
    path, rng, outcomes = tmp_path/'lzf-earliest.h5', np.random.default_rng(0), Counter()
    with h5py.File(path) as f:
        room = prod(f['img'].chunks)*f['img'].dtype.itemsize
        packed = [f['img'].id.read_direct_chunk(o.chunk_offset)[1] for o in stored(f)]
        whole = [f['img'][tuple(slice(i, i + b) for i, b in zip(o.chunk_offset, fuzz.CHUNK['chunks']))].tobytes() for o in stored(f)]
    assert [unlzf(o, room) for o in packed] == whole
    for n in range(FILES):
        raw = bytearray(packed[n % len(packed)])
        for at in rng.integers(len(raw), size=rng.integers(1, 4)): raw[at] = rng.choice([0, 31, 32, 224, 255, rng.integers(256)])
        if n % 3 == 0: del raw[rng.integers(len(raw)):]
        if n % 5 == 0: raw *= 9
        try: size = len(unlzf(bytes(raw), room))
        except ValueError: outcomes['refused'] += 1
        else:
            outcomes['more' if size > room else 'less' if size < room else 'room'] += 1
            assert size <= room + 264
    assert min(outcomes[o] for o in ('refused', 'more', 'less', 'room')) > FILES // 50, outcomes


@pytest.mark.soak
def test_many_mutated_files(tmp_path):
    counts, wrong = fuzz.fuzz(tmp_path, range(FILES, FILES + SOAK))
    print(counts)
    assert wrong == {} and sum(counts.values()) == SOAK


@pytest.mark.soak
def test_every_word_of_every_kind(tmp_path):
    raws = fuzz.seeds(tmp_path)
    counts, wrong = fuzz.fuzz(tmp_path, fuzz.sweep(raws, range(len(raws)), (0, 1, 3, 255, 2**16, 2**31, 2**32 - 1)))
    print(counts)
    assert wrong == {}


def test_the_seeds_are_whole(tmp_path):
    fuzz.seeds(tmp_path)
    for p in tmp_path.iterdir():
        with h5py.File(p) as f:
            assert (read_mask(p, fuzz.SIDE) == f['mask'][()]).all() and f['mask'][()].sum() > 9
            assert (read_patch(p, fuzz.SIDE) == f['img'][()].astype('f4').transpose(2, 0, 1)).all()
            if f['img'].compression: assert all(o.filter_mask == 0 for o in stored(f)), 'not packed'


@pytest.mark.parametrize('way', ['hangs', 'dies', 'MemoryError', 'wrong'])
def test_the_watch_sees_what_must_not_happen(way, tmp_path, monkeypatch):
    "A reader that hangs, dies, takes all memory or returns nonsense at one file is caught there, and the files after it are still read"
    monkeypatch.setenv('FUZZ_BREAK', f'{way} 5')
    counts, wrong = fuzz.fuzz(tmp_path, range(9), limit=6.)
    assert list(wrong) == [5] and way in wrong[5].replace('AssertionError', 'wrong') and sum(counts.values()) == 9
