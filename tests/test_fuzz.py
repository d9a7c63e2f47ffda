"""Files whose bytes were changed at random: a fault in one line, a correct read, or the end of the process that reads, which `landslide-check`
outlives; never a hang, another error or gigabytes of memory."""
import os
import platform
import struct
import sys
import zlib
from collections import Counter

import h5py
import numpy as np
import pytest

import fuzz
from landslide_nb.core.base import PatchError
from landslide_nb.data.check import Reader
from landslide_nb.data.files import read_mask, read_patch

FILES = 4000
SOAK = int(os.environ.get('FUZZ_FILES', 200_000))


def outlived(raws, numbers):
    "A count of what came of mutated files; each that cannot be read is named by the reader of `landslide-check`, which goes on"
    res = fuzz.fuzz(raws, numbers)
    assert len(res) == len(numbers) and {n: o for n, o in res.items() if o not in fuzz.GOOD} == {}
    assert fuzz.unnamed(raws, {n: o for n, o in res.items() if o != 'read read'}) == {}
    return Counter(res.values())


def test_mutated_files(tmp_path):
    counts = outlived(fuzz.seeds(tmp_path), range(FILES))
    assert counts['read read'] > FILES // 10 and counts['refused refused'] > FILES // 3, f'the mutations are too weak or too strong: {counts}'


@pytest.mark.parametrize('kind', ['gzip-earliest', 'gzip-latest', 'lzf-earliest', 'contiguous-earliest'])
def test_every_word_of_the_structure(kind, tmp_path):
    raws = fuzz.seeds(tmp_path)
    names = [f'{k}-{v}' for v in ('earliest', 'latest') for k in fuzz.KINDS]
    files = fuzz.sweep(raws, [names.index(kind)])
    assert outlived(raws, files).total() > 500


def packed(path, raw):
    "A patch of which the only block should hold 100 MB, and holds these bytes"
    with h5py.File(path, 'w') as f:
        d = f.create_dataset('img', (fuzz.SIDE, fuzz.SIDE, 14), 'f8', chunks=(fuzz.SIDE, 58_000, 14), maxshape=(None,)*3, compression='gzip')
        d.id.write_direct_chunk((0, 0, 0), raw)
        f['mask'] = np.zeros((fuzz.SIDE,)*2, np.uint8)
    return path


def test_files_that_end_their_reader(tmp_path):
    "A valid stream that is too short for its block passes every check of what is declared; so do some of its mutations"
    raw = packed(tmp_path/'image_1.h5', zlib.compress(bytes(64)) + bytes(10**5)).read_bytes()
    assert outlived([raw], [(0, 0, 0x46444889)]) == {'dies': 1}, 'a file that nothing was changed in'
    counts = outlived([raw], range(40))
    assert counts['dies'] > 5 and counts['refused refused'] > 5


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='new memory is filled by glibc only')
@pytest.mark.parametrize('dtype', ['f2', 'f4', 'f8'])
def test_a_block_of_lzf_that_ends_too_early(dtype, tmp_path):
    "h5py goes on with what its memory holds; the reader of `landslide-check` has filled that with what no patch holds, however much it has read"
    fuzz.seeds(tmp_path)
    with h5py.File(tmp_path/'short.h5', 'w') as f:
        d = f.create_dataset('img', (fuzz.SIDE, fuzz.SIDE, 14), dtype, chunks=(fuzz.SIDE, fuzz.SIDE, 14), compression='lzf')
        d.id.write_direct_chunk((0, 0, 0), b'\x1f' + bytes(32))
    with Reader(size=fuzz.SIDE) as read:
        for p in sorted(tmp_path.glob('lzf*.h5'))*3:
            assert read(p, True)[0] == []
            assert 'not finite' in (fault := read(tmp_path/'short.h5', True)[0][0].fault) or 'no band' in fault


def bomb(size):
    "A stream of that many zeros, packed as well as gzip can"
    z, n = zlib.compressobj(), size // 2**24
    piece = z.compress(bytes(2**24)) + z.flush(zlib.Z_FULL_FLUSH)
    return piece[:2] + piece[2:]*n + b'\3\0' + struct.pack('>I', n * 2**24 % 65521 << 16 | 1)


@pytest.mark.skipif(sys.platform != 'linux', reason='the memory of a process is limited on Linux only')
def test_a_block_that_unpacks_to_more_than_there_is_room_for(tmp_path):
    "The reader may take a gigabyte; a file that needs more is a fault, and one that needs less is no worse for it"
    with Reader(size=fuzz.SIDE) as read:
        small, large = (packed(tmp_path/f'{o}.h5', bomb(o * 2**24)) for o in (8, 256))
        assert [e.fault for e in read(small, True)[0]] == ['constant: band B1 B2 B3 B4 B5 B6 B7 B8 B9 B10 B11 B12 slope dem']
        first = read.process.pid
        assert 'damaged' in read(large, True)[0][0].fault and read.process.pid == first


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
    "The first of these ends a process that reads it with HDF5 2.0, where its size is not looked at before"
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
    print(outlived(fuzz.seeds(tmp_path), range(FILES, FILES + SOAK)))


@pytest.mark.soak
def test_every_word_of_every_kind(tmp_path):
    raws = fuzz.seeds(tmp_path)
    print(outlived(raws, fuzz.sweep(raws, range(len(raws)), (0, 1, 3, 255, 2**16, 2**31, 2**32 - 1))))


def test_the_seeds_are_whole(tmp_path):
    fuzz.seeds(tmp_path)
    for p in tmp_path.iterdir():
        with h5py.File(p) as f:
            assert (read_mask(p, fuzz.SIDE) == f['mask'][()]).all() and f['mask'][()].sum() > 9
            assert (read_patch(p, fuzz.SIDE) == f['img'][()].astype('f4').transpose(2, 0, 1)).all()
            if f['img'].compression: assert all(o.filter_mask == 0 for o in stored(f)), 'not packed'


@pytest.mark.parametrize('way', ['hangs', 'dies', 'ends', 'MemoryError', 'wrong'])
def test_the_watch_sees_what_must_not_happen(way, tmp_path, monkeypatch):
    "A reader that hangs, dies, takes all memory or returns nonsense at one file is caught there, and the files after it are still read"
    monkeypatch.setenv('FUZZ_BREAK', f'{way} 5')
    res = fuzz.fuzz(fuzz.seeds(tmp_path), range(9), limit=6.)
    odd = {n: o for n, o in res.items() if ' ' not in o or o.startswith(('ends', 'Memory', 'Assert'))}
    assert list(res) == list(range(9)) and list(odd) == [5] and way in odd[5].replace('AssertionError', 'wrong')
    assert (odd[5] in fuzz.GOOD) == (way == 'dies')


def test_a_file_that_is_not_named_is_found(tmp_path):
    "What `unnamed` is for: a whole file of which it is said that it cannot be read, or that it ends its reader"
    raws = fuzz.seeds(tmp_path)
    whole = [(k, 0, 0x46444889) for k in range(3)]
    assert list(fuzz.unnamed(raws, dict(zip(whole, ('read read', 'refused read', 'dies'))))) == whole[1:]
