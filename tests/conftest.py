"""Figures are drawn off screen, in this process and in the commands it starts; property tests try the same inputs every time."""
import os

from hypothesis import settings

os.environ['MPLBACKEND'] = 'Agg'
settings.register_profile('same', derandomize=True, deadline=None, database=None, max_examples=60)
settings.register_profile('long', deadline=None, database=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'same'))
