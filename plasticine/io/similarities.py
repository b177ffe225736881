"""What a registration compares by, as it is written on a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from plasticine.registration.similarity import Similarity

_FORM = re.compile(r"(?P<metric>[a-z_]+)(@(?P<pair>\d+))?(=(?P<weight>[^@=]+))?")


def read_similarities(texts: Sequence[str], pairs: int) -> tuple[Similarity, ...]:
    """Reads metrics such as "lncc", "mind=0.5" (its weight) and "mind@2=0.5" (of the second pair).

    Args:
        texts: A metric each; without @ it compares all pairs of images, without = it weighs 1.
        pairs: How many pairs of images there are.

    Returns:
        One for each.

    Raises:
        ValueError: A text is of another form, or names a metric or a pair that there is not.
    """
    found = []
    for text in texts:
        parts = _FORM.fullmatch(text)
        if parts is None:
            raise ValueError(
                f"metric: expected METRIC, METRIC=WEIGHT, METRIC@PAIR or METRIC@PAIR=WEIGHT, such "
                f"as mind@2=0.5; got {text!r}"
            )
        pair = int(parts["pair"] or 1)
        if not 1 <= pair <= pairs:
            raise ValueError(f"metric: {text!r} is of pair {pair}, there are {pairs} of images")
        channels = range(pair - 1, pair) if parts["pair"] else None
        try:
            weight = float(parts["weight"] or 1)
        except ValueError:
            raise ValueError(f"metric: the weight of {text!r} is no number") from None
        found.append(Similarity(parts["metric"], weight=weight, channels=channels))
    return tuple(found)
