"""How long Hypothesis looks for a counterexample: the suite's seconds, or as long as asked for.

``pytest --thorough tests/test_property_*.py tests/test_mutation_*.py`` tries two thousand examples
a test, other ones every time; with Hypothesis' own ``--hypothesis-seed`` the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, configuration, settings

Test = TypeVar("Test", bound=Callable[..., Any])

# Hypothesis keeps tables of its own beside the examples; none are to be left in the checkout.
configuration.set_hypothesis_home_dir(tempfile.gettempdir())

settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=20,
    print_blob=False,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    # A backend is the same for every example of a test.
    suppress_health_check=(HealthCheck.function_scoped_fixture, HealthCheck.too_slow),
)
settings.register_profile(
    "thorough", settings.get_profile("suite"), derandomize=False, max_examples=2000
)
settings.load_profile("suite")


def search_thoroughly() -> None:
    """Loads the other profile, before any test is imported."""
    settings.load_profile("thorough")


def more_examples(test: Test) -> Test:
    """Twice as many, for a test whose examples take next to no time."""
    decorated: Test = settings(max_examples=2 * settings().max_examples)(test)
    return decorated
