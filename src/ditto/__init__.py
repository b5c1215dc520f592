"""Ditto: control a music diffusion model at inference time by optimising only its initial noise.

>>> import ditto
>>> model = ditto.load()
>>> clip = ditto.generate(model, ditto.Intensity("crescendo"), tags="genre=jazz tempo=110", seed=7)
>>> paths = clip.save("out.wav")

The public names are listed in ``__init__.pyi`` and imported on first use, so that ``ditto-music
--help`` and the shell's completion need not wait for PyTorch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
