__version__: str

from .audio.io import Audio as Audio
from .audio.io import read as read
from .audio.io import write as write
from .audio.spec import AudioSpec as AudioSpec
from .controls import *
from .controls.curves import Curve as Curve
from .edit.edits import inpaint as inpaint
from .edit.edits import outpaint as outpaint
from .edit.loops import loop as loop
from .edit.loops import loop_recording as loop_recording
from .edit.song import song as song
from .edit.variations import invert as invert
from .edit.variations import vary as vary
from .errors import DittoError as DittoError
from .fleet.batch import batch as batch
from .latents import Latent as Latent
from .methods import *
from .models.conditioning import Tags as Tags
from .models.hub import adapt as adapt
from .models.hub import load as load
from .models.model import MusicModel as MusicModel
from .optimize import Step as Step
from .repeat import again as again
from .request import Request as Request
from .result import Result as Result
from .runner import Run as Run
from .runner import generate as generate
from .runner import run as run
from .runner import steps as steps
