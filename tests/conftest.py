"""Figures are drawn off screen, in this process and in the commands it starts."""
import os

os.environ['MPLBACKEND'] = 'Agg'
