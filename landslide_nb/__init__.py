"""Landslide segmentation that adapts to unseen regions by self-training, in notebooks

Modules:

- `landslide_nb.app.commands`: Thin commands over the library
- `landslide_nb.app.options`: A library function becomes a command: options from its parameters, ranges, devices, one line for a mistake
- `landslide_nb.app.report`: The paper's Table 2 and Figure 2 of a run, and the whole method on a synthetic world in a few minutes
- `landslide_nb.core.base`: Errors that name a file, atomic writes, progress bars, mixed precision
- `landslide_nb.data.bands`: Bands as data: names, wavelengths, units and means; how patches are scaled, checked and shown
- `landslide_nb.data.block`: `BandBlock` and `MaskBlock` for fastai's `DataBlock`: reading, showing and augmenting patches of any bands with their masks
- `landslide_nb.data.check`: What is wrong with each file of a data set, before a run reaches the first
- `landslide_nb.data.files`: Files of patches and masks: checked before they are read, written as a whole or not at all; and the layouts of folders that hold them
- `landslide_nb.data.loader`: One class of loader for patches in files, in a store or in an array; fastai's DataLoaders over any of them
- `landslide_nb.data.store`: A split as one array, in memory, on disk or on a GPU; and the packed store, one memory-mapped array a split
- `landslide_nb.data.synth`: Patches and scenes of synthetic mountains with a known mask, in the benchmark's layout and units
- `landslide_nb.data.terrain`: Mountains that water has cut, their illumination, and what lies on them: landslides, roads, fields
- `landslide_nb.look.charts`: Risk-coverage, calibration, histograms and training curves; pseudo labels and mixed-up batches as figures
- `landslide_nb.look.explore`: A function that draws a state, the values that may change in it, and ipywidgets where a kernel can answer them
- `landslide_nb.look.explorers`: Patches with their spectra and predictions; pseudo labels, CRF, threshold and adaptation with sliders
- `landslide_nb.look.images`: Bands, composites, uncertainty, and the panel of the paper
- `landslide_nb.model.dropout`: A dropout site after the first convolution, and passes through it: mean logits, variance, a map of where the model is unsure
- `landslide_nb.model.files`: A model as a folder of safetensors and JSON; nothing is unpickled
- `landslide_nb.model.losses`: Cross entropy plus Jaccard, with ignored pixels
- `landslide_nb.model.metrics`: Pooled precision, recall, F1 and IoU; calibration and risk-coverage
- `landslide_nb.model.segmenter`: DeepLabV3+ and HRNet on timm backbones, with a stem for any bands, and weights pre-trained on Sentinel-2
- `landslide_nb.model.uncertainty`: The mean of eight symmetries or of several models, and three uncertainties of one model
- `landslide_nb.predict.adapt`: Mean and variance of what a model's batch norms see in a region, and how far to follow them
- `landslide_nb.predict.crf`: Contours that follow the image: a dense CRF on the predicted probabilities
- `landslide_nb.predict.maps`: Probability and uncertainty of patches; mask files, the submission, and scores of folders
- `landslide_nb.predict.meanfield`: The dense CRF in plain torch, for where pydensecrf cannot be built and for GPUs
- `landslide_nb.scene.adapt`: A scene as unlabelled patches, batch-norm adaptation to it, and self-training on it
- `landslide_nb.scene.checked`: A user's corrections of a map's landslides: read, scored, and trained on
- `landslide_nb.scene.cut`: Outlines of landslides over a Sentinel-2 scene become labelled patches, in the contest's layout and units
- `landslide_nb.scene.explore`: A finished map in the browser: layers, polygons with area and uncertainty, and verdicts that are saved
- `landslide_nb.scene.grid`: Where the pixels of a raster are on Earth, how large they are on the ground, and which of them lie in polygons or under a mask
- `landslide_nb.scene.layers`: Finished strips as files, so that a killed run continues; from them Cloud-Optimised GeoTIFFs, polygons with their areas, and a quicklook
- `landslide_nb.scene.map`: From a model and one or several Sentinel-2 scenes to rasters, polygons and a quicklook, in one call
- `landslide_nb.scene.reader`: A scene as a GeoTIFF, a VRT or a folder of band files, read window by window in the units of a model's patches
- `landslide_nb.scene.synthetic`: A scene of the synthetic world as files: thirteen bands, an elevation model and the truth
- `landslide_nb.scene.terrain`: An elevation model on a scene's grid, and its slope in degrees with true ground distances
- `landslide_nb.scene.units`: Which file holds which band, and how its numbers become the units of a model's patches
- `landslide_nb.scene.windows`: A scene in overlapping windows, each through the model, here or on a Dask cluster, and blended without seams
- `landslide_nb.selftrain.bank`: The pseudo labels of all unlabelled patches
- `landslide_nb.selftrain.callback`: Mix-up and the callback that lets a student learn from labelled and pseudo-labelled patches
- `landslide_nb.selftrain.selection`: Which pseudo labels are kept: per class, those the teacher is least uncertain of
- `landslide_nb.train.learner`: From loaders to a trained model in one line, with fastai's methods
- `landslide_nb.train.loop`: Optimiser, schedule, metrics log, and checkpoints from which a killed training continues
- `landslide_nb.train.processes`: Several processes train one model, each on its share of every batch
- `landslide_nb.train.radiometry`: Illumination, atmosphere, sensor and terrain of training patches
- `landslide_nb.train.recipe`: Stages as data: which model learns from what, with which teacher, for how long
- `landslide_nb.train.run`: One stage trained, and the stages of a recipe in a folder from which a killed run continues"""

from importlib.metadata import version

__version__ = version(__name__)
