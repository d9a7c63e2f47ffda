"""The README's picture, nbs/images/map.jpg: a synthetic scene of a region without labels, its map, and its map after adapting; some minutes.

The scene is `landslide-synth SCENE --scene 400 --seed 1`; the model is small, trained on labelled patches of the other region alone."""
import tempfile
from pathlib import Path

from landslide_nb.all import *

import matplotlib.pyplot as plt
import rasterio

OUT = Path(__file__).resolve().parents[1]/'nbs/images/map.jpg'


def read(path):
    with rasterio.open(path) as src: return src.read(1)


def panel(ax, image, truth, title, mask=None):
    "The scene with the true landslides outlined, and what a map says painted red"
    ax.imshow(image if mask is None else np.where(mask[..., None] == 1, [.9, .1, .1], .35 + .5 * image), interpolation='nearest')
    ax.contour(truth, [.5], colors='yellow' if mask is None else 'black', linewidths=.9)
    ax.set_title(title, fontsize=11)
    ax.axis('off')


def main(tmp):
    write_world(tmp/'world', train=96, valid=1, test=1, progress=False)
    data = dict(train=read_split(tmp/'world', 'train', progress=False))
    stage = Stage('model', iters=300, lr=.02, every=300, backbone='resnet10t', bs=8, size=128)
    train_stage(stage=stage, data=data, models={}, out=tmp/'model', progress=False)
    write_scene(tmp/'scene', 400, seed=1)
    scene, truth = Scene(tmp/'scene/scene.tif', tmp/'scene/dem.tif'), read(tmp/'scene/truth.tif')
    image = np.asarray(scene.preview(400)[0], float)
    image = image / 255 if image.max() > 1 else image
    fig, axs = plt.subplots(1, 3, figsize=(12, 4.2), layout='constrained')
    panel(axs[0], image, truth, 'An unseen scene; its true landslides outlined')
    for ax, name, adapt in zip(axs[1:], ('A model of another region', 'The same model, adapted, no label used'), (False, True)):
        map_scene(tmp/'model', scene, tmp/name, adapt=adapt, progress=False)
        mask = read(tmp/name/'mask.tif')
        panel(ax, image, truth, f"{name}: F1 {100 * score_masks([mask], [truth])['f1']:.0f}", mask)
    fig.savefig(OUT, dpi=110, pil_kwargs=dict(quality=82, optimize=True))


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as tmp: main(Path(tmp))
