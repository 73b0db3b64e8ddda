"""Numbers in words."""

import numpy as np
import pytest

from kdlib.evidence.stats import Interval
from kdlib.evidence.words import number, told


@pytest.mark.parametrize("value", [0.0, -0.0, -0.0149, 0.04, -0.049, np.float64(-0.015)])
def test_what_rounds_to_zero_has_no_sign(value):
    """Neither that of the other side of zero nor its own: an interval from −0.01 on holds zero."""
    assert number(value) == "0.0 points"
    assert number(value - 1, "") == f"−{1 - value:.1f}" and number(value + 1, "")[0] == "+"


def test_an_interval_that_reaches_just_below_zero_does_not_begin_above_it():
    made = Interval(1.516, -0.015, 3.047, se=0.7, df=10, n=2, per_seed=(1.3, 1.7))
    assert told(made) == "+1.5 points (95 % interval 0.0 to +3.0)"
