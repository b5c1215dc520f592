"""What keeps a clip that follows a control the music that its tags ask for.

A curve or a tune is followed as well by other music than the tags ask for, and the optimiser takes
what is nearest. CLAP hears how far a clip has gone from its tags, and its gradient takes it back.
"""

from collections.abc import Sequence

from ditto.controls.base import Control, Sum
from ditto.controls.per_item import PerItem
from ditto.controls.text import Text
from ditto.models.conditioning import Tags
from ditto.models.model import MusicModel


def held_to_tags(
    control: Control, tags: Sequence[Tags], weight: float, model: MusicModel
) -> Control:
    """Return a control with a pull towards tags: its loss plus λ·`Text.loss` of their caption.

    The loss is in [0, 2] and ends where a text's does, at 0.75 of the embedded CLAP's cosine. Tags
    with neither genre nor mood say too little, and a pipeline's prompt has words that the embedded
    CLAP does not know; where x_0 is no mel, CLAP would need every iteration's sound. The control
    is then returned as it is.

    Args:
        control: what is followed.
        tags: of every item, or one for all.
        weight: λ.
        model: makes the clips.
    """
    if not model.has_mel:
        return control
    if len(set(tags)) > 1:
        each = enumerate(tags)
        return PerItem([held_to_tags(control.for_item(i), (t,), weight, model) for i, t in each])
    if not tags or tags[0].prompt is not None or not (tags[0].genre or tags[0].mood):
        return control
    pull = Text(tags[0].caption())
    pull.clap.to(model.device)
    # A sum of n terms is divided by n; the control's own loss is to stay what it is.
    terms = control.terms()
    shares = tuple((term, own * (len(terms) + 1) / len(terms)) for term, own in terms)
    return Sum((*shares, (pull, weight * (len(terms) + 1))))
