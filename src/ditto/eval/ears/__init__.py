"""Ears that know nothing of Ditto: networks of other people, trained on recordings.

Nothing here is trained, optimised or chosen against; they are for judging only, and the product
never needs them. The extra ``ditto-music[ears]`` brings onnxruntime and SwiftF0; musicnn and
basic-pitch are installed with ``--no-deps``, because only the weights within their wheels are read,
and their packages (which ask for old versions of TensorFlow) are never imported.

- **musicnn** 0.1.0 (Pons & Serra 2019; code and weights ISC): MSD_musicnn and MTT_musicnn, genre
  and mood tags and embeddings of the Million Song Dataset and MagnaTagATune. See `musicnn`.
- **basic-pitch** 0.4.0 (Bittner et al. 2022, Spotify; code and weights Apache-2.0): notes of
  polyphonic music. See `basic_pitch`.
- **SwiftF0** 0.3.0 (Nieradzik 2025; code and weights MIT): pitch of the leading voice. See
  `swift_f0`.

Measures on them: `genre` (a linear probe), `distance` (Fréchet distance in whitened directions),
`tune`. Two more have no weights: `tempo` (librosa's estimator, ISC) and `ditto.audio.sharpness`.
`hear` gives what the music table needs of a batch of clips.
"""

from ditto.eval.ears.hearing import Ears, hear, load_ears

__all__ = ["Ears", "hear", "load_ears"]
