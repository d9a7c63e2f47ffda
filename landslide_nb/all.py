"Everything that a person types in a notebook: `from landslide_nb.all import *`"
import warnings

with warnings.catch_warnings():
    warnings.filterwarnings('ignore', message='.*torch.jit.script.*') # fastai's layers call it on import
    from fastai.basics import *
    from fastai.callback.all import *

from .core.base import *
from .data.bands import *
from .data.files import *
from .data.block import *
from .data.store import *
from .data.check import *
from .data.terrain import *
from .data.synth import *
from .data.loader import *
from .model.dropout import *
from .model.losses import *
from .model.metrics import *
from .model.segmenter import *
from .model.files import *
from .model.uncertainty import *
from .predict.maps import *
from .predict.meanfield import *
from .predict.crf import *
from .predict.adapt import *
from .predict.indomain import *
from .selftrain.selection import *
from .selftrain.bank import *
from .selftrain.callback import *
from .look.images import *
from .look.charts import *
from .look.explore import *
from .look.explorers import *
from .train.radiometry import *
from .train.recipe import *
from .train.loop import *
from .train.processes import *
from .train.learner import *
from .train.run import *
from .scene.grid import *
from .scene.terrain import *
from .scene.synthetic import *
from .scene.reader import *
from .scene.windows import *
from .scene.layers import *
from .scene.map import *
from .scene.adapt import *
from .scene.cut import *
from .scene.checked import *
from .scene.explore import *
from .app.report import *
