"Files whose bytes were changed at random: a fault in one line or a correct read, never a hang, a dead process or gigabytes of memory."
import os
import struct

import h5py
import pytest

import fuzz
from landslide_nb.core.errors import PatchError
from landslide_nb.data.hdf5 import read_mask, read_patch

FILES = 4000
SOAK = int(os.environ.get('FUZZ_FILES', 200_000))


def test_mutated_files(tmp_path):
    counts, wrong = fuzz.fuzz(tmp_path, range(FILES))
    assert wrong == {} and sum(counts.values()) == FILES
    assert counts['read'] > FILES // 10 and counts['refused'] > FILES // 3, f'the mutations are too weak or too strong: {counts}'


@pytest.mark.parametrize('kind', ['gzip-earliest', 'gzip-latest', 'contiguous-earliest'])
def test_every_word_of_the_structure(kind, tmp_path):
    raws = fuzz.seeds(tmp_path)
    names = [f'{k}-{v}' for v in ('earliest', 'latest') for k in fuzz.KINDS]
    files = fuzz.sweep(raws, [names.index(kind)])
    counts, wrong = fuzz.fuzz(tmp_path, files)
    assert wrong == {} and sum(counts.values()) == len(files) > 500


def blocks(path):
    "Where a file in HDF5's first format says what its blocks are: position of the record, size, offset"
    raw, found = path.read_bytes(), []
    with h5py.File(path) as f: f['img'].id.chunk_iter(found.append)
    record = lambda o: struct.pack('<II4Q', o.size, 0, *o.chunk_offset, 0)
    assert len(found) == 4 and all(raw.count(record(o)) == 1 for o in found)
    return [(raw.index(record(o)), o) for o in found]


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
        assert read_mask(p, fuzz.SIDE).sum() > 9
        if 'lzf' in p.name:
            with pytest.raises(PatchError, match='lzf'): read_patch(p, fuzz.SIDE)
        else: assert read_patch(p, fuzz.SIDE).shape == (14, fuzz.SIDE, fuzz.SIDE)


@pytest.mark.parametrize('way', ['hangs', 'dies', 'MemoryError', 'wrong'])
def test_the_watch_sees_what_must_not_happen(way, tmp_path, monkeypatch):
    "A reader that hangs, dies, takes all memory or returns nonsense at one file is caught there, and the files after it are still read"
    monkeypatch.setenv('FUZZ_BREAK', f'{way} 5')
    counts, wrong = fuzz.fuzz(tmp_path, range(9), limit=6.)
    assert list(wrong) == [5] and way in wrong[5].replace('AssertionError', 'wrong') and sum(counts.values()) == 9
