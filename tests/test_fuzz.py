"Files whose bytes were changed at random: a fault in one line or a correct read, never a hang, a dead process or gigabytes of memory."
import os

import pytest

import fuzz
from landslide_nb.data import PatchError, read_mask, read_patch

FILES = 4000
SOAK = int(os.environ.get('FUZZ_FILES', 200_000))


def test_mutated_files(tmp_path):
    counts, wrong = fuzz.fuzz(tmp_path, range(FILES))
    assert wrong == {} and sum(counts.values()) == FILES
    assert counts['read'] > FILES // 10 and counts['refused'] > FILES // 3, f'the mutations are too weak or too strong: {counts}'


@pytest.mark.soak
def test_many_mutated_files(tmp_path):
    counts, wrong = fuzz.fuzz(tmp_path, range(FILES, FILES + SOAK))
    print(counts)
    assert wrong == {} and sum(counts.values()) == SOAK


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
